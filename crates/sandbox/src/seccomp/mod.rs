//! Seccomp filters of our processes: our own, what they need and nothing else, and beside it the profile of the spec.
//! It must not know why a profile is as it is: `oci` has read it.

mod own;
mod program;
mod table;

use crate::syscall;
use nix::errno::Errno;
use plan::{SeccompFlag, SeccompProfile};
use program::Program;
use std::io;
use table::{Table, number};

/// Why a filter could not be installed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SeccompError {
    /// The kernel takes no longer ones.
    #[error(
        "linux.seccomp makes a filter of {0} instructions, more than the kernel's {longest}: give it fewer rules with arguments",
        longest = program::LONGEST
    )]
    TooLong(usize),
    /// No guest could run.
    #[error("linux.seccomp forbids {0}, without which no wasm guest can run: allow it in the profile")]
    Essential(String),
    /// The kernel refused it.
    #[error("install the seccomp filter")]
    Install(#[source] io::Error),
}

/// A filter that is ready to be installed.
#[derive(Debug)]
pub(crate) struct Filter {
    program: Program,
    flags: libc::c_ulong,
}

/// Without these no guest starts, is heard, and ends as it is told: a profile that forbids one is refused, lest the
/// container end in a riddle or not at all. Beside them the guest's own calls may fail as they like.
const ESSENTIAL: &[libc::c_long] = &[
    libc::SYS_close,
    libc::SYS_epoll_create1,
    libc::SYS_epoll_ctl,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_epoll_wait,
    #[cfg(not(target_arch = "x86_64"))]
    libc::SYS_epoll_pwait,
    libc::SYS_eventfd2,
    libc::SYS_exit_group,
    libc::SYS_fcntl,
    libc::SYS_futex,
    libc::SYS_getrandom,
    libc::SYS_mmap,
    libc::SYS_mprotect,
    libc::SYS_munmap,
    libc::SYS_newfstatat,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_poll,
    #[cfg(not(target_arch = "x86_64"))]
    libc::SYS_ppoll,
    libc::SYS_read,
    libc::SYS_recvfrom,
    libc::SYS_rt_sigreturn,
    libc::SYS_sendto,
    libc::SYS_sigaltstack,
    libc::SYS_statx,
    libc::SYS_write,
];

/// The filters of a container process, in the order to install them.
pub(crate) fn container(profile: Option<&SeccompProfile>) -> Result<Vec<Filter>, SeccompError> {
    let mut own = own::container();
    let Some(profile) = profile else { return Ok(vec![filter(&own, 0)?]) };
    let mut table = Table::of(profile);
    ensure_essential(&table)?;
    // The profile comes last, since one that forbids seccomp(2) would keep ours out; so ours leaves that call open, and
    // the profile's filter closes it behind itself.
    own.calls.insert(number(libc::SYS_seccomp), table::Answer::Always(plan::SeccompAction::Allow));
    table.at_least(number(libc::SYS_seccomp), own::refusal(libc::EPERM));
    // Of two filters' errnos the later filter's counts, and upon EPERM there would be no threads.
    own::no_clone3(&mut table);
    Ok(vec![filter(&own, 0)?, filter(&table, flags(profile))?])
}

/// The spec's filter alone, for a program that is executed: ours forbids that.
pub(crate) fn of_spec(profile: Option<&SeccompProfile>) -> Result<Vec<Filter>, SeccompError> {
    let filters = profile.map(|profile| filter(&Table::of(profile), flags(profile)));
    filters.into_iter().collect()
}

fn flags(profile: &SeccompProfile) -> libc::c_ulong {
    let flags = profile.flags.iter().map(|flag| match flag {
        SeccompFlag::Log => libc::SECCOMP_FILTER_FLAG_LOG,
        SeccompFlag::SpecAllow => libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW,
    });
    flags.fold(0, |all, flag| all | flag)
}

/// The filters of the compile child, in the order to install them.
pub(crate) fn compiler() -> Result<Vec<Filter>, SeccompError> {
    Ok(vec![filter(&own::compiler(), 0)?])
}

/// Installs a filter on this process, which has one thread and no way to new privileges, for good.
pub(crate) fn install(filter: &Filter) -> Result<(), SeccompError> {
    syscall::seccomp_filter(&filter.program, filter.flags).map_err(|errno: Errno| SeccompError::Install(errno.into()))
}

fn filter(table: &Table, flags: libc::c_ulong) -> Result<Filter, SeccompError> {
    let program = program::compile(table);
    match program.len() {
        length if length > program::LONGEST => Err(SeccompError::TooLong(length)),
        _ => Ok(Filter { program, flags }),
    }
}

fn ensure_essential(table: &Table) -> Result<(), SeccompError> {
    let forbidden = ESSENTIAL.iter().map(|call| number(*call)).filter(|call| !table.lets_through(*call));
    let forbidden: Vec<&str> = forbidden.map(table::name).collect();
    match forbidden.is_empty() {
        true => Ok(()),
        false => Err(SeccompError::Essential(forbidden.join(", "))),
    }
}

#[cfg(test)]
mod tests;
