//! How containerd tells a shim where it stands, and how the shim answers: two forms, the older by flags and environment
//! (1.6 to 2.2), the newer by `BootstrapParams` on stdin (from 2.3 on).

use crate::args::Args;
use containerd_shim_protos::bootstrap_api::{BootstrapParams, BootstrapResult};
use protobuf::Message;
use std::io::{self, Read, Write};
use std::path::PathBuf;

/// The version of the task service that the newer form promises.
const TASK_VERSION: i32 = 3;
/// The environment variable with the address for events, in the older form.
const TTRPC_ADDRESS: &str = "TTRPC_ADDRESS";
/// More than any runtime options that containerd sends.
const LONGEST_INPUT: u64 = 4 << 20;

/// Where containerd is and what it expects.
#[derive(Debug)]
pub(crate) struct Bootstrap {
    pub(crate) id: String,
    pub(crate) namespace: String,
    /// containerd's gRPC socket.
    pub(crate) grpc: PathBuf,
    /// containerd's ttrpc socket, which takes events.
    pub(crate) ttrpc: PathBuf,
    /// Where containerd wants the shim's socket, if it says so.
    pub(crate) socket_dir: Option<PathBuf>,
    /// The form of the answer.
    pub(crate) reply: Reply,
}

/// The form of the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reply {
    /// The address alone, which every version accepts and takes for task version 2.
    BareAddress,
    /// A `BootstrapResult`.
    Result,
}

/// Why the shim does not know where it stands.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BootstrapError {
    #[error("read the bootstrap parameters from stdin")]
    Read(#[source] io::Error),
    #[error("{0} is not set: this shim needs containerd 1.6 or newer")]
    NoTtrpcAddress(&'static str),
    #[error("write the answer to containerd")]
    Write(#[source] io::Error),
    #[error("encode the answer to containerd")]
    Encode(#[from] protobuf::Error),
}

impl Bootstrap {
    /// Reads what containerd says on the command line, in the environment and on stdin.
    pub(crate) fn read(args: &Args) -> Result<Bootstrap, BootstrapError> {
        let mut input = Vec::new();
        io::stdin().take(LONGEST_INPUT).read_to_end(&mut input).map_err(BootstrapError::Read)?;
        let bootstrap = match parameters(&input, args) {
            Some(parameters) => Bootstrap {
                id: parameters.instance_id,
                namespace: parameters.namespace,
                grpc: path(&parameters.containerd_grpc_address),
                ttrpc: path(&parameters.containerd_ttrpc_address),
                socket_dir: parameters.socket_dir.filter(|dir| !dir.is_empty()).map(PathBuf::from),
                reply: Reply::Result,
            },
            None => Bootstrap {
                id: args.id.clone(),
                namespace: args.namespace.clone(),
                grpc: args.address.clone(),
                ttrpc: path(&std::env::var(TTRPC_ADDRESS).unwrap_or_default()),
                socket_dir: None,
                reply: Reply::BareAddress,
            },
        };
        match bootstrap.ttrpc.as_os_str().is_empty() {
            true => Err(BootstrapError::NoTtrpcAddress(TTRPC_ADDRESS)),
            false => Ok(bootstrap),
        }
    }

    /// Tells containerd the shim's address. Nothing else may ever be printed by `start`.
    pub(crate) fn answer(&self, address: &str) -> Result<(), BootstrapError> {
        let answer = match self.reply {
            Reply::BareAddress => address.as_bytes().to_vec(),
            Reply::Result => {
                let mut result = BootstrapResult::new();
                result.version = TASK_VERSION;
                result.address = address.to_owned();
                result.protocol = "ttrpc".to_owned();
                result.write_to_bytes()?
            }
        };
        let mut stdout = io::stdout().lock();
        stdout.write_all(&answer).and_then(|()| stdout.flush()).map_err(BootstrapError::Write)
    }
}

/// The newer form's parameters. The older form puts runtime options there, a message whose first fields have the same
/// wire type; only the newer one repeats the id and namespace of the command line.
fn parameters(input: &[u8], args: &Args) -> Option<BootstrapParams> {
    let parameters = BootstrapParams::parse_from_bytes(input).ok()?;
    (parameters.instance_id == args.id && parameters.namespace == args.namespace).then_some(parameters)
}

fn path(address: &str) -> PathBuf {
    PathBuf::from(address.strip_prefix("unix://").unwrap_or(address))
}

#[cfg(test)]
mod tests {
    use super::*;
    use containerd_shim_protos::protobuf::well_known_types::any::Any;

    #[test]
    fn runtime_options_are_not_taken_for_bootstrap_parameters() {
        let words = ["-id", "a1", "-namespace", "n", "-address", "/c.sock", "start"];
        let args = Args::parse(words.into_iter().map(str::to_owned)).expect("a good command line");
        let options = Any { type_url: "runtimeoptions.v1.Options".into(), value: b"n".to_vec(), ..Any::default() };
        let options = options.write_to_bytes().expect("an Any encodes");
        assert!(parameters(&options, &args).is_none());
        assert!(parameters(b"", &args).is_none());
        let newer = BootstrapParams { instance_id: "a1".into(), namespace: "n".into(), ..BootstrapParams::default() };
        let newer = newer.write_to_bytes().expect("parameters encode");
        assert!(parameters(&newer, &args).is_some());
    }
}
