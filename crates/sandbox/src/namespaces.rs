//! Namespaces of the container process: made with the fork, or joined by path.

use crate::user_namespace;
use nix::sched::{CloneFlags, setns};
use plan::{Isolation, Namespace, NamespaceKind};
use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

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
    /// The process is gone.
    #[error("join the {name} namespace of process {pid}")]
    OfProcess {
        /// The kernel's name of it.
        name: &'static str,
        /// The process.
        pid: u32,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// It would change the node.
    #[error("sysctl {sysctl} would be set for the node, whose namespace {path} is: leave it out, or join another")]
    OfTheNode {
        /// Its path below `/proc/sys`.
        sysctl: String,
        /// The namespace.
        path: PathBuf,
    },
    /// The kernel has no such parameter, or does not take the value.
    #[error("set sysctl {name} to {value:?}")]
    Sysctl {
        /// Its path below `/proc/sys`.
        name: String,
        /// What it was to be.
        value: String,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// Back from another process id namespace.
    #[error("return to the shim's own process id namespace")]
    Return(#[source] io::Error),
}

/// The clone flags of the namespaces to make. The mount namespace is always new. The cgroup namespace is made later,
/// in the child, once it is in its cgroup; those that a user namespace owns are made with that.
pub(crate) fn made_with_fork(isolation: &Isolation) -> i32 {
    let owned = user_namespace::owned_kinds(isolation);
    let made = isolation.namespaces.iter().filter(|namespace| namespace.path.is_none());
    let kinds = made.map(|namespace| namespace.kind);
    let kinds = kinds.filter(|kind| *kind != NamespaceKind::Cgroup && !owned.contains(kind));
    kinds.fold(CloneFlags::CLONE_NEWNS, |flags, kind| flags | flag(kind)).bits()
}

/// Joins, in the child, the namespaces given by path, except the process id namespace.
pub(crate) fn join(isolation: &Isolation) -> Result<(), NamespaceError> {
    for namespace in &isolation.namespaces {
        let joins_now = !matches!(namespace.kind, NamespaceKind::Pid | NamespaceKind::Mount);
        if let Namespace { kind, path: Some(path) } = namespace
            && joins_now
        {
            refuse_the_node_s(isolation, *kind, path)?;
            enter(*kind, path)?;
        }
    }
    Ok(())
}

/// Runs `fork` so that the child is born in the process id namespace given by path, if there is one.
pub(crate) fn in_pid_namespace<T>(isolation: &Isolation, fork: impl FnOnce() -> T) -> Result<T, NamespaceError> {
    let joined = isolation.namespaces.iter().find(|namespace| namespace.kind == NamespaceKind::Pid);
    let Some(Namespace { path: Some(path), .. }) = joined else { return Ok(fork()) };
    born_in(path, fork)
}

/// Runs `fork` so that the child is born in the process id namespace of process `pid`.
pub(crate) fn in_pid_namespace_of<T>(pid: u32, fork: impl FnOnce() -> T) -> Result<T, NamespaceError> {
    born_in(&of_process(pid, "pid"), fork)
}

/// The namespaces of a process that are joined one by one, by the kernel's names. That of users comes last, as it takes
/// the rights away that the others need.
const JOINED: [(&str, CloneFlags); 6] = [
    ("cgroup", CloneFlags::CLONE_NEWCGROUP),
    ("ipc", CloneFlags::CLONE_NEWIPC),
    ("net", CloneFlags::CLONE_NEWNET),
    ("uts", CloneFlags::CLONE_NEWUTS),
    ("mnt", CloneFlags::CLONE_NEWNS),
    ("user", CloneFlags::CLONE_NEWUSER),
];

/// Namespaces of another process, open. All of them before any is joined: `/proc` is hidden by that of mounts.
#[derive(Debug)]
pub(crate) struct Opened {
    pid: u32,
    files: Vec<(&'static str, CloneFlags, File)>,
}

impl Opened {
    /// Those of process `pid` that are not this process's own: joining one's own namespace of users is an error to the
    /// kernel.
    pub(crate) fn of(pid: u32) -> Result<Opened, NamespaceError> {
        let mut files = Vec::new();
        for (name, flag) in JOINED {
            let failed = |source| NamespaceError::OfProcess { name, pid, source };
            let file = File::open(of_process(pid, name)).map_err(failed)?;
            let own = std::fs::metadata(Path::new("/proc/self/ns").join(name)).map_err(failed)?;
            if file.metadata().map_err(failed)?.ino() != own.ino() {
                files.push((name, flag, file));
            }
        }
        Ok(Opened { pid, files })
    }

    /// Joins all but that of users.
    pub(crate) fn join_but_users(&self) -> Result<(), NamespaceError> {
        self.join(|flag| flag != CloneFlags::CLONE_NEWUSER)
    }

    /// Joins that of users.
    pub(crate) fn join_users(&self) -> Result<(), NamespaceError> {
        self.join(|flag| flag == CloneFlags::CLONE_NEWUSER)
    }

    fn join(&self, wanted: impl Fn(CloneFlags) -> bool) -> Result<(), NamespaceError> {
        for (name, flag, file) in self.files.iter().filter(|(_, flag, _)| wanted(*flag)) {
            let failed =
                |errno: nix::errno::Errno| NamespaceError::OfProcess { name, pid: self.pid, source: errno.into() };
            setns(file, *flag).map_err(failed)?;
        }
        Ok(())
    }
}

/// Joins, in a child, the other namespaces of process `pid`.
pub(crate) fn join_those_of(pid: u32) -> Result<(), NamespaceError> {
    let opened = Opened::of(pid)?;
    opened.join_but_users()?;
    opened.join_users()
}

fn of_process(pid: u32, name: &str) -> PathBuf {
    PathBuf::from(format!("/proc/{pid}/ns/{name}"))
}

fn born_in<T>(path: &PathBuf, fork: impl FnOnce() -> T) -> Result<T, NamespaceError> {
    let own = File::open("/proc/self/ns/pid").map_err(NamespaceError::Return)?;
    enter(NamespaceKind::Pid, path)?;
    let forked = fork();
    setns(own, CloneFlags::CLONE_NEWPID).map_err(|errno| NamespaceError::Return(errno.into()))?;
    Ok(forked)
}

/// Sets the parameters of the kernel that belong to these namespaces.
pub(crate) fn set_sysctls(isolation: &Isolation) -> Result<(), NamespaceError> {
    for (name, value) in &isolation.sysctls {
        let set = std::fs::write(Path::new("/proc/sys").join(name), value);
        set.map_err(|source| NamespaceError::Sysctl { name: name.clone(), value: value.clone(), source })?;
    }
    Ok(())
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

/// A parameter of the kernel that is set in the node's own namespace would be set for the node.
fn refuse_the_node_s(isolation: &Isolation, kind: NamespaceKind, path: &Path) -> Result<(), NamespaceError> {
    let prefixes: &[&str] = match kind {
        NamespaceKind::Network => &["net/"],
        NamespaceKind::Ipc => &["kernel/msg", "kernel/sem", "kernel/shm", "fs/mqueue/"],
        NamespaceKind::Uts => &["kernel/domainname"],
        NamespaceKind::Cgroup | NamespaceKind::Mount | NamespaceKind::Pid => return Ok(()),
    };
    let number = |path: &Path| std::fs::metadata(path).map(|file| file.ino()).ok();
    // Made with the fork or still the shim's, which is the node's.
    let same = number(path).is_some() && number(path) == number(&Path::new("/proc/self/ns").join(name(kind)));
    let set = isolation.sysctls.keys().find(|set| prefixes.iter().any(|prefix| set.starts_with(prefix)));
    match set.filter(|_| same) {
        Some(set) => Err(NamespaceError::OfTheNode { sysctl: set.clone(), path: path.to_owned() }),
        None => Ok(()),
    }
}

fn enter(kind: NamespaceKind, path: &PathBuf) -> Result<(), NamespaceError> {
    let joined = File::open(path).and_then(|file| Ok(setns(file, flag(kind))?));
    joined.map_err(|source| NamespaceError::Join { kind, path: path.clone(), source })
}

/// The kernel's name of it, below `/proc/PID/ns`.
pub(crate) fn name(kind: NamespaceKind) -> &'static str {
    match kind {
        NamespaceKind::Cgroup => "cgroup",
        NamespaceKind::Ipc => "ipc",
        NamespaceKind::Mount => "mnt",
        NamespaceKind::Network => "net",
        NamespaceKind::Pid => "pid",
        NamespaceKind::Uts => "uts",
    }
}

/// The kernel's flag for it.
pub(crate) fn flag(kind: NamespaceKind) -> CloneFlags {
    match kind {
        NamespaceKind::Cgroup => CloneFlags::CLONE_NEWCGROUP,
        NamespaceKind::Ipc => CloneFlags::CLONE_NEWIPC,
        NamespaceKind::Mount => CloneFlags::CLONE_NEWNS,
        NamespaceKind::Network => CloneFlags::CLONE_NEWNET,
        NamespaceKind::Pid => CloneFlags::CLONE_NEWPID,
        NamespaceKind::Uts => CloneFlags::CLONE_NEWUTS,
    }
}
