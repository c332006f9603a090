//! The run plan: everything a container needs to run, decided once, as plain data.
//! It does no I/O and knows no other crate of the workspace; `oci` is the only maker of a [`RunPlan`].

#![forbid(unsafe_code)]

mod cache;
mod exit;
mod hooks;
mod http;
mod isolation;
mod limits;
mod linux;
mod mounts;
mod network;
mod report;
mod seccomp;
mod source;

use serde::{Deserialize, Serialize};
use std::path::PathBuf;

pub use cache::{CacheSettings, CompileBounds};
pub use exit::{ExitStatus, FORBIDDEN_CALL, Size, Termination};
pub use hooks::{Hook, HookState, Hooks};
pub use http::{Http, Listen};
pub use isolation::{
    CgroupPath, IdMappings, IdRange, Isolation, Namespace, NamespaceKind, Rlimit, User, UserNamespace, mapped,
};
pub use limits::{Bound, Cpu, Io, Limits, Memory, Throttle, ThrottleKind};
pub use linux::{LinuxPlan, Numbering};
pub use mounts::{Mount, MountFlags, MountSource, RootAccess};
pub use network::{HostRule, NetworkAccess, NetworkRule, Protocol};
pub use report::{Calls, Failure, Report, one_line, printable, printable_line};
pub use seccomp::{SeccompAction, SeccompCondition, SeccompFlag, SeccompProfile, SeccompRule, SeccompTest};
pub use source::{Digest, DigestError, FileIdentity, Origin, Program, Source};

/// What one container runs, with which rights, within which bounds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunPlan {
    /// The container id, as containerd gave it.
    pub id: String,
    /// What to run.
    pub program: Program,
    /// Arguments, environment and working directory of the guest.
    pub invocation: Invocation,
    /// Whether its standard streams are a terminal, which is to control its session.
    pub terminal: bool,
    /// How the guest sees the root filesystem.
    pub root: RootAccess,
    /// Mounts to make, in the order of the OCI spec. Each directory becomes a preopen of its own.
    pub mounts: Vec<Mount>,
    /// Bounds on what the container may use.
    pub limits: Limits,
    /// What separates the container process from the node.
    pub isolation: Isolation,
    /// What the guest may reach over the network.
    pub network: NetworkAccess,
    /// How it is served, if it is of the http world.
    pub http: Http,
    /// Programs of the node that run beside it.
    pub hooks: Hooks,
    /// The file on the node that receives the failure message (`terminationMessagePath`), if the pod has one.
    pub termination_file: Option<PathBuf>,
}

/// The OCI spec's `process.args`, `process.env` and `process.cwd`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Invocation {
    /// The guest's arguments; the first is the program's own name.
    pub args: Vec<String>,
    /// Environment, in the order of the spec; a later entry of the same name wins.
    pub env: Vec<(String, String)>,
    /// Absolute working directory inside the container.
    pub cwd: String,
}
