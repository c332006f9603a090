//! The system calls that no library wraps. Everything above builds on these.

use nix::errno::Errno;
use std::ffi::CStr;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

/// What `clone3` gives to each side.
pub(crate) enum Cloned {
    Parent { pid: i32, pidfd: OwnedFd },
    Child,
}

/// The kernel's `struct clone_args` (clone(2)), first version and the cgroup field.
#[repr(C)]
#[derive(Default)]
struct CloneArgs {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
    cgroup: u64,
}

/// `CLONE_INTO_CGROUP` (clone(2)), which does not fit the type of the others.
const INTO_CGROUP: u64 = 0x2_0000_0000;

/// Forks this process into new namespaces (`CLONE_NEW*` in `namespaces`), and into a cgroup of version 2 if one is given;
/// returns a pidfd of the child.
///
/// # Safety
///
/// The process must have one thread: a lock held by another would stay locked in the child for ever.
pub(crate) unsafe fn fork(namespaces: i32, cgroup: Option<BorrowedFd<'_>>) -> Result<Cloned, Errno> {
    let mut pidfd: RawFd = -1;
    let mut args = CloneArgs {
        flags: namespaces as u64 | libc::CLONE_PIDFD as u64 | cgroup.map_or(0, |_| INTO_CGROUP),
        pidfd: &raw mut pidfd as u64,
        exit_signal: libc::SIGCHLD as u64,
        cgroup: cgroup.map_or(0, |cgroup| cgroup.as_raw_fd() as u64),
        ..CloneArgs::default()
    };
    // SAFETY: without CLONE_VM and with no stack the child is a copy of this process, as after fork(2); `args` has the
    // layout the kernel expects and its size is passed; `pidfd` outlives the call.
    let result = unsafe { libc::syscall(libc::SYS_clone3, &raw mut args, size_of::<CloneArgs>()) };
    match Errno::result(result)? {
        0 => Ok(Cloned::Child),
        pid => {
            // SAFETY: the kernel stored a new descriptor there, which nothing else owns.
            let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
            Ok(Cloned::Parent { pid: pid as i32, pidfd })
        }
    }
}

/// Ends this process at once, without destructors or exit handlers: a forked child shares them with its parent.
pub(crate) fn exit_now(code: i32) -> ! {
    // SAFETY: _exit is always allowed.
    unsafe { libc::_exit(code) }
}

/// Makes `from` the descriptor `to`, which replaces what was there and survives exec.
///
/// # Safety
///
/// No object of this process may use the number `to` as its own afterwards.
pub(crate) unsafe fn duplicate_to(from: BorrowedFd<'_>, to: RawFd) -> Result<(), Errno> {
    // SAFETY: dup2 of a borrowed, hence open, descriptor; the caller answers for `to`.
    Errno::result(unsafe { libc::dup2(from.as_raw_fd(), to) }).map(drop)
}

/// A duplicate with a number of at least `lowest`.
pub(crate) fn duplicate_above(from: BorrowedFd<'_>, lowest: RawFd) -> Result<OwnedFd, Errno> {
    // SAFETY: F_DUPFD_CLOEXEC of an open descriptor gives a new one.
    let fd = Errno::result(unsafe { libc::fcntl(from.as_raw_fd(), libc::F_DUPFD_CLOEXEC, lowest) })?;
    // SAFETY: the descriptor is new, so nothing else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Takes ownership of a descriptor that [`duplicate_to`] laid out.
///
/// # Safety
///
/// The descriptor must be open, and nothing else may own it.
pub(crate) unsafe fn own(fd: RawFd) -> OwnedFd {
    // SAFETY: as the caller promises.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

/// Closes every descriptor from `first` on.
///
/// # Safety
///
/// No object of this process may use these descriptors afterwards.
pub(crate) unsafe fn close_from(first: u32) -> Result<(), Errno> {
    // SAFETY: closing is harmless to memory; the caller answers for the owners.
    Errno::result(unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, 0u32) }).map(drop)
}

/// Has every descriptor from `first` on closed by the next exec.
///
/// # Safety
///
/// No object of this process may be meant to outlive that exec with these descriptors.
pub(crate) unsafe fn close_on_exec_from(first: RawFd) -> Result<(), Errno> {
    let flags = libc::CLOSE_RANGE_CLOEXEC;
    // SAFETY: marking is harmless to memory; the caller answers for the owners.
    Errno::result(unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, flags) }).map(drop)
}

/// Sends a signal to the process behind a pidfd.
pub(crate) fn pidfd_send_signal(pidfd: BorrowedFd<'_>, signal: i32) -> Result<(), Errno> {
    let no_info = std::ptr::null::<libc::siginfo_t>();
    // SAFETY: the pidfd is open and a null siginfo is allowed.
    Errno::result(unsafe { libc::syscall(libc::SYS_pidfd_send_signal, pidfd.as_raw_fd(), signal, no_info, 0u32) })
        .map(drop)
}

/// A pidfd of a process that cannot be reaped meanwhile.
pub(crate) fn pidfd_open(pid: i32) -> Result<OwnedFd, Errno> {
    // SAFETY: the call takes numbers only.
    let fd = Errno::result(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0u32) })?;
    // SAFETY: the descriptor is new, so nothing else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}

/// Makes a terminal the one that controls this process's session, which it leads (tty_ioctl(4)).
pub(crate) fn control_terminal(terminal: BorrowedFd<'_>) -> Result<(), Errno> {
    // SAFETY: the descriptor is open and the call takes a number.
    Errno::result(unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCSCTTY, 0) }).map(drop)
}

/// Sets the size of a terminal (tty_ioctl(4)).
pub(crate) fn set_window_size(terminal: BorrowedFd<'_>, size: &libc::winsize) -> Result<(), Errno> {
    // SAFETY: the descriptor is open and the kernel reads a struct that outlives the call.
    Errno::result(unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCSWINSZ, &raw const *size) }).map(drop)
}

/// Detaches a copy of the mount at `path` (open_tree(2)).
pub(crate) fn open_tree(path: &CStr, flags: u32) -> Result<OwnedFd, Errno> {
    // SAFETY: `path` is a C string that outlives the call.
    let fd = Errno::result(unsafe { libc::syscall(libc::SYS_open_tree, libc::AT_FDCWD, path.as_ptr(), flags) })?;
    // SAFETY: the descriptor is new, so nothing else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}

/// Attaches the detached mount `tree` on `target` (move_mount(2)).
pub(crate) fn move_mount(tree: BorrowedFd<'_>, target: BorrowedFd<'_>) -> Result<(), Errno> {
    const FROM_EMPTY_PATH: u32 = 0x4;
    const TO_EMPTY_PATH: u32 = 0x40;
    let empty = c"".as_ptr();
    // SAFETY: both descriptors are open and the paths are C strings.
    let result = unsafe {
        let flags = FROM_EMPTY_PATH | TO_EMPTY_PATH;
        libc::syscall(libc::SYS_move_mount, tree.as_raw_fd(), empty, target.as_raw_fd(), empty, flags)
    };
    Errno::result(result).map(drop)
}

/// Adds attributes (`MOUNT_ATTR_*`) to a mount.
pub(crate) fn mount_set(mount: BorrowedFd<'_>, at_flags: i32, set: u64) -> Result<(), Errno> {
    mount_setattr(mount, at_flags, libc::mount_attr { attr_set: set, attr_clr: 0, propagation: 0, userns_fd: 0 })
}

/// Maps the owners of a detached mount's files as a user namespace maps ids.
pub(crate) fn mount_map_ids(mount: BorrowedFd<'_>, at_flags: i32, ids: BorrowedFd<'_>) -> Result<(), Errno> {
    let userns_fd = u64::from(ids.as_raw_fd().unsigned_abs());
    let attr = libc::mount_attr { attr_set: libc::MOUNT_ATTR_IDMAP, attr_clr: 0, propagation: 0, userns_fd };
    mount_setattr(mount, at_flags, attr)
}

fn mount_setattr(mount: BorrowedFd<'_>, at_flags: i32, attr: libc::mount_attr) -> Result<(), Errno> {
    let flags = at_flags | libc::AT_EMPTY_PATH;
    // SAFETY: the descriptor is open, the path a C string, `attr` of the layout and size passed.
    let result = unsafe {
        let size = size_of::<libc::mount_attr>();
        libc::syscall(libc::SYS_mount_setattr, mount.as_raw_fd(), c"".as_ptr(), flags, &raw const attr, size)
    };
    Errno::result(result).map(drop)
}

/// Installs a seccomp filter on this thread (seccomp(2)).
pub(crate) fn seccomp_filter(program: &[libc::sock_filter], flags: libc::c_ulong) -> Result<(), Errno> {
    let length = program.len().try_into().map_err(|_| Errno::EINVAL)?;
    let program = libc::sock_fprog { len: length, filter: program.as_ptr().cast_mut() };
    // SAFETY: the kernel copies the program, whose length is right, and writes to neither structure.
    let result = unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, &raw const program) };
    Errno::result(result).map(drop)
}

/// Sets a resource limit of this process.
pub(crate) fn set_rlimit(resource: i32, soft: u64, hard: u64) -> Result<(), Errno> {
    let limit = libc::rlimit64 { rlim_cur: soft, rlim_max: hard };
    // SAFETY: `limit` outlives the call; pid 0 is this process; the old value is not asked for.
    Errno::result(unsafe { libc::prlimit64(0, resource as _, &raw const limit, std::ptr::null_mut()) }).map(drop)
}

/// Asks the scheduler for turns of this length on a processor, for the calling thread and those it starts. Kernels before
/// 6.12 have one length for all, and do not take it.
pub(crate) fn take_turns_of(nanoseconds: u64) -> Result<(), Errno> {
    // SAFETY: every field of the struct is an integer, for which zero is a value.
    let mut attributes: libc::sched_attr = unsafe { std::mem::zeroed() };
    let size = size_of::<libc::sched_attr>();
    // SAFETY: the kernel writes at most `size` bytes to a struct that outlives the call.
    let got = unsafe { libc::syscall(libc::SYS_sched_getattr, 0, &raw mut attributes, size, 0) };
    Errno::result(got)?;
    attributes.sched_runtime = nanoseconds;
    // SAFETY: the kernel reads a struct that outlives the call and says its own size.
    let set = unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attributes, 0) };
    Errno::result(set).map(drop)
}
