//! Programs of the node that run beside a container (OCI runtime spec, "POSIX-platform Hooks").

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// The hooks of a container, by the moment of its life, each list in the order of the spec.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hooks {
    /// Before the container has its root, in the shim's namespaces: `prestart`, then `createRuntime`.
    pub create_runtime: Vec<Hook>,
    /// Right after these, in the container's namespaces and with the node's files.
    pub create_container: Vec<Hook>,
    /// Before the guest runs, as the container's user among the container's files.
    pub start_container: Vec<Hook>,
    /// Once the guest runs, in the shim's namespaces.
    pub poststart: Vec<Hook>,
    /// Once all of the container is gone, in the shim's namespaces.
    pub poststop: Vec<Hook>,
    /// What hooks are told of the container besides its id, pid and status.
    pub told: HookState,
}

/// The parts of the state document (OCI runtime spec, "State") that stay the same.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HookState {
    /// Version of the runtime spec.
    pub version: String,
    /// The bundle's directory.
    pub bundle: PathBuf,
    /// The spec's annotations.
    pub annotations: BTreeMap<String, String>,
}

/// One hook.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hook {
    /// The list it is of, as the spec calls it: `createRuntime`.
    pub kind: String,
    /// The program, an absolute path.
    pub path: PathBuf,
    /// Its arguments, with its own name; the path alone if the spec has none.
    pub args: Vec<String>,
    /// All of its environment, `NAME=value`.
    pub env: Vec<String>,
    /// It is killed after this many seconds, if the spec says so.
    pub timeout_s: Option<u64>,
}

impl Hooks {
    /// Whether any of them runs while the container is made.
    pub fn at_creation(&self) -> bool {
        !self.create_runtime.is_empty() || !self.create_container.is_empty()
    }
}
