//! Child processes: forked without exec, watched by pidfd, never reaped by accident.
//! A reaper of all children (`waitpid(-1)`) would steal the ones of hooks, runc and the compiler.

use crate::channel::{Channel, ChildEnd};
use crate::children;
use crate::syscall::{self, Cloned};
use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::sys::prctl;
use nix::sys::signal::{SigSet, Signal, killpg};
use nix::sys::socket::getsockopt;
use nix::sys::socket::sockopt::PeerCredentials;
use nix::sys::stat::{Mode, umask};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use nix::unistd::{Pid, setsid};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::panic::{AssertUnwindSafe, catch_unwind};
use tokio::io::unix::AsyncFd;

/// The child's end of the channel, in its table of descriptors.
const CHANNEL: RawFd = 3;

/// The kernel's `PF_EXITING` (include/linux/sched.h).
const EXITING: u32 = 0x4;

/// How a process ended, as the kernel says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// It left with this code.
    Code(i32),
    /// This signal ended it.
    Signal(i32),
}

/// A child that was just forked, outside of any async runtime.
#[derive(Debug)]
pub struct Spawned {
    pid: i32,
    pidfd: OwnedFd,
    socket: UnixStream,
}

/// A child under watch. Dropping it does not end the process.
#[derive(Debug)]
pub struct Child {
    pid: i32,
    pidfd: AsyncFd<OwnedFd>,
}

impl Spawned {
    /// The process id, as this process sees it.
    pub(crate) fn pid(&self) -> u32 {
        self.pid.unsigned_abs()
    }

    /// Ends the process and reaps it; for one that ends at once.
    pub(crate) fn end(self) -> io::Result<()> {
        let _ = syscall::pidfd_send_signal(self.pidfd.as_fd(), Signal::SIGKILL as i32);
        waitid(Id::PIDFd(self.pidfd.as_fd()), WaitPidFlag::WEXITED)?;
        children::strike(self.pid);
        Ok(())
    }

    /// Puts the child under watch of the current async runtime.
    pub fn watch(self) -> io::Result<(Child, Channel)> {
        // SAFETY: the AsyncFd owns the descriptor, which thus stays open and the same until it is dropped.
        let pidfd = unsafe { AsyncFd::register(self.pidfd) }?;
        let child = Child { pid: self.pid, pidfd };
        Ok((child, Channel::new(self.socket)?))
    }
}

impl Child {
    /// A child that this process did not fork itself, under watch of the current async runtime.
    pub(crate) fn adopt(pid: u32) -> io::Result<Child> {
        let pid = pid.cast_signed();
        children::list(pid);
        // SAFETY: the AsyncFd owns the descriptor, which thus stays open and the same until it is dropped.
        let watched = syscall::pidfd_open(pid)
            .map_err(io::Error::from)
            .and_then(|pidfd| Ok(unsafe { AsyncFd::register(pidfd) }?));
        match watched {
            Ok(pidfd) => Ok(Child { pid, pidfd }),
            Err(error) => {
                children::strike(pid);
                Err(error)
            }
        }
    }

    /// The process id, as this process sees it.
    pub fn pid(&self) -> u32 {
        self.pid.unsigned_abs()
    }

    /// Waits for the end and reaps the process. Cancel-safe; to be awaited to its end once.
    pub async fn wait(&self) -> io::Result<Ended> {
        loop {
            let mut ready = self.pidfd.readable().await?;
            let ended = match waitid(Id::PIDFd(self.pidfd.as_fd()), WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG)? {
                WaitStatus::Exited(_, code) => Ended::Code(code),
                WaitStatus::Signaled(_, signal, _) => Ended::Signal(signal as i32),
                _ => {
                    ready.clear_ready();
                    continue;
                }
            };
            children::strike(self.pid);
            return Ok(ended);
        }
    }

    /// Sends a signal; an error of kind `NotFound` if the process has ended.
    pub fn signal(&self, signal: u32) -> io::Result<()> {
        match syscall::pidfd_send_signal(self.pidfd.as_fd(), signal.cast_signed()) {
            Err(Errno::ESRCH) => Err(io::ErrorKind::NotFound.into()),
            result => Ok(result?),
        }
    }

    /// Ends the process if it still runs, and reaps it.
    pub async fn end(&self) {
        self.kill();
        let _ = self.wait().await;
    }

    /// As [`Child::end`], with all processes of the group that it leads: it must have made one.
    pub async fn end_group(&self) {
        // Its number is its own until it is reaped, below.
        let _ = killpg(Pid::from_raw(self.pid), Signal::SIGKILL);
        self.end().await;
    }

    /// Ends the process if it still runs.
    pub fn kill(&self) {
        let _ = self.signal(Signal::SIGKILL as u32);
    }
}

impl Drop for Child {
    /// Who is not waited for any more is one of those that somebody has to bury.
    fn drop(&mut self) {
        children::strike(self.pid);
    }
}

/// The descriptors of a child from number 0 on, the channel apart.
pub(crate) struct Descriptors<'a> {
    /// Standard input, output and error.
    pub stdio: [BorrowedFd<'a>; 3],
    /// What follows the channel, from number 4 on.
    pub rest: Vec<BorrowedFd<'a>>,
}

/// Where a child is born.
#[derive(Debug, Default)]
pub(crate) struct Birth<'a> {
    /// Namespaces to make, `CLONE_NEW*`.
    pub namespaces: i32,
    /// A cgroup of version 2 to be in, if not this process's.
    pub cgroup: Option<BorrowedFd<'a>>,
}

/// Forks this process; `body` runs in the child, which holds no descriptor but the given ones, and never returns.
/// Descriptors of objects that `body` captures are closed in it.
///
/// Refused in a process of several threads: locks that the others hold would stay locked in the child for ever. The
/// caller must be outside of any async runtime's context, since the child makes its own.
pub(crate) fn fork(
    birth: Birth<'_>,
    descriptors: &Descriptors<'_>,
    body: impl FnOnce(ChildEnd, Vec<OwnedFd>),
) -> io::Result<Spawned> {
    let (ours, theirs) = UnixStream::pair()?;
    match fork_alone(birth)? {
        Cloned::Parent { pid, pidfd } => {
            children::list(pid);
            Ok(Spawned { pid, pidfd, socket: ours })
        }
        Cloned::Child => for_good(|| {
            // The shim hears of its children by other means than a handler.
            SigSet::empty().thread_set_mask()?;
            let mut laid_out = lay_out(descriptors, theirs.as_fd())?;
            let rest = laid_out.split_off(1);
            let channel = laid_out.remove(0);
            body(ChildEnd::new(channel), rest);
            Ok(())
        }),
    }
}

fn fork_alone(birth: Birth<'_>) -> io::Result<Cloned> {
    if std::fs::read_dir("/proc/self/task")?.count() > 1 {
        return Err(io::Error::other("the process has more than one thread"));
    }
    // SAFETY: there is no other thread, as was just seen, and none is made meanwhile by this one.
    Ok(unsafe { syscall::fork(birth.namespaces, birth.cgroup) }?)
}

/// Runs the whole life of a forked child. A panic ends it here: unwound further, it would drop what belongs to the
/// parent, such as temporary files and objects of a runtime, whose epoll instance is shared.
fn for_good(life: impl FnOnce() -> Result<(), Errno>) -> ! {
    const PANICKED: i32 = 101;
    match catch_unwind(AssertUnwindSafe(life)) {
        Ok(_) => syscall::exit_now(1),
        Err(payload) => {
            std::mem::forget(payload);
            syscall::exit_now(PANICKED)
        }
    }
}

/// Forks this process into a daemon that outlives it: a session of its own, nothing open but `kept`, `/dev/null` for
/// stdio. `body` runs in the daemon. The caller must be single-threaded.
pub fn daemonize(kept: OwnedFd, body: impl FnOnce(OwnedFd)) -> io::Result<u32> {
    match fork_alone(Birth::default())? {
        Cloned::Parent { pid, .. } => Ok(pid.unsigned_abs()),
        Cloned::Child => for_good(|| {
            body(detach(kept.as_fd())?);
            Ok(())
        }),
    }
}

fn detach(kept: BorrowedFd<'_>) -> Result<OwnedFd, Errno> {
    let null = open("/dev/null", OFlag::O_RDWR | OFlag::O_CLOEXEC, Mode::empty())?;
    // Never dropped: laying out closes it, and its number may be one that the layout gives to another.
    let null = std::mem::ManuallyDrop::new(null);
    setsid()?;
    // Not the unit's of containerd: what is made in a root filesystem must be reachable by the container's user.
    umask(Mode::from_bits_truncate(0o022));
    // What is kept takes the place that a child's channel has.
    let layout = Descriptors { stdio: [null.as_fd(); 3], rest: Vec::new() };
    Ok(lay_out(&layout, kept)?.remove(0))
}

/// Whether the daemon behind a fresh connection to its listener is to stay. A process that was killed closes its
/// descriptors one by one: its other connections may be gone already while its listener still takes new ones.
pub fn serves(connection: &UnixStream) -> bool {
    let Ok(peer) = getsockopt(connection, PeerCredentials) else { return false };
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", peer.pid())).unwrap_or_default();
    // proc_pid_stat(5): the name in parentheses may hold blanks; flags are the seventh field after it.
    let flags = stat.rsplit_once(')').and_then(|(_, fields)| fields.split_whitespace().nth(6)?.parse::<u32>().ok());
    flags.is_some_and(|flags| flags & EXITING == 0)
}

/// Ends this process at once, without destructors or exit handlers.
pub fn exit(code: i32) -> ! {
    syscall::exit_now(code)
}

/// Gives the channel, then the rest.
fn lay_out(descriptors: &Descriptors<'_>, channel: BorrowedFd<'_>) -> Result<Vec<OwnedFd>, Errno> {
    let wanted: Vec<_> =
        descriptors.stdio.iter().copied().chain([channel]).chain(descriptors.rest.iter().copied()).collect();
    let count = wanted.len() as RawFd;
    // First out of the way of the numbers they are to get, then to these numbers.
    let parked: Vec<OwnedFd> =
        wanted.iter().map(|fd| syscall::duplicate_above(*fd, count)).collect::<Result<_, _>>()?;
    for (number, fd) in (0..).zip(&parked) {
        // SAFETY: what owned the number belongs to the parent, and this child never uses it.
        unsafe { syscall::duplicate_to(fd.as_fd(), number) }?;
    }
    std::mem::forget(parked);
    // An inherited descriptor of the task service would hide the shim's death from containerd.
    // SAFETY: as above; those parked are forgotten.
    unsafe { syscall::close_from(count.unsigned_abs()) }?;
    // SAFETY: each number was laid out just now and is owned here alone.
    Ok((CHANNEL..count).map(|number| unsafe { syscall::own(number) }).collect())
}

/// Ties this process to its parent's life. Set again after a change of identity, which clears it (prctl(2)).
pub(crate) fn die_with_parent() -> io::Result<()> {
    Ok(prctl::set_pdeathsig(Signal::SIGKILL)?)
}
