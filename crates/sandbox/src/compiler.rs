//! The compile child: turns wasm from one descriptor into code on another, and can do nothing else.

use crate::channel::ChildEnd;
use crate::identity;
use crate::process::{self, Birth, Descriptors, Spawned};
use crate::seccomp;
use crate::syscall;
use nix::sys::prctl;
use plan::{CompileBounds, Failure, User};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};

/// The user that owns nothing.
const NOBODY: User = User { uid: 65_534, gid: 65_534, groups: Vec::new(), umask: None, low_ports: false };

/// The descriptors of a compilation.
#[derive(Debug)]
pub struct Job<'a> {
    /// The wasm, read from its start.
    pub wasm: &'a File,
    /// Where the code goes.
    pub output: &'a File,
    /// The lock of the artifact; the child takes it, since waiting for it would stop the shim.
    pub lock: &'a File,
    /// For the child's standard input, output and error.
    pub null: BorrowedFd<'a>,
}

/// The descriptors as the compile child has them.
#[derive(Debug)]
pub struct Inputs {
    /// The wasm, read from its start.
    pub wasm: File,
    /// Where the code goes.
    pub output: File,
    /// The lock of the artifact.
    pub lock: File,
}

/// Forks the compile child; `body` runs in it, unprivileged and bounded. See [`process::fork`] for what the caller
/// must hold to. The bound on time is the caller's to hold: a child that waits for its lock uses none.
pub fn spawn(job: &Job<'_>, bounds: CompileBounds, body: impl FnOnce(Inputs, ChildEnd)) -> io::Result<Spawned> {
    let rest = vec![job.wasm.as_fd(), job.output.as_fd(), job.lock.as_fd()];
    let descriptors = Descriptors { stdio: [job.null; 3], rest };
    // A network namespace is not needed: the filter refuses to make sockets.
    process::fork(Birth::default(), &descriptors, |mut channel, rest| {
        if let Err(error) = confine(bounds) {
            channel.fail(Failure::Message(plan::one_line(error.as_ref())));
        }
        if let Ok([wasm, output, lock]) = <[_; 3]>::try_from(rest) {
            body(Inputs { wasm: wasm.into(), output: output.into(), lock: lock.into() }, channel);
            syscall::exit_now(0);
        }
    })
}

fn confine(bounds: CompileBounds) -> Result<(), Box<dyn std::error::Error>> {
    let filters = seccomp::compiler()?;
    process::die_with_parent()?;
    prctl::set_name(c"wasm-compile")?;
    syscall::set_rlimit(libc::RLIMIT_AS as i32, bounds.memory_bytes, bounds.memory_bytes)?;
    syscall::set_rlimit(libc::RLIMIT_CORE as i32, 0, 0)?;
    identity::become_user(&NOBODY)?;
    identity::bar_new_privileges()?;
    filters.iter().try_for_each(seccomp::install)?;
    Ok(())
}
