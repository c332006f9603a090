//! Our own seccomp filters: what a guest's host process and the compiler need, and nothing else.
//! A profile from the OCI spec comes beside these, not instead of them.

use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch,
};
use std::collections::BTreeMap;

/// Why a filter could not be installed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SeccompError {
    /// The filter was not built.
    #[error("build the seccomp filter")]
    Build(#[from] BackendError),
    /// The kernel refused it.
    #[error("install the seccomp filter")]
    Install(#[source] seccompiler::Error),
}

/// Both sides need these: memory, time, synchronisation, their descriptors, their end.
const COMMON: &[i64] = &[
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
const CONTAINER: &[i64] = &[
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

/// The calls that only amd64 has, of the same meaning as ones above.
#[cfg(target_arch = "x86_64")]
const CONTAINER_ARCH: &[i64] =
    &[libc::SYS_epoll_wait, libc::SYS_poll, libc::SYS_readlink, libc::SYS_stat, libc::SYS_lstat];
#[cfg(not(target_arch = "x86_64"))]
const CONTAINER_ARCH: &[i64] = &[];

/// The compiler's threads and its lock. It opens nothing: its input and output were opened for it.
const COMPILER: &[i64] =
    &[libc::SYS_fcntl, libc::SYS_flock, libc::SYS_ftruncate, libc::SYS_recvfrom, libc::SYS_sendto, libc::SYS_statx];

/// The filters of a container process, in the order to install them. What they do not list fails with EPERM, and so
/// does making memory executable: the guest's code is mapped before.
pub(crate) fn container() -> Result<[BpfProgram; 2], SeccompError> {
    let mut rules = allow(&[COMMON, CONTAINER, CONTAINER_ARCH]);
    for call in [libc::SYS_mmap, libc::SYS_mprotect] {
        rules.insert(call, vec![SeccompRule::new(vec![not_executable()?])?]);
    }
    with_threads(rules)
}

/// The filters of the compile child, in the order to install them.
pub(crate) fn compiler() -> Result<[BpfProgram; 2], SeccompError> {
    with_threads(allow(&[COMMON, COMPILER, &[libc::SYS_mmap, libc::SYS_mprotect]]))
}

/// Allows clone for threads, not for processes. The flags of clone3 are out of a filter's sight, so a filter of its own
/// answers ENOSYS, upon which the C library falls back to clone.
fn with_threads(mut rules: BTreeMap<i64, Vec<SeccompRule>>) -> Result<[BpfProgram; 2], SeccompError> {
    let clone3 = BTreeMap::from([(libc::SYS_clone3, Vec::new())]);
    let no_clone3 = build(clone3, SeccompAction::Allow, SeccompAction::Errno(libc::ENOSYS.unsigned_abs()))?;
    // Names of threads, and of memory (glibc); not the tie to the shim, PR_SET_PDEATHSIG.
    let naming = [libc::PR_SET_NAME, libc::PR_SET_VMA].map(|option| equals(option as u64));
    let naming: Result<Vec<_>, _> = naming.into_iter().map(|condition| SeccompRule::new(vec![condition?])).collect();
    rules.insert(libc::SYS_prctl, naming?);
    // To itself, as abort(3) does: a pid namespace may be shared.
    let own = u64::from(std::process::id());
    rules.insert(libc::SYS_tgkill, vec![SeccompRule::new(vec![equals(own)?])?]);
    let thread = libc::CLONE_THREAD as u64;
    let is_thread = SeccompCondition::new(0, SeccompCmpArgLen::Qword, SeccompCmpOp::MaskedEq(thread), thread)?;
    rules.insert(libc::SYS_clone, vec![SeccompRule::new(vec![is_thread])?]);
    rules.insert(libc::SYS_clone3, Vec::new());
    Ok([no_clone3, allow_only(rules)?])
}

/// Installs a filter on this process for good.
pub(crate) fn install(filter: &BpfProgram) -> Result<(), SeccompError> {
    seccompiler::apply_filter(filter).map_err(SeccompError::Install)
}

fn allow(lists: &[&[i64]]) -> BTreeMap<i64, Vec<SeccompRule>> {
    lists.iter().flat_map(|list| list.iter()).map(|call| (*call, Vec::new())).collect()
}

fn not_executable() -> Result<SeccompCondition, BackendError> {
    let executable = libc::PROT_EXEC as u64;
    SeccompCondition::new(2, SeccompCmpArgLen::Qword, SeccompCmpOp::MaskedEq(executable), 0)
}

/// The first argument; the kernel takes 32 bits of it.
fn equals(value: u64) -> Result<SeccompCondition, BackendError> {
    SeccompCondition::new(0, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, value)
}

fn allow_only(rules: BTreeMap<i64, Vec<SeccompRule>>) -> Result<BpfProgram, SeccompError> {
    build(rules, SeccompAction::Errno(libc::EPERM.unsigned_abs()), SeccompAction::Allow)
}

fn build(
    rules: BTreeMap<i64, Vec<SeccompRule>>,
    others: SeccompAction,
    listed: SeccompAction,
) -> Result<BpfProgram, SeccompError> {
    let arch = TargetArch::try_from(std::env::consts::ARCH)?;
    Ok(SeccompFilter::new(rules, others, listed, arch)?.try_into()?)
}
