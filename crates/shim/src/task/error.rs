//! Why a task did not do what it was asked. The codes that containerd gets are in `wire`.

use super::container::ReleaseError;
use super::create::CreateError;
use super::exec::ExecError;
use super::hooks::HooksError;
use super::limits::LimitError;
use crate::runc::RuncError;
use sandbox::ChannelError;
use sandbox::cgroup::CgroupError;
use std::io;

/// Why a task did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TaskError {
    #[error("no container {0} in this shim")]
    NotFound(String),
    #[error("container {id} has no process {exec}")]
    NoExec { id: String, exec: String },
    #[error("container {id} has a process {exec} already: delete it first")]
    ExecExists { id: String, exec: String },
    #[error("exec in container {id}, which is {state}: it has to run")]
    NotRunning { id: String, state: &'static str },
    #[error(transparent)]
    Exec(#[from] ExecError),
    #[error("container {0} exists already: delete it first")]
    Exists(String),
    #[error("container {0} is still being created: wait for create to answer")]
    BeingCreated(String),
    #[error("{0} has ended")]
    Finished(String),
    #[error("{0} has ended, and the kernel still holds it 10 s after it was killed: a volume may not answer")]
    Ending(String),
    #[error("{process} is {from}, which does not allow to {action}")]
    Move { process: String, from: &'static str, action: &'static str },
    #[error("{0} has no terminal")]
    NoTerminal(String),
    #[error("resize the terminal of {process}")]
    Resize {
        process: String,
        #[source]
        source: io::Error,
    },
    #[error(transparent)]
    Runc(#[from] RuncError),
    #[error(transparent)]
    Create(#[from] CreateError),
    #[error("start container {id}")]
    Start {
        id: String,
        #[source]
        source: ChannelError,
    },
    #[error("send signal {signal} to {process}")]
    Signal {
        signal: u32,
        process: String,
        #[source]
        source: io::Error,
    },
    #[error("{action} container {id}")]
    Cgroup {
        id: String,
        action: &'static str,
        #[source]
        source: CgroupError,
    },
    #[error("start container {id}")]
    Hooks {
        id: String,
        #[source]
        source: Box<HooksError>,
    },
    #[error(transparent)]
    Resources(#[from] oci::UpdateError),
    #[error("change the limits of container {id}")]
    Update {
        id: String,
        #[source]
        source: LimitError,
    },
    #[error("encode the use of resources")]
    Encode(#[from] protobuf::Error),
    #[error("clean up after container {id}")]
    Release {
        id: String,
        #[source]
        source: ReleaseError,
    },
    #[error("the call was cut short by a fault of the shim: see its log")]
    Cancelled,
    #[error("{0} is not built yet")]
    NotBuilt(&'static str),
}
