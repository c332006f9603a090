//! Turns a bundle, its image and its settings into a [`plan::RunPlan`]; the only maker of one.
//! Reads only: it never mounts or changes anything; what containerd streams goes to a file without a name. It must not
//! know Wasmtime, nor the task protocol.
//!
//! [`lower`] reads the spec (`bundle`), refuses what is not built (`unbuilt`), looks at what `args[0]` names (`source`) and
//! leaves a Linux program to runc. Else it gathers the settings (`settings`), lowers the spec (`lowering`) and finds the
//! wasm (`source`: a file, or `image`: a layer).

#![forbid(unsafe_code)]

mod bundle;
mod exec;
mod image;
mod lowering;
mod settings;
mod source;
mod unbuilt;
mod update;
mod wasm;

use bundle::Role;
use plan::{CacheSettings, Invocation, LinuxPlan, Program, RunPlan, Source};
use source::AtArgument;
use std::path::{Path, PathBuf};

pub use bundle::{Error as BundleError, group_of};
pub use exec::{Error as ExecError, ProcessSpec, lower_exec, process};
pub use image::{ContainerdError, Error as ImageError, StoreError};
pub use lowering::{
    Error as LoweringError, HookError, InvocationError, IsolationError, LimitError, MountError, SeccompError,
    SysctlError, UserNamespaceError,
};
pub use oci_spec::runtime::{LinuxResources, Process};
pub use settings::{AnnotationError, Error as SettingsError, KeyError, OperatorError, OptionsError, TomlError};
pub use source::{Error as SourceError, RootfsError};
pub use unbuilt::Error as UnbuiltError;
pub use update::{Error as UpdateError, Update, resources, update};
pub use wasm::{Error as WasmError, Wasm};

/// The runtime of Linux containers, where the options name no other.
const RUNC: &str = "runc";

/// Where containerd answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Containerd {
    /// Its gRPC socket.
    pub address: PathBuf,
    /// The namespace of the container.
    pub namespace: String,
}

/// A mount of `CreateTaskRequest.rootfs`. They are made already; here they tell what an overlay consists of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RootfsMount {
    /// `overlay`, `bind`, …
    pub kind: String,
    /// What is mounted.
    pub source: String,
    /// As for mount(8).
    pub options: Vec<String>,
}

/// `CreateTaskRequest.options`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuntimeOptions {
    /// The message's type.
    pub type_url: String,
    /// The message, in protobuf.
    pub value: Vec<u8>,
}

/// What containerd asks to create.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// The container's id.
    pub id: &'a str,
    /// The bundle's directory, absolute.
    pub bundle: &'a Path,
    /// The root filesystem, mounted already.
    pub rootfs: &'a Path,
    /// What it was mounted from.
    pub rootfs_mounts: &'a [RootfsMount],
    /// The runtime's options, if containerd sends any.
    pub options: Option<&'a RuntimeOptions>,
    /// Whom to ask for the image, if no file is the wasm.
    pub containerd: &'a Containerd,
}

/// What a request comes to.
#[derive(Debug)]
pub enum Lowered {
    /// A process of the shim's own runs it.
    Own(Box<Own>),
    /// The node's runc runs it.
    Linux(LinuxPlan),
}

/// What a process of the shim's own is to run.
#[derive(Debug)]
pub struct Own {
    /// The plan.
    pub plan: RunPlan,
    /// The wasm, unless the container is a sandbox.
    pub guest: Option<Guest>,
    /// One line each: what the spec has and the container will not, for the log.
    pub warnings: Vec<String>,
}

/// The wasm of a plan.
#[derive(Debug)]
pub struct Guest {
    /// Its bytes.
    pub wasm: Wasm,
    /// The node's cache of compiled code.
    pub cache: CacheSettings,
}

/// Why a request cannot be planned. Printed with its sources, each after `: `, it is one line for the user.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Reading the spec.
    #[error(transparent)]
    Bundle(#[from] BundleError),
    /// Something that is not built yet.
    #[error(transparent)]
    Unbuilt(#[from] UnbuiltError),
    /// Options, operator file, annotations.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// A part of the spec.
    #[error(transparent)]
    Lowering(#[from] LoweringError),
    /// Finding the wasm.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// Opening the wasm.
    #[error(transparent)]
    Wasm(#[from] WasmError),
}

/// Plans a container.
///
/// Runs on the caller's thread: small files are read in place, and containerd is asked only where no file of the root
/// filesystem is the wasm.
pub async fn lower(request: Request<'_>) -> Result<Lowered, Error> {
    let bundle = bundle::load(request.bundle)?;
    unbuilt::refuse(&bundle)?;
    let invocation = lowering::lower_invocation(&bundle.process)?;
    let (namespace, id) = (&request.containerd.namespace, request.id);
    let at_argument = match bundle.role() {
        Role::Sandbox => AtArgument::Nothing,
        Role::Container => source::look(&request, &invocation, bundle.spec.mounts().as_deref().unwrap_or_default())?,
    };
    if let AtArgument::Linux = at_argument {
        let named = settings::choose_options(request.options).map_err(SettingsError::from)?.binary_name;
        let runtime = named.unwrap_or_else(|| RUNC.into());
        return Ok(Lowered::Linux(lowering::lower_linux(&bundle, runtime, namespace, id)?));
    }
    let env = bundle.process.env().as_deref().unwrap_or_default();
    let settings = settings::load(request.options, &bundle.annotations, env)?;
    // Before the image is looked at: a mistake in the spec is told without a word with containerd.
    let parts = lowering::lower(&bundle, &settings, namespace, id)?;
    let (program, guest, invocation) = match bundle.role() {
        Role::Sandbox => (Program::Pause, None, invocation),
        Role::Container => {
            let (source, guest, invocation) =
                guest(&request, settings.invoke.as_deref(), settings.cache, invocation, at_argument).await?;
            (Program::Wasm(source), Some(guest), invocation)
        }
    };
    let plan = RunPlan {
        id: id.to_owned(),
        program,
        invocation,
        terminal: bundle.process.terminal().unwrap_or_default(),
        root: parts.root,
        mounts: parts.mounts,
        limits: parts.limits,
        isolation: parts.isolation,
        network: settings.network,
        http: settings.http,
        hooks: parts.hooks,
        termination_file: parts.termination_file,
    };
    let warnings = parts.warnings.iter().map(|warning| plan::printable_line(warning)).collect();
    Ok(Lowered::Own(Box::new(Own { plan, guest, warnings })))
}

/// Finds the wasm of a container, and what it is called where the spec has no arguments.
async fn guest(
    request: &Request<'_>,
    invoke: Option<&str>,
    cache: CacheSettings,
    mut invocation: Invocation,
    at_argument: AtArgument,
) -> Result<(Source, Guest, Invocation), Error> {
    let wanted = source::Wanted {
        argument: invocation.args.first().map(String::as_str),
        invoke,
        max_bytes: cache.compile.wasm_bytes,
    };
    let chosen = source::find(request, &wanted, at_argument).await?;
    if invocation.args.is_empty() {
        invocation.args.extend(chosen.name);
    }
    let guest = Guest { wasm: chosen.wasm, cache };
    Ok((chosen.source, guest, invocation))
}

/// The error with its sources in one line, as the shim prints it.
#[cfg(test)]
fn chain(error: &dyn std::error::Error) -> String {
    let mut line = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        line.push_str(&format!(": {error}"));
        source = error.source();
    }
    line
}

#[cfg(test)]
mod fuzz_tests;
#[cfg(test)]
mod lower_tests;
