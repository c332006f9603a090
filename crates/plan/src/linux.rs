//! A Linux container of a pod: a program of its image, which the node's runc runs from the same spec.

use crate::CgroupPath;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// What has to be known of a container that runc makes. Everything else runc reads in the spec itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinuxPlan {
    /// The container id, as containerd gave it.
    pub id: String,
    /// The runc to run: its path, or its name in the shim's `PATH`.
    pub runtime: PathBuf,
    /// Its control group, which runc makes.
    pub cgroup: CgroupPath,
    /// The memory limit of the cgroup, bytes.
    pub memory_limit_bytes: Option<u64>,
    /// Where its processes are numbered: with the namespace ends all that is in it.
    pub numbering: Numbering,
}

/// In whose process id namespace a container is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Numbering {
    /// In one of its own, which ends with its first process.
    Own,
    /// In the pod's or the node's.
    Shared,
}
