//! Our own filters as tables: what a guest's host process and the compiler need, and nothing else.
//! It must not know profiles.

use super::table::{Answer, Rule, Table, number};
use plan::{SeccompAction, SeccompCondition, SeccompTest};

type Calls = &'static [libc::c_long];

/// Both sides need these: memory, time, synchronisation, their descriptors, their end.
pub(super) const COMMON: Calls = &[
    libc::SYS_brk,
    libc::SYS_clock_getres,
    libc::SYS_clock_gettime,
    libc::SYS_close,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_fstat,
    libc::SYS_fsync,
    libc::SYS_futex,
    libc::SYS_getpid,
    libc::SYS_getrandom,
    libc::SYS_gettid,
    libc::SYS_lseek,
    libc::SYS_madvise,
    libc::SYS_membarrier,
    libc::SYS_mremap,
    libc::SYS_munmap,
    libc::SYS_pread64,
    libc::SYS_pwrite64,
    libc::SYS_read,
    libc::SYS_readv,
    libc::SYS_restart_syscall,
    libc::SYS_rseq,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sched_getaffinity,
    libc::SYS_sched_yield,
    libc::SYS_set_robust_list,
    libc::SYS_sigaltstack,
    libc::SYS_write,
    libc::SYS_writev,
];

/// A guest's files, clocks and stdio.
pub(super) const CONTAINER: Calls = &[
    libc::SYS_clock_nanosleep,
    libc::SYS_dup,
    libc::SYS_epoll_create1,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait,
    libc::SYS_eventfd2,
    libc::SYS_fadvise64,
    libc::SYS_fallocate,
    libc::SYS_fcntl,
    libc::SYS_fdatasync,
    libc::SYS_ftruncate,
    libc::SYS_getdents64,
    libc::SYS_linkat,
    libc::SYS_mkdirat,
    libc::SYS_nanosleep,
    libc::SYS_openat,
    libc::SYS_openat2,
    libc::SYS_ppoll,
    libc::SYS_preadv,
    libc::SYS_preadv2,
    libc::SYS_pwritev,
    libc::SYS_pwritev2,
    libc::SYS_readlinkat,
    libc::SYS_recvfrom,
    libc::SYS_renameat,
    libc::SYS_renameat2,
    libc::SYS_sendto,
    libc::SYS_statx,
    libc::SYS_symlinkat,
    libc::SYS_sync_file_range,
    libc::SYS_unlinkat,
    libc::SYS_utimensat,
    libc::SYS_newfstatat,
    libc::SYS_fchmod,
];

/// Sockets of the container's network, beside those that every process has.
pub(super) const NETWORK: Calls = &[
    libc::SYS_accept4,
    libc::SYS_bind,
    libc::SYS_connect,
    libc::SYS_getpeername,
    libc::SYS_getsockname,
    libc::SYS_getsockopt,
    libc::SYS_listen,
    libc::SYS_recvmsg,
    libc::SYS_sendmmsg,
    libc::SYS_sendmsg,
    libc::SYS_setsockopt,
    libc::SYS_shutdown,
];

/// `PAGEMAP_SCAN` (include/uapi/linux/fs.h).
const PAGEMAP_SCAN: u64 = 0xc060_6610;

/// The calls that only amd64 has, of the same meaning as ones above.
#[cfg(target_arch = "x86_64")]
pub(super) const CONTAINER_ARCH: Calls =
    &[libc::SYS_epoll_wait, libc::SYS_poll, libc::SYS_readlink, libc::SYS_stat, libc::SYS_lstat];
#[cfg(not(target_arch = "x86_64"))]
pub(super) const CONTAINER_ARCH: Calls = &[];

/// The compiler's threads and its lock. It opens nothing: its input and output were opened for it.
pub(super) const COMPILER: Calls =
    &[libc::SYS_fcntl, libc::SYS_flock, libc::SYS_ftruncate, libc::SYS_recvfrom, libc::SYS_sendto, libc::SYS_statx];

/// The filter of a container process. What it does not list fails with EPERM, and so does making memory executable: the
/// guest's code is mapped before.
pub(super) fn container() -> Table {
    let executable = libc::PROT_EXEC.unsigned_abs().into();
    let not_executable = SeccompCondition { argument: 2, test: SeccompTest::Masked { mask: executable, value: 0 } };
    let mut table = allowing(&[COMMON, CONTAINER, CONTAINER_ARCH, NETWORK]);
    table.calls.insert(number(libc::SYS_socket), Answer::ByArguments(sockets()));
    // Which pages of its own memory were written, so that a used one is cleared without giving it back.
    let scans =
        SeccompCondition { argument: 1, test: SeccompTest::Masked { mask: u32::MAX.into(), value: PAGEMAP_SCAN } };
    allow_if(&mut table, libc::SYS_ioctl, [scans]);
    for call in [libc::SYS_mmap, libc::SYS_mprotect] {
        allow_if(&mut table, call, [not_executable]);
    }
    table
}

/// The filter of the compile child.
pub(super) fn compiler() -> Table {
    allowing(&[COMMON, COMPILER, &[libc::SYS_mmap, libc::SYS_mprotect]])
}

/// Threads are allowed, processes are not.
fn allowing(lists: &[Calls]) -> Table {
    let allowed = lists.iter().flat_map(|list| list.iter());
    let calls = allowed.map(|call| (number(*call), Answer::Always(SeccompAction::Allow))).collect();
    let mut table = Table { default: refusal(libc::EPERM), calls };
    let thread = libc::CLONE_THREAD.unsigned_abs().into();
    let is_thread = SeccompCondition { argument: 0, test: SeccompTest::Masked { mask: thread, value: thread } };
    allow_if(&mut table, libc::SYS_clone, [is_thread]);
    no_clone3(&mut table);
    // Names of threads, and of memory (glibc); not the tie to the shim, PR_SET_PDEATHSIG.
    allow_if(
        &mut table,
        libc::SYS_prctl,
        [libc::PR_SET_NAME, libc::PR_SET_VMA].map(|option| first_is(option.unsigned_abs())),
    );
    // To itself, as abort(3) does: a pid namespace may be shared.
    allow_if(&mut table, libc::SYS_tgkill, [first_is(std::process::id())]);
    table
}

/// The flags of clone3 are out of a filter's sight. Upon ENOSYS the C library falls back to clone.
pub(super) fn no_clone3(table: &mut Table) {
    table.at_least(number(libc::SYS_clone3), refusal(libc::ENOSYS));
}

/// A failure with this errno.
pub(super) fn refusal(errno: i32) -> SeccompAction {
    SeccompAction::Errno(u16::try_from(errno).expect("the C library's numbers are below 4096"))
}

/// TCP and UDP over IP, and nothing else that the kernel has protocols for.
fn sockets() -> Vec<Rule> {
    /// The type without its flags (socket(2)).
    const TYPE: u64 = 0xf;
    let is = |argument, mask, value| SeccompCondition { argument, test: SeccompTest::Masked { mask, value } };
    let mut rules = Vec::new();
    for family in [libc::AF_INET, libc::AF_INET6] {
        for (kind, protocol) in [(libc::SOCK_STREAM, libc::IPPROTO_TCP), (libc::SOCK_DGRAM, libc::IPPROTO_UDP)] {
            // The usual one of its type, or by its number.
            for protocol in [0, protocol.unsigned_abs()] {
                let kind = is(1, TYPE, kind.unsigned_abs().into());
                let protocol = is(2, u32::MAX.into(), protocol.into());
                let conditions = vec![first_is(family.unsigned_abs()), kind, protocol];
                rules.push(Rule { conditions, action: SeccompAction::Allow });
            }
        }
    }
    rules
}

/// Allows a call if one of the conditions holds.
fn allow_if(table: &mut Table, call: libc::c_long, conditions: impl IntoIterator<Item = SeccompCondition>) {
    let allow = |condition| Rule { conditions: vec![condition], action: SeccompAction::Allow };
    table.calls.insert(number(call), Answer::ByArguments(conditions.into_iter().map(allow).collect()));
}

/// The first argument; the kernel takes 32 bits of it.
fn first_is(value: u32) -> SeccompCondition {
    SeccompCondition { argument: 0, test: SeccompTest::Masked { mask: u32::MAX.into(), value: value.into() } }
}
