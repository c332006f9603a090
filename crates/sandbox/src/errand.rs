//! Errands on the node: what has to wait, and thus cannot be done on the shim's only thread, is done by a child of its own,
//! among the node's mounts.

use crate::process::{self, Birth, Descriptors, Spawned};
use crate::rootfs::NodeMounts;
use crate::syscall;
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use plan::{Failure, Report};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

/// Forks a child that does `work`, with these descriptors as its standard streams and `dir` for temporary files, and reports that it is ready, or why it
/// is not. See [`process::fork`] for what the caller must hold to.
pub fn spawn(
    node: &NodeMounts,
    dir: &Path,
    streams: Option<&[OwnedFd; 3]>,
    work: impl FnOnce() -> Result<(), String>,
) -> io::Result<Spawned> {
    let null = File::options().read(true).write(true).open("/dev/null")?;
    let stdio = streams.map_or([null.as_fd(); 3], |streams| streams.each_ref().map(AsFd::as_fd));
    let descriptors = Descriptors { stdio, rest: vec![node.as_fd()] };
    process::fork(Birth::default(), &descriptors, |mut channel, rest| {
        match arrive(&channel, rest, dir).map_err(|error| error.to_string()).and_then(|()| work()) {
            Ok(()) => channel.report(&Report::Ready),
            Err(reason) => channel.fail(Failure::Message(reason)),
        }
        syscall::exit_now(0);
    })
}

/// Has a program that this process runs end with it.
pub fn bind(command: &mut Command) {
    // SAFETY: the hook makes one system call and touches no memory.
    unsafe { command.pre_exec(process::die_with_parent) };
}

fn arrive(channel: &impl AsFd, node: Vec<OwnedFd>, dir: &Path) -> io::Result<()> {
    process::die_with_parent()?;
    // Files for a moment, with secrets of the environment in them, are not for the node's /tmp.
    // SAFETY: this process has one thread.
    unsafe { std::env::set_var("XDG_RUNTIME_DIR", dir) };
    // Programs that it runs must not hold its end of the channel.
    fcntl(channel.as_fd(), FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC))?;
    node.iter().try_for_each(|node| NodeMounts::join(node.as_fd()))
}
