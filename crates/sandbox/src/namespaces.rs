//! Namespaces of the container process: made with the fork, or joined by path.

use nix::sched::{CloneFlags, setns};
use plan::{Isolation, Namespace, NamespaceKind};
use std::fs::File;
use std::io;
use std::path::PathBuf;

/// Why a namespace could not be joined.
#[derive(Debug, thiserror::Error)]
pub enum NamespaceError {
    /// The path is gone or is no namespace of that kind.
    #[error("join {kind:?} namespace {path}")]
    Join {
        /// Which kind.
        kind: NamespaceKind,
        /// The path in the OCI spec.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// Back from another process id namespace.
    #[error("return to the shim's own process id namespace")]
    Return(#[source] io::Error),
}

/// The clone flags of the namespaces to make. The mount namespace is always new. The cgroup namespace is made later,
/// in the child, once it is in its cgroup.
pub(crate) fn made_with_fork(isolation: &Isolation) -> i32 {
    let made = isolation.namespaces.iter().filter(|namespace| namespace.path.is_none());
    let kinds = made.map(|namespace| namespace.kind).filter(|kind| *kind != NamespaceKind::Cgroup);
    kinds.fold(CloneFlags::CLONE_NEWNS, |flags, kind| flags | flag(kind)).bits()
}

/// Joins, in the child, the namespaces given by path, except the process id namespace.
pub(crate) fn join(isolation: &Isolation) -> Result<(), NamespaceError> {
    for namespace in &isolation.namespaces {
        let joins_now = !matches!(namespace.kind, NamespaceKind::Pid | NamespaceKind::Mount);
        if let Namespace { kind, path: Some(path) } = namespace
            && joins_now
        {
            enter(*kind, path)?;
        }
    }
    Ok(())
}

/// Runs `fork` so that the child is born in the process id namespace given by path, if there is one.
pub(crate) fn in_pid_namespace<T>(isolation: &Isolation, fork: impl FnOnce() -> T) -> Result<T, NamespaceError> {
    let joined = isolation.namespaces.iter().find(|namespace| namespace.kind == NamespaceKind::Pid);
    let Some(Namespace { path: Some(path), .. }) = joined else { return Ok(fork()) };
    let own = File::open("/proc/self/ns/pid").map_err(NamespaceError::Return)?;
    enter(NamespaceKind::Pid, path)?;
    let forked = fork();
    setns(own, CloneFlags::CLONE_NEWPID).map_err(|errno| NamespaceError::Return(errno.into()))?;
    Ok(forked)
}

/// Makes a cgroup namespace whose root is the cgroup this process is in, if the plan wants one.
pub(crate) fn make_cgroup_namespace(isolation: &Isolation) -> io::Result<()> {
    let wanted = isolation.namespaces.iter().any(|n| n.kind == NamespaceKind::Cgroup && n.path.is_none());
    if wanted {
        nix::sched::unshare(CloneFlags::CLONE_NEWCGROUP)?;
    }
    Ok(())
}

/// Whether the host name may be set: the UTS namespace is the container's own.
pub(crate) fn owns_uts(isolation: &Isolation) -> bool {
    isolation.namespaces.iter().any(|namespace| namespace.kind == NamespaceKind::Uts && namespace.path.is_none())
}

fn enter(kind: NamespaceKind, path: &PathBuf) -> Result<(), NamespaceError> {
    let joined = File::open(path).and_then(|file| Ok(setns(file, flag(kind))?));
    joined.map_err(|source| NamespaceError::Join { kind, path: path.clone(), source })
}

fn flag(kind: NamespaceKind) -> CloneFlags {
    match kind {
        NamespaceKind::Cgroup => CloneFlags::CLONE_NEWCGROUP,
        NamespaceKind::Ipc => CloneFlags::CLONE_NEWIPC,
        NamespaceKind::Mount => CloneFlags::CLONE_NEWNS,
        NamespaceKind::Network => CloneFlags::CLONE_NEWNET,
        NamespaceKind::Pid => CloneFlags::CLONE_NEWPID,
        NamespaceKind::Uts => CloneFlags::CLONE_NEWUTS,
    }
}
