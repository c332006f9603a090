//! The container's control group, under cgroupfs: version 1 (a hierarchy for each controller) or 2 (one for all).
//! The systemd driver has its place beside these two.

mod files;
mod freezer;
mod hierarchy;
mod stats;
mod v1;
mod v2;

pub use freezer::Freeze;
pub use stats::{CpuStats, MemoryStats, PidsStats, Stats, Version};

use files::{add_parent_mark, marked_parent, read, write};
use hierarchy::Hierarchy;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use plan::Limits;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long the members of a killed cgroup may take to end.
const EMPTYING: Duration = Duration::from_secs(10);
/// Between two looks.
const PAUSE: Duration = Duration::from_millis(1);

/// Why a cgroup could not be used.
#[derive(Debug, thiserror::Error)]
pub enum CgroupError {
    /// The node has no hierarchy with this controller.
    #[error("no cgroup hierarchy with controller {0} is mounted on this node")]
    NoController(&'static str),
    /// A file or directory of cgroupfs refused.
    #[error("{action} {path}")]
    File {
        /// `make`, `write 5 to`, …
        action: String,
        /// The file or directory.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// It is another's, whose processes would be limited, and ended, with ours.
    #[error("cgroup {0} exists already: give each container a cgroup of its own, or remove this one")]
    Exists(PathBuf),
    /// Somebody made cgroups below the container's.
    #[error("cgroup {0} was made below the container's: remove it")]
    Child(PathBuf),
    /// A member does not stop.
    #[error("cgroup {0} has processes that do not stop: they wait for a device, try again")]
    Unstoppable(PathBuf),
    /// Members stay alive.
    #[error("cgroup {0} still has processes 10 s after they were killed")]
    Busy(PathBuf),
}

/// One container's cgroup: a directory in each hierarchy in use.
#[derive(Debug)]
pub struct Cgroup {
    hierarchy: Hierarchy,
    path: String,
}

impl Cgroup {
    /// The cgroup at `path` below the root of each hierarchy, whether it exists or not.
    pub fn at(path: &str) -> io::Result<Cgroup> {
        Ok(Cgroup { hierarchy: Hierarchy::of_this_node()?, path: path.trim_start_matches('/').to_owned() })
    }

    /// Refuses a cgroup that is there. To be asked before it is written down as the container's.
    pub fn ensure_free(&self) -> Result<(), CgroupError> {
        match self.dirs().into_iter().find(|dir| dir.exists()) {
            None => Ok(()),
            Some(dir) => Err(CgroupError::Exists(dir)),
        }
    }

    /// Makes it, with its limits set before anybody is in it. On failure nothing of it is left.
    pub fn create(&self, limits: &Limits) -> Result<(), CgroupError> {
        let dirs = self.dirs();
        for (index, dir) in dirs.iter().enumerate() {
            if let Err(error) = make(dir, self.hierarchy.root_of(dir)) {
                self.unmake(&dirs[..index]);
                return Err(error);
            }
        }
        let limited = match &self.hierarchy {
            Hierarchy::V1(controllers) => v1::limit(controllers, &self.path, limits),
            Hierarchy::V2(root) => v2::limit(root, &self.path, limits),
        };
        if limited.is_err() {
            self.unmake(&dirs);
        }
        limited
    }

    /// Puts this process into it.
    pub fn join(&self) -> Result<(), CgroupError> {
        self.dirs().iter().try_for_each(|dir| write(&dir.join("cgroup.procs"), "0"))
    }

    /// How many processes the kernel killed in it for its memory limit.
    pub fn oom_kills(&self) -> Result<u64, CgroupError> {
        let (file, key) = match &self.hierarchy {
            Hierarchy::V1(controllers) => {
                (controllers.dir("memory", &self.path)?.join("memory.oom_control"), "oom_kill")
            }
            Hierarchy::V2(root) => (root.join(&self.path).join("memory.events"), "oom_kill"),
        };
        let text = read(&file)?;
        let count = text.lines().filter_map(|line| line.split_once(' ')).find(|(name, _)| *name == key);
        Ok(count.and_then(|(_, count)| count.trim().parse().ok()).unwrap_or(0))
    }

    /// The processes in it.
    pub fn processes(&self) -> Vec<u32> {
        let mut pids: Vec<u32> = Vec::new();
        for dir in self.dirs() {
            let text = fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
            pids.extend(text.lines().filter_map(|line| line.parse::<u32>().ok()));
        }
        pids.sort_unstable();
        pids.dedup();
        pids
    }

    /// Ends every process in it and removes it, with those of its parents that [`Cgroup::create`] made and that are
    /// empty now. Not being there is no error.
    pub async fn remove(&self) -> Result<(), CgroupError> {
        let deadline = Instant::now() + EMPTYING;
        while let Some(busy) = self.try_to_remove()? {
            if Instant::now() > deadline {
                return Err(CgroupError::Busy(busy));
            }
            tokio::time::sleep(PAUSE).await;
        }
        Ok(())
    }

    /// As [`Cgroup::remove`], for a process that has nothing else to do.
    pub fn remove_blocking(&self) -> Result<(), CgroupError> {
        let deadline = Instant::now() + EMPTYING;
        while let Some(busy) = self.try_to_remove()? {
            if Instant::now() > deadline {
                return Err(CgroupError::Busy(busy));
            }
            std::thread::sleep(PAUSE);
        }
        Ok(())
    }

    /// The directory that is still in use, if there is one.
    fn try_to_remove(&self) -> Result<Option<PathBuf>, CgroupError> {
        let members = self.processes();
        for pid in &members {
            let _ = kill(Pid::from_raw(pid.cast_signed()), Signal::SIGKILL);
        }
        if !members.is_empty() {
            // A node without a freezer has nothing frozen.
            let _ = self.thaw();
        }
        let dirs = self.dirs();
        if let Some(busy) = dirs.iter().find(|dir| !removed(dir)) {
            // A guest has no cgroupfs: what is below is somebody else's, and does not end with the container.
            return match child_of(busy) {
                Some(child) => Err(CgroupError::Child(child)),
                None => Ok(Some(busy.clone())),
            };
        }
        self.unmake(&dirs);
        Ok(None)
    }

    fn unmake(&self, dirs: &[PathBuf]) {
        for dir in dirs {
            removed(dir);
            remove_made_parents(dir, self.hierarchy.root_of(dir));
        }
    }

    fn dirs(&self) -> Vec<PathBuf> {
        match &self.hierarchy {
            Hierarchy::V1(controllers) => controllers.dirs(&self.path),
            Hierarchy::V2(root) => vec![root.join(&self.path)],
        }
    }
}

/// Makes a directory and the parents it lacks; these are marked, so that they are removed again.
fn make(dir: &Path, root: &Path) -> Result<(), CgroupError> {
    let fail = |source| CgroupError::File { action: "make".to_owned(), path: dir.to_owned(), source };
    loop {
        match fs::create_dir(dir) {
            Ok(()) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                return Err(CgroupError::Exists(dir.to_owned()));
            }
            // Also when a neighbour's end removed a parent in this moment.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let parent = dir.parent().filter(|parent| parent.starts_with(root) && *parent != root);
                let Some(parent) = parent else { return Err(fail(error)) };
                match make(parent, root) {
                    Ok(()) => add_parent_mark(parent),
                    Err(CgroupError::Exists(_)) => {}
                    Err(error) => return Err(error),
                }
            }
            Err(error) => return Err(fail(error)),
        }
    }
}

fn child_of(dir: &Path) -> Option<PathBuf> {
    let entries = fs::read_dir(dir).ok()?.flatten();
    let mut dirs = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    dirs.next().map(|entry| entry.path())
}

fn removed(dir: &Path) -> bool {
    match fs::remove_dir(dir) {
        Ok(()) => true,
        Err(error) => error.kind() == io::ErrorKind::NotFound,
    }
}

fn remove_made_parents(dir: &Path, root: &Path) {
    let parents = dir.ancestors().skip(1).take_while(|parent| *parent != root);
    for parent in parents {
        // A parent with other members stays, and its marked mark with it: the last one out removes it.
        if !marked_parent(parent) || !removed(parent) {
            return;
        }
    }
}
