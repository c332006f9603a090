//! What separates the container process from the node.

use crate::SeccompProfile;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// Namespaces, identity and bounds of the container process.
///
/// Not listed because they are never a choice: `no_new_privs` is set, all capabilities are dropped, our own seccomp
/// filter is installed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Isolation {
    /// Namespaces to make or to join; a kind that is absent is shared with the node. The mount namespace is always
    /// the container's own.
    pub namespaces: Vec<Namespace>,
    /// Host name inside a UTS namespace made for the container.
    pub hostname: Option<String>,
    /// Who the process is.
    pub user: User,
    /// Resource limits of the process.
    pub rlimits: Vec<Rlimit>,
    /// Path below the root of each cgroup hierarchy (cgroupfs form: `/kubepods/burstable/pod…/id`).
    pub cgroup: String,
    /// `oom_score_adj`, -1000 to 1000.
    pub oom_score_adj: Option<i32>,
    /// The spec's own filter of system calls, beside ours.
    pub seccomp: Option<SeccompProfile>,
    /// The AppArmor profile to run under, where the node's kernel has AppArmor.
    pub apparmor: Option<String>,
}

/// A namespace of the container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Namespace {
    /// Which kind.
    pub kind: NamespaceKind,
    /// The namespace to join; a new one is made if absent.
    pub path: Option<PathBuf>,
}

/// The kinds of namespace of the OCI runtime spec that we make or join.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum NamespaceKind {
    /// Cgroup root.
    Cgroup,
    /// System V IPC and POSIX message queues.
    Ipc,
    /// Mounts.
    Mount,
    /// Network.
    Network,
    /// Process ids.
    Pid,
    /// Host and domain name.
    Uts,
}

/// Identity of the container process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    /// User id.
    pub uid: u32,
    /// Primary group id.
    pub gid: u32,
    /// Supplementary group ids.
    pub groups: Vec<u32>,
    /// File mode creation mask, if the spec sets one.
    pub umask: Option<u32>,
}

/// One resource limit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rlimit {
    /// The kernel's name, as in the OCI spec: `RLIMIT_NOFILE`.
    pub resource: String,
    /// Soft limit.
    pub soft: u64,
    /// Hard limit.
    pub hard: u64,
}
