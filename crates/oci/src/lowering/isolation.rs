//! User, namespaces, resource limits of the process, host name and cgroup.
//! It must not know system calls.

use super::Identity;
use super::paths::clean;
use super::seccomp;
use super::sysctls::{self, Error as SysctlError};
use super::user_namespace::{self, Error as UserNamespaceError};
use crate::bundle::Bundle;
use oci_spec::runtime::{Capabilities, Capability, LinuxNamespace, LinuxNamespaceType, Process};
use plan::{CgroupPath, Isolation, Namespace, NamespaceKind, Rlimit, User};
use std::ffi::OsStr;
use std::path::{Path, PathBuf};

/// Why the isolation is refused.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Guests see the clocks of the node.
    #[error("time namespaces are not supported: remove it from linux.namespaces")]
    Time,
    /// The user namespace.
    #[error(transparent)]
    User(#[from] UserNamespaceError),
    /// A parameter of the kernel.
    #[error(transparent)]
    Sysctl(#[from] SysctlError),
    /// The runtime spec forbids it.
    #[error("linux.namespaces lists {0:?} twice: list it once")]
    Twice(NamespaceKind),
    /// Ours is always new.
    #[error("joining the mount namespace {0} is not supported: leave out its path")]
    JoinedMount(PathBuf),
    /// It would name the node.
    #[error("host name {0}, but linux.namespaces has no uts namespace: add one")]
    Hostname(String),
    /// The systemd driver's form of `cgroupsPath`, with names that systemd does not take.
    #[error("cgroup {path} names {unit}, which is no {kind} of systemd: use the form slice:prefix:name")]
    Unit {
        /// The whole path.
        path: String,
        /// The part.
        unit: String,
        /// `slice` or `scope`.
        kind: &'static str,
    },
    /// No path and no name of the kernel has one.
    #[error("{0:?} of linux.namespaces or hostname has a null byte: remove it")]
    Null(String),
    /// Over the whole hierarchy, or not UTF-8.
    #[error("cgroup path {0:?} names no cgroup: use a path such as /namespace/id")]
    Cgroup(PathBuf),
    /// The seccomp profile.
    #[error(transparent)]
    Seccomp(#[from] seccomp::Error),
    /// The kernel takes the name as one line of text.
    #[error("apparmor profile {0:?} has a control character: use the name that aa-status shows")]
    AppArmor(String),
    /// Out of the kernel's range.
    #[error("oom score adjustment {0} is out of range: use -1000 to 1000")]
    OomScore(i32),
    /// A limit that no process could have.
    #[error("{resource} has the soft limit {soft} above the hard limit {hard}: lower the soft one")]
    Rlimit {
        /// The kernel's name.
        resource: String,
        /// Soft limit.
        soft: u64,
        /// Hard limit.
        hard: u64,
    },
}

/// Lowers the isolation of container `id` in containerd's `namespace`.
pub(super) fn lower(
    bundle: &Bundle,
    namespace: &str,
    id: &str,
    warnings: &mut Vec<String>,
) -> Result<Isolation, Error> {
    let devices = bundle.linux.devices().iter().flatten().count();
    if devices > 0 {
        warnings.push(format!("linux.devices: {devices} devices are not made, a guest has no access to devices"));
    }
    let listed = bundle.linux.namespaces().as_deref().unwrap_or_default();
    let namespaces = lower_namespaces(listed)?;
    let Identity { user, rlimits, oom_score_adj, apparmor } = identity(&bundle.process)?;
    Ok(Isolation {
        user_namespace: user_namespace::lower(bundle, &user)?,
        sysctls: sysctls::lower(bundle, &namespaces)?,
        hostname: hostname(bundle.spec.hostname().as_deref(), &namespaces)?,
        namespaces,
        user,
        rlimits,
        cgroup: cgroup(bundle.linux.cgroups_path().as_deref(), namespace, id)?,
        oom_score_adj,
        seccomp: bundle.linux.seccomp().as_ref().map(seccomp::lower).transpose()?,
        apparmor,
    })
}

/// Lowers who a process is.
pub(super) fn identity(process: &Process) -> Result<Identity, Error> {
    Ok(Identity {
        user: user(process),
        rlimits: rlimits(process)?,
        oom_score_adj: oom_score_adj(process)?,
        apparmor: apparmor(process)?,
    })
}

fn lower_namespaces(listed: &[LinuxNamespace]) -> Result<Vec<Namespace>, Error> {
    let mut namespaces: Vec<Namespace> = Vec::new();
    for one in listed {
        let kind = match one.typ() {
            LinuxNamespaceType::Cgroup => NamespaceKind::Cgroup,
            LinuxNamespaceType::Ipc => NamespaceKind::Ipc,
            LinuxNamespaceType::Mount => NamespaceKind::Mount,
            LinuxNamespaceType::Network => NamespaceKind::Network,
            LinuxNamespaceType::Pid => NamespaceKind::Pid,
            LinuxNamespaceType::Uts => NamespaceKind::Uts,
            // It has a part of the plan of its own.
            LinuxNamespaceType::User => continue,
            LinuxNamespaceType::Time => return Err(Error::Time),
        };
        // Go writes an absent path as an empty one.
        let path = one.path().clone();
        let path = path.filter(|path| !path.as_os_str().is_empty());
        if let Some(path) = path.as_ref().filter(|path| has_null(path.as_os_str())) {
            return Err(Error::Null(path.display().to_string()));
        }
        if let (NamespaceKind::Mount, Some(path)) = (kind, &path) {
            return Err(Error::JoinedMount(path.clone()));
        }
        if namespaces.iter().any(|other| other.kind == kind) {
            return Err(Error::Twice(kind));
        }
        namespaces.push(Namespace { kind, path });
    }
    Ok(namespaces)
}

fn has_null(text: &OsStr) -> bool {
    text.as_encoded_bytes().contains(&0)
}

/// The name for a UTS namespace that is made; one that is joined has its name from who made it.
fn hostname(name: Option<&str>, namespaces: &[Namespace]) -> Result<Option<String>, Error> {
    let Some(name) = name.filter(|name| !name.is_empty()) else {
        return Ok(None);
    };
    if has_null(name.as_ref()) {
        return Err(Error::Null(name.to_owned()));
    }
    let uts = namespaces.iter().find(|one| one.kind == NamespaceKind::Uts);
    match uts {
        None => Err(Error::Hostname(name.to_owned())),
        Some(uts) if uts.path.is_some() => Ok(None),
        Some(_) => Ok(Some(name.to_owned())),
    }
}

fn user(process: &Process) -> User {
    let user = process.user();
    User {
        uid: user.uid(),
        gid: user.gid(),
        groups: user.additional_gids().clone().unwrap_or_default(),
        umask: user.umask(),
        // Up to where it listens: see `may_have_low_ports`.
        low_ports: false,
    }
}

/// Whether the spec gives the process the capability for low ports, as an exec would leave it: to user 0, or as ambient.
pub(super) fn may_have_low_ports(process: &Process) -> bool {
    let Some(capabilities) = process.capabilities() else { return false };
    let has = |set: &Option<Capabilities>| set.as_ref().is_some_and(|set| set.contains(&Capability::NetBindService));
    has(capabilities.effective()) && (process.user().uid() == 0 || has(capabilities.ambient()))
}

fn rlimits(process: &Process) -> Result<Vec<Rlimit>, Error> {
    let limits = process.rlimits().iter().flatten();
    let limits = limits.map(|limit| {
        let (resource, soft, hard) = (limit.typ().to_string(), limit.soft(), limit.hard());
        if soft > hard {
            return Err(Error::Rlimit { resource, soft, hard });
        }
        Ok(Rlimit { resource, soft, hard })
    });
    limits.collect()
}

fn oom_score_adj(process: &Process) -> Result<Option<i32>, Error> {
    match process.oom_score_adj() {
        Some(score) if !(-1000..=1000).contains(&score) => Err(Error::OomScore(score)),
        score => Ok(score),
    }
}

/// The profile to change to. Whether the kernel has AppArmor is not known here.
fn apparmor(process: &Process) -> Result<Option<String>, Error> {
    let profile = process.apparmor_profile().as_deref().filter(|name| !name.is_empty() && *name != "unconfined");
    match profile {
        Some(name) if name.contains(char::is_control) => Err(Error::AppArmor(name.to_owned())),
        profile => Ok(profile.map(str::to_owned)),
    }
}

/// The control group of a container, by the form of the spec's path to it.
pub(super) fn cgroup(path: Option<&Path>, namespace: &str, id: &str) -> Result<CgroupPath, Error> {
    let Some(path) = path.filter(|path| !path.as_os_str().is_empty()) else {
        return Ok(CgroupPath::Cgroupfs(format!("/{namespace}/{id}")));
    };
    let text = path.to_str().ok_or_else(|| Error::Cgroup(path.to_owned()))?;
    // Only the form tells, as containerd 1.6 passes no options to unknown runtimes.
    if let [slice, prefix, name] = text.split(':').collect::<Vec<_>>()[..]
        && !text.contains('/')
    {
        return scope(text, slice, prefix, name);
    }
    let cleaned = clean(path);
    match cleaned.to_str() {
        Some(cleaned) if cleaned != "/" && !cleaned.contains('\0') => Ok(CgroupPath::Cgroupfs(cleaned.to_owned())),
        Some(_) | None => Err(Error::Cgroup(path.to_owned())),
    }
}

/// Where systemd's own services are: the slice if the path names none, as with runc.
const SYSTEM_SLICE: &str = "system.slice";

/// systemd takes these characters in a unit's name (systemd.unit(5)), and at most this many.
fn is_unit(name: &str) -> bool {
    const LONGEST: usize = 255;
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b":-_.\\@".contains(&byte);
    name.len() <= LONGEST && name.bytes().all(plain)
}

fn scope(path: &str, slice: &str, prefix: &str, name: &str) -> Result<CgroupPath, Error> {
    let wrong = |unit: &str, kind| Error::Unit { path: path.to_owned(), unit: unit.to_owned(), kind };
    let slice = if slice.is_empty() { SYSTEM_SLICE } else { slice };
    let stem = slice.strip_suffix(".slice").ok_or_else(|| wrong(slice, "slice"))?;
    // Each dash leads one slice deeper, so none may stand by itself.
    let steps = stem == "-" || stem.split('-').all(|step| !step.is_empty());
    if !steps || !is_unit(slice) {
        return Err(wrong(slice, "slice"));
    }
    let stem = if prefix.is_empty() { name.to_owned() } else { format!("{prefix}-{name}") };
    let scope = format!("{stem}.scope");
    match !name.is_empty() && is_unit(&scope) {
        true => Ok(CgroupPath::Systemd { slice: slice.to_owned(), scope }),
        false => Err(wrong(&scope, "scope")),
    }
}

#[cfg(test)]
#[path = "isolation_tests.rs"]
mod tests;
