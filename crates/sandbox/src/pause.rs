//! A pod's pause container: it holds namespaces, takes the processes in that lose their parents, and waits.
//! Everything of it is here and in the shim's own binary: no code of an image runs.

use crate::container::Inside;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
use plan::{ExitStatus, Failure};
use std::os::fd::{AsFd, OwnedFd};

/// The life of its process.
pub fn run(mut inside: Inside<'_>) -> ! {
    inside.join_cgroup();
    // As number 1 of a process namespace it becomes the parent of orphans: the kernel buries those whose parent ignores
    // their end.
    let ignore = SigAction::new(SigHandler::SigIgn, SaFlags::empty(), SigSet::empty());
    // SAFETY: ignoring a signal runs no code.
    if let Err(errno) = unsafe { sigaction(Signal::SIGCHLD, &ignore) } {
        inside.fail(Failure::Message(format!("ignore the ends of orphans: {errno}")));
    }
    let (mut confined, signals) = inside.confine(|| {});
    let status = confined.wait_for_start().unwrap_or_else(|| wait(&signals));
    confined.end(status)
}

/// Waits for a signal that asks to end.
fn wait(signals: &OwnedFd) -> ExitStatus {
    loop {
        let mut fds = [PollFd::new(signals.as_fd(), PollFlags::POLLIN)];
        match poll(&mut fds, PollTimeout::NONE) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return ExitStatus::Trap { reason: format!("wait for signals: {errno}") },
        }
        let mut number = [0];
        let read = nix::unistd::read(signals, &mut number);
        if read == Ok(1) && [Signal::SIGTERM as u8, Signal::SIGINT as u8].contains(&number[0]) {
            return ExitStatus::Code(0);
        }
    }
}
