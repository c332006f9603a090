//! What separates the container process from the node.

use crate::SeccompProfile;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
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
    /// The user namespace; absent where the container's ids are the node's.
    pub user_namespace: Option<UserNamespace>,
    /// Parameters of the kernel that belong to these namespaces: path below `/proc/sys`, and value.
    pub sysctls: BTreeMap<String, String>,
    /// Host name inside a UTS namespace made for the container.
    pub hostname: Option<String>,
    /// Who the process is.
    pub user: User,
    /// Resource limits of the process.
    pub rlimits: Vec<Rlimit>,
    /// Its control group.
    pub cgroup: CgroupPath,
    /// `oom_score_adj`, -1000 to 1000.
    pub oom_score_adj: Option<i32>,
    /// The spec's own filter of system calls, beside ours.
    pub seccomp: Option<SeccompProfile>,
    /// The AppArmor profile to run under, where the node's kernel has AppArmor.
    pub apparmor: Option<String>,
}

/// Where the container's control group is, and who makes it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum CgroupPath {
    /// We do, at this path below the root of each hierarchy: `/kubepods/burstable/pod…/id`.
    Cgroupfs(String),
    /// systemd does, as a transient scope.
    Systemd {
        /// The slice that it is in: `kubepods-burstable-pod….slice`.
        slice: String,
        /// The scope's name: `cri-containerd-….scope`.
        scope: String,
    },
}

impl CgroupPath {
    /// The path below the root of each hierarchy. A slice lies in the slices that its name starts with (systemd.slice(5)).
    pub fn path(&self) -> String {
        let (slice, scope) = match self {
            CgroupPath::Cgroupfs(path) => return path.clone(),
            CgroupPath::Systemd { slice, scope } => (slice, scope),
        };
        let name = slice.strip_suffix(".slice").unwrap_or(slice);
        let mut path = String::new();
        for (end, _) in name.match_indices('-').chain([(name.len(), "")]).filter(|(end, _)| *end > 0) {
            path.push_str(&format!("/{}.slice", &name[..end]));
        }
        // The root slice is the root of the hierarchy.
        let path = if name == "-" { String::new() } else { path };
        format!("{path}/{scope}")
    }
}

/// A namespace of the container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Namespace {
    /// Which kind.
    pub kind: NamespaceKind,
    /// The namespace to join; a new one is made if absent.
    pub path: Option<PathBuf>,
}

/// The user namespace of a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserNamespace {
    /// The namespace to join; a new one is made if absent.
    pub path: Option<PathBuf>,
    /// How ids inside are mapped; empty where a namespace is joined and the spec does not say.
    pub ids: IdMappings,
}

/// How user and group ids of a container are mapped onto the node's.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdMappings {
    /// User ids.
    pub uids: Vec<IdRange>,
    /// Group ids.
    pub gids: Vec<IdRange>,
}

/// A range of ids (user_namespaces(7)).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdRange {
    /// The first id inside.
    pub inside: u32,
    /// The id on the node that it is.
    pub outside: u32,
    /// How many follow each other.
    pub length: u32,
}

impl IdMappings {
    /// Whether nothing is mapped.
    pub fn is_empty(&self) -> bool {
        self.uids.is_empty() && self.gids.is_empty()
    }
}

/// The id on the node that an id inside is; `None` if no range has it.
pub fn mapped(ranges: &[IdRange], inside: u32) -> Option<u32> {
    ranges.iter().find_map(|range| {
        let offset = inside.checked_sub(range.inside).filter(|offset| *offset < range.length)?;
        range.outside.checked_add(offset)
    })
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
    /// Whether it keeps the capability for ports that are the kernel's to give (`CAP_NET_BIND_SERVICE`).
    pub low_ports: bool,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_mapped_by_their_range() {
        let ranges =
            [IdRange { inside: 0, outside: 1000, length: 10 }, IdRange { inside: 100, outside: u32::MAX, length: 2 }];
        let cases = [(0, Some(1000)), (9, Some(1009)), (10, None), (100, Some(u32::MAX)), (101, None)];
        for (inside, outside) in cases {
            assert_eq!(mapped(&ranges, inside), outside, "{inside}");
        }
    }

    #[test]
    fn slices_lie_in_each_other() {
        let cases = [
            ("system.slice", "/system.slice/a.scope"),
            (
                "kubepods-besteffort-pod1.slice",
                "/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod1.slice/a.scope",
            ),
            ("-.slice", "/a.scope"),
        ];
        for (slice, path) in cases {
            let cgroup = CgroupPath::Systemd { slice: slice.into(), scope: "a.scope".into() };
            assert_eq!(cgroup.path(), path);
        }
        assert_eq!(CgroupPath::Cgroupfs("/a/b".into()).path(), "/a/b");
    }
}
