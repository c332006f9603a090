//! Who the container process is and what it may consume of itself: user, groups, resource limits, capabilities.

use crate::{capabilities, process, syscall};
use caps::Capability;
use nix::sys::prctl;
use nix::sys::stat::{Mode, umask};
use nix::unistd::{Gid, Uid, setgroups, setresgid, setresuid};
use plan::{Rlimit, User};
use std::io;

/// Why the identity could not be taken.
#[derive(Debug, thiserror::Error)]
pub(crate) enum IdentityError {
    /// The spec names a limit that Linux does not have.
    #[error("unknown resource limit {0}: use a name of getrlimit(2), such as RLIMIT_NOFILE")]
    UnknownRlimit(String),
    /// The kernel refused a limit.
    #[error("set {resource} to {soft} (hard {hard})")]
    Rlimit {
        /// The kernel's name of it.
        resource: String,
        /// Soft limit asked for.
        soft: u64,
        /// Hard limit asked for.
        hard: u64,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// The kernel refused the user or groups.
    #[error("become user {uid} and group {gid}")]
    Become {
        /// User id asked for.
        uid: u32,
        /// Group id asked for.
        gid: u32,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// Capabilities could not be dropped.
    #[error("drop capabilities")]
    Capabilities(#[from] caps::errors::CapsError),
    /// A process attribute was refused.
    #[error("set process attributes")]
    Attribute(#[source] io::Error),
}

/// Sets the resource limits of the spec.
pub(crate) fn limit(rlimits: &[Rlimit]) -> Result<(), IdentityError> {
    for Rlimit { resource, soft, hard } in rlimits {
        let number = number(resource).ok_or_else(|| IdentityError::UnknownRlimit(resource.clone()))?;
        syscall::set_rlimit(number, *soft, *hard).map_err(|errno| IdentityError::Rlimit {
            resource: resource.clone(),
            soft: *soft,
            hard: *hard,
            source: errno.into(),
        })?;
    }
    Ok(())
}

/// Becomes `user` for good, without capabilities but the one for low ports if it has that.
pub(crate) fn become_user(user: &User) -> Result<(), IdentityError> {
    capabilities::drop_all()?;
    let kept = match user.low_ports {
        true => [Capability::CAP_NET_BIND_SERVICE].as_slice(),
        false => &[],
    };
    // Else none survives the change of the user.
    prctl::set_keepcaps(!kept.is_empty()).map_err(|errno| IdentityError::Attribute(errno.into()))?;
    let (uid, gid) = (Uid::from_raw(user.uid), Gid::from_raw(user.gid));
    let groups: Vec<Gid> = user.groups.iter().copied().map(Gid::from_raw).collect();
    setgroups(&groups)
        .and_then(|()| setresgid(gid, gid, gid))
        .and_then(|()| setresuid(uid, uid, uid))
        .map_err(|errno| IdentityError::Become { uid: user.uid, gid: user.gid, source: errno.into() })?;
    capabilities::keep(kept)?;
    prctl::set_keepcaps(false).map_err(|errno| IdentityError::Attribute(errno.into()))?;
    if let Some(mask) = user.umask {
        umask(Mode::from_bits_truncate(mask));
    }
    process::die_with_parent().map_err(IdentityError::Attribute)
}

/// Closes every way to new privileges.
pub(crate) fn bar_new_privileges() -> Result<(), IdentityError> {
    prctl::set_no_new_privs().map_err(|errno| IdentityError::Attribute(errno.into()))
}

fn number(resource: &str) -> Option<i32> {
    let number = match resource {
        "RLIMIT_AS" => libc::RLIMIT_AS,
        "RLIMIT_CORE" => libc::RLIMIT_CORE,
        "RLIMIT_CPU" => libc::RLIMIT_CPU,
        "RLIMIT_DATA" => libc::RLIMIT_DATA,
        "RLIMIT_FSIZE" => libc::RLIMIT_FSIZE,
        "RLIMIT_LOCKS" => libc::RLIMIT_LOCKS,
        "RLIMIT_MEMLOCK" => libc::RLIMIT_MEMLOCK,
        "RLIMIT_MSGQUEUE" => libc::RLIMIT_MSGQUEUE,
        "RLIMIT_NICE" => libc::RLIMIT_NICE,
        "RLIMIT_NOFILE" => libc::RLIMIT_NOFILE,
        "RLIMIT_NPROC" => libc::RLIMIT_NPROC,
        "RLIMIT_RSS" => libc::RLIMIT_RSS,
        "RLIMIT_RTPRIO" => libc::RLIMIT_RTPRIO,
        "RLIMIT_RTTIME" => libc::RLIMIT_RTTIME,
        "RLIMIT_SIGPENDING" => libc::RLIMIT_SIGPENDING,
        "RLIMIT_STACK" => libc::RLIMIT_STACK,
        _ => return None,
    };
    i32::try_from(number).ok()
}
