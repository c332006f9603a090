//! Signals that ask the container process to end.
//! A process that is number 1 of its namespace ignores them unless it installs a handler.

use crate::syscall;
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
use nix::unistd::pipe2;
use plan::FORBIDDEN_CALL;
use std::io;
use std::os::fd::{AsRawFd, IntoRawFd, OwnedFd};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicI32, Ordering};

/// The signals whose default is to end a process, without those that wasmtime or the Rust runtime needs itself.
const ENDING: [Signal; 15] = [
    Signal::SIGHUP,
    Signal::SIGINT,
    Signal::SIGQUIT,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
    Signal::SIGALRM,
    Signal::SIGTERM,
    Signal::SIGSTKFLT,
    Signal::SIGXCPU,
    Signal::SIGXFSZ,
    Signal::SIGVTALRM,
    Signal::SIGPROF,
    Signal::SIGIO,
    Signal::SIGPWR,
    Signal::SIGSYS,
];

/// The code of a SIGSYS that seccomp sends (`SYS_SECCOMP`, asm-generic/siginfo.h).
const TRAPPED_CALL: i32 = 1;

static PIPE: AtomicI32 = AtomicI32::new(-1);
static WAKE: OnceLock<Box<dyn Fn() + Send + Sync>> = OnceLock::new();

/// Installs handlers for every signal that asks to end. Each signal writes its number as a byte to the returned pipe
/// (non-blocking) and calls `wake`, which must be async-signal-safe.
///
/// To be called once a process.
pub fn install(wake: impl Fn() + Send + Sync + 'static) -> io::Result<OwnedFd> {
    let (read, write) = pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)?;
    PIPE.store(write.as_raw_fd(), Ordering::Release);
    // The handler may run until the process ends, so the write end is never closed.
    let _ = write.into_raw_fd();
    let _ = WAKE.set(Box::new(wake));
    // On the alternate stack: a guest's own stack may have no room left. Without SA_RESTART: a host call that blocks is
    // to return, so that the guest's next epoch check is reached.
    let flags = SaFlags::SA_ONSTACK | SaFlags::SA_SIGINFO;
    let action = SigAction::new(SigHandler::SigAction(on_signal), flags, SigSet::empty());
    for signal in ENDING {
        // SAFETY: the handler only reads atomics and what the kernel hands it, writes to a pipe, ends the process, and
        // calls a function that is signal-safe by `install`'s contract.
        unsafe { sigaction(signal, &action) }?;
    }
    Ok(read)
}

extern "C" fn on_signal(signal: i32, info: *mut libc::siginfo_t, _context: *mut libc::c_void) {
    // SAFETY: with SA_SIGINFO the kernel passes a siginfo that is valid while the handler runs.
    if signal == Signal::SIGSYS as i32 && unsafe { (*info).si_code } == TRAPPED_CALL {
        // The call was not made, and its result is none: to go on would be to go astray.
        syscall::exit_now(FORBIDDEN_CALL.cast_signed());
    }
    let saved = Errno::last_raw();
    let number = signal.to_le_bytes()[0];
    // SAFETY: write(2) is async-signal-safe; the descriptor stays open for the life of the process; one byte of a
    // local is written. A full pipe has signals enough already.
    unsafe { libc::write(PIPE.load(Ordering::Acquire), (&raw const number).cast(), 1) };
    if let Some(wake) = WAKE.get() {
        wake();
    }
    Errno::set_raw(saved);
}
