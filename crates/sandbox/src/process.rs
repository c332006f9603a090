//! Child processes: forked without exec, watched by pidfd, never reaped by accident.
//! A reaper of all children (`waitpid(-1)`) would steal the ones of hooks, runc and the compiler.

use crate::channel::{Channel, ChildEnd};
use crate::syscall::{self, Cloned};
use nix::errno::Errno;
use nix::sys::prctl;
use nix::sys::signal::Signal;
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use nix::unistd::setsid;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use tokio::io::unix::AsyncFd;

/// The child's end of the channel, in its table of descriptors.
const CHANNEL: RawFd = 3;

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
    /// Puts the child under watch of the current async runtime.
    pub fn watch(self) -> io::Result<(Child, Channel)> {
        // SAFETY: the AsyncFd owns the descriptor, which thus stays open and the same until it is dropped.
        let pidfd = unsafe { AsyncFd::register(self.pidfd) }?;
        let child = Child { pid: self.pid, pidfd };
        Ok((child, Channel::new(self.socket)?))
    }
}

impl Child {
    /// The process id, as this process sees it.
    pub fn pid(&self) -> u32 {
        self.pid.unsigned_abs()
    }

    /// Waits for the end and reaps the process. Cancel-safe; to be awaited to its end once.
    pub async fn wait(&self) -> io::Result<Ended> {
        loop {
            let mut ready = self.pidfd.readable().await?;
            match waitid(Id::PIDFd(self.pidfd.as_fd()), WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG)? {
                WaitStatus::Exited(_, code) => return Ok(Ended::Code(code)),
                WaitStatus::Signaled(_, signal, _) => return Ok(Ended::Signal(signal as i32)),
                _ => ready.clear_ready(),
            }
        }
    }

    /// Sends a signal; an error of kind `NotFound` if the process has ended.
    pub fn signal(&self, signal: u32) -> io::Result<()> {
        match syscall::pidfd_send_signal(self.pidfd.as_fd(), signal.cast_signed()) {
            Err(Errno::ESRCH) => Err(io::ErrorKind::NotFound.into()),
            result => Ok(result?),
        }
    }

    /// Ends the process if it still runs.
    pub fn kill(&self) {
        let _ = self.signal(Signal::SIGKILL as u32);
    }
}

/// The descriptors of a child from number 0 on, the channel apart.
pub(crate) struct Descriptors<'a> {
    /// Standard input, output and error.
    pub stdio: [BorrowedFd<'a>; 3],
    /// What follows the channel, from number 4 on.
    pub rest: Vec<BorrowedFd<'a>>,
}

/// Forks this process; `body` runs in the child, which holds no descriptor but the given ones, and never returns.
///
/// The caller must be single-threaded and outside of any async runtime's context, since the child makes its own. The
/// child must not drop objects it inherits from a runtime: they share an epoll instance with the parent.
pub(crate) fn fork(
    namespaces: i32,
    descriptors: &Descriptors<'_>,
    body: impl FnOnce(ChildEnd, Vec<OwnedFd>),
) -> io::Result<Spawned> {
    let (ours, theirs) = UnixStream::pair()?;
    match syscall::fork(namespaces)? {
        Cloned::Parent { pid, pidfd } => Ok(Spawned { pid, pidfd, socket: ours }),
        Cloned::Child => {
            if let Ok(rest) = lay_out(descriptors, theirs.as_fd()) {
                body(ChildEnd::new(syscall::own(CHANNEL)), rest);
            }
            syscall::exit_now(1)
        }
    }
}

/// Forks this process into a daemon that outlives it: a session of its own, nothing open but `listener`, `/dev/null`
/// for stdio. `body` runs in the daemon. The caller must be single-threaded.
pub fn daemonize(listener: OwnedFd, body: impl FnOnce(OwnedFd)) -> io::Result<u32> {
    match syscall::fork(0)? {
        Cloned::Parent { pid, .. } => Ok(pid.unsigned_abs()),
        Cloned::Child => {
            if let Ok(listener) = detach(listener.as_fd()) {
                body(listener);
            }
            syscall::exit_now(1)
        }
    }
}

fn detach(listener: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let null = std::fs::OpenOptions::new().read(true).write(true).open("/dev/null")?;
    // Never dropped: laying out closes it, and its number may be one that the layout gives to another.
    let null = std::mem::ManuallyDrop::new(null);
    setsid()?;
    // The listener takes the place that a child's channel has.
    let layout = Descriptors { stdio: [null.as_fd(); 3], rest: Vec::new() };
    lay_out(&layout, listener)?;
    Ok(syscall::own(CHANNEL))
}

/// Ends this process at once, without destructors or exit handlers.
pub fn exit(code: i32) -> ! {
    syscall::exit_now(code)
}

fn lay_out(descriptors: &Descriptors<'_>, channel: BorrowedFd<'_>) -> Result<Vec<OwnedFd>, Errno> {
    let wanted: Vec<_> =
        descriptors.stdio.iter().copied().chain([channel]).chain(descriptors.rest.iter().copied()).collect();
    let count = wanted.len() as RawFd;
    // First out of the way of the numbers they are to get, then to these numbers.
    let parked: Vec<OwnedFd> =
        wanted.iter().map(|fd| syscall::duplicate_above(*fd, count)).collect::<Result<_, _>>()?;
    for (number, fd) in (0..).zip(&parked) {
        syscall::duplicate_to(fd.as_fd(), number)?;
    }
    std::mem::forget(parked);
    // An inherited descriptor of the task service would hide the shim's death from containerd.
    syscall::close_from(count.unsigned_abs())?;
    Ok((CHANNEL + 1..count).map(syscall::own).collect())
}

/// Ties this process to its parent's life. Set again after a change of identity, which clears it (prctl(2)).
pub(crate) fn die_with_parent() -> io::Result<()> {
    Ok(prctl::set_pdeathsig(Signal::SIGKILL)?)
}
