//! Who waits for which child. The shim is the parent of what it forked, and of the containers that runc leaves to it; the
//! processes that lose their parents come to it too, and somebody has to bury them. A reaper of all children
//! (`waitpid(-1)`) would take the ends away from those who wait for them, so each child that somebody waits for is listed.

use crate::process::Child;
use nix::sys::prctl;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use nix::unistd::Pid;
use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

static AWAITED: Mutex<BTreeSet<i32>> = Mutex::new(BTreeSet::new());
static ADOPTIONS: AtomicUsize = AtomicUsize::new(0);

fn awaited() -> MutexGuard<'static, BTreeSet<i32>> {
    AWAITED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Lists a child that somebody waits for.
pub(crate) fn list(pid: i32) {
    awaited().insert(pid);
}

/// Strikes a child out that was reaped.
pub(crate) fn strike(pid: i32) {
    awaited().remove(&pid);
}

/// Makes this process the parent of those of its descendants that lose theirs.
pub fn become_subreaper() -> io::Result<()> {
    Ok(prctl::set_child_subreaper(true)?)
}

/// While there is one, orphans wait for their burial: the child that is about to be adopted may be among them.
#[derive(Debug)]
pub struct Adoption(());

impl Adoption {
    /// To be made before the process is that leaves the child behind.
    pub fn begin() -> Adoption {
        ADOPTIONS.fetch_add(1, Ordering::Relaxed);
        Adoption(())
    }

    /// The child, which lost its parent, under watch of the current async runtime. Also one that has ended.
    pub fn child(&self, pid: u32) -> io::Result<Child> {
        Child::adopt(pid)
    }
}

impl Drop for Adoption {
    fn drop(&mut self) {
        ADOPTIONS.fetch_sub(1, Ordering::Relaxed);
        bury_orphans();
    }
}

/// Reaps for ever the children that end and that nobody waits for. To be called in the runtime's context, once.
pub fn bury() -> io::Result<impl Future<Output = ()>> {
    let mut ends = SigSet::empty();
    ends.add(Signal::SIGCHLD);
    // A handler would run in forked children too, where what it writes to is closed.
    ends.thread_block()?;
    let signals = SignalFd::with_flags(&ends, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
    // SAFETY: the AsyncFd owns the descriptor, which thus stays open and the same until it is dropped.
    let signals = unsafe { AsyncFd::register_with_interest(signals, Interest::READABLE) }?;
    Ok(async move {
        while let Ok(mut ready) = signals.readable().await {
            while let Ok(Some(_)) = signals.get_ref().read_signal() {}
            ready.clear_ready();
            bury_orphans();
        }
    })
}

fn bury_orphans() {
    if ADOPTIONS.load(Ordering::Relaxed) > 0 {
        return;
    }
    let orphans: Vec<i32> = {
        let awaited = awaited();
        children().into_iter().filter(|pid| !awaited.contains(pid)).collect()
    };
    for pid in orphans {
        // One that lives stays; one that is gone is nobody's.
        let _ = waitid(Id::Pid(Pid::from_raw(pid)), WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG);
    }
}

/// Living and ended; none on a kernel without the files that list them.
fn children() -> Vec<i32> {
    let Ok(threads) = fs::read_dir("/proc/self/task") else { return Vec::new() };
    let lists = threads.flatten().filter_map(|thread| fs::read_to_string(thread.path().join("children")).ok());
    lists.flat_map(|list| list.split_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<_>>()).collect()
}
