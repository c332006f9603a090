//! Ending what is in a cgroup, and removing it with what was made for it.

use super::files::{marked_parent, write};
use super::hierarchy::Hierarchy;
use super::{Cgroup, CgroupError, PAUSE};
use crate::syscall;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long the members of a killed cgroup may take to end.
const EMPTYING: Duration = Duration::from_secs(10);

/// How long systemd may take to remove an empty scope; under version 1 it may not hear of it, and a `delete` action has
/// little time.
const SYSTEMD: Duration = Duration::from_secs(2);
/// The same under version 2, where it always hears of it, and is late on a busy node.
const BUSY_SYSTEMD: Duration = Duration::from_secs(8);

impl Cgroup {
    /// The processes in it.
    pub fn processes(&self) -> Vec<u32> {
        let mut pids: Vec<u32> = self.dirs().iter().flat_map(|dir| members(dir)).collect();
        pids.sort_unstable();
        pids.dedup();
        pids
    }

    /// Ends every process in it and removes it, with those of its parents that [`Cgroup::create`] made and that are
    /// empty now. Not being there is no error.
    pub async fn remove(&self) -> Result<(), CgroupError> {
        let begun = Instant::now();
        let patience = if let Hierarchy::V2(_) = self.hierarchy { BUSY_SYSTEMD } else { SYSTEMD };
        while let Some(busy) = self.try_to_remove(begun.elapsed() < patience)? {
            if begun.elapsed() > EMPTYING {
                return Err(CgroupError::Busy(busy));
            }
            tokio::time::sleep(PAUSE).await;
        }
        Ok(())
    }

    /// As [`Cgroup::remove`], for a process that has nothing else to do.
    pub fn remove_blocking(&self) -> Result<(), CgroupError> {
        let begun = Instant::now();
        while let Some(busy) = self.try_to_remove(begun.elapsed() < SYSTEMD)? {
            if begun.elapsed() > EMPTYING {
                return Err(CgroupError::Busy(busy));
            }
            std::thread::sleep(PAUSE);
        }
        Ok(())
    }

    /// The directory that is still in use, if there is one, or left to systemd.
    fn try_to_remove(&self, left_to_systemd: bool) -> Result<Option<PathBuf>, CgroupError> {
        let dirs = self.dirs();
        // systemd removes a scope that is empty. Removed under its eyes, it would not hear that the scope has ended, and
        // keep the unit for ever.
        if left_to_systemd
            && self.path.ends_with(".scope")
            && let Some(there) = dirs.iter().find(|dir| dir.exists())
        {
            self.kill_all();
            return Ok(Some(there.clone()));
        }
        let Some(busy) = dirs.iter().find(|dir| !removed(dir)) else {
            dirs.iter().for_each(|dir| remove_made_parents(dir, self.hierarchy.root_of(dir)));
            return Ok(None);
        };
        // Nobody is in most of them by now, which the kernel has just been asked.
        self.kill_all();
        // A guest has no cgroupfs: what is below is somebody else's, and does not end with the container.
        match child_of(busy) {
            Some(child) => Err(CgroupError::Child(child)),
            None => Ok(Some(busy.clone())),
        }
    }

    /// Ends every process in it.
    pub fn kill_all(&self) {
        let members = self.processes();
        if !members.is_empty() {
            self.kill(&members);
        }
    }

    /// Sends a signal to every process in it but `first`, which has it already.
    pub fn signal_others(&self, signal: u32, first: Option<u32>) {
        if signal == Signal::SIGKILL as u32 {
            return self.kill_all();
        }
        for pid in self.processes().into_iter().filter(|pid| Some(*pid) != first) {
            // One that is gone needs none.
            let pidfd = syscall::pidfd_open(pid.cast_signed());
            let _ = pidfd.and_then(|pidfd| syscall::pidfd_send_signal(pidfd.as_fd(), signal.cast_signed()));
        }
    }

    fn kill(&self, members: &[u32]) {
        // All at once, also those that are being forked; kernels before 5.14 have no such file.
        if let Hierarchy::V2(root) = &self.hierarchy
            && write(&root.join(&self.path).join("cgroup.kill"), "1").is_ok()
        {
            return;
        }
        for pid in members {
            let _ = kill(Pid::from_raw(pid.cast_signed()), Signal::SIGKILL);
        }
        // Under version 1 a frozen process does not die. A node without a freezer has nothing frozen.
        let _ = self.thaw();
    }

    pub(super) fn unmake(&self, dirs: &[PathBuf]) {
        for dir in dirs {
            removed(dir);
            remove_made_parents(dir, self.hierarchy.root_of(dir));
        }
    }
}

/// The processes in one directory of it.
pub(super) fn members(dir: &Path) -> Vec<u32> {
    let text = fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
    // A process that this one cannot see is 0, which a signal takes for a group of our own.
    text.lines().filter_map(|line| line.parse::<u32>().ok()).filter(|pid| *pid > 0).collect()
}

fn child_of(dir: &Path) -> Option<PathBuf> {
    let entries = fs::read_dir(dir).ok()?.flatten();
    let mut dirs = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    dirs.next().map(|entry| entry.path())
}

/// Whether it is not there any more.
pub(super) fn removed(dir: &Path) -> bool {
    match fs::remove_dir(dir) {
        Ok(()) => true,
        Err(error) => error.kind() == io::ErrorKind::NotFound,
    }
}

/// Removes the marked directories above one, from the nearest on.
pub(super) fn remove_made_parents(dir: &Path, root: &Path) {
    let parents = dir.ancestors().skip(1).take_while(|parent| *parent != root);
    for parent in parents {
        // A parent with other members stays, and its marked mark with it: the last one out removes it.
        if !marked_parent(parent) || !removed(parent) {
            return;
        }
    }
}
