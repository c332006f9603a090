//! The container's control group, under version 1 (a hierarchy for each controller) or 2 (one for all): made by us in
//! cgroupfs, or by systemd as a scope.

mod files;
mod freezer;
mod hierarchy;
mod oom;
mod parents;
mod removal;
mod stats;
mod systemd;
mod v1;
mod v2;

pub use freezer::Freeze;
pub use oom::{OomKill, OomWatch};
pub use parents::Parents;
pub use stats::{CpuStats, IoStats, MemoryStats, PidsStats, Stats, SwapStats, Version};
pub use systemd::Wanted;

use files::{add_parent_mark, read, write};
use hierarchy::Hierarchy;
use plan::{CgroupPath, Limits};
use removal::members;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;
use systemd::Scope;

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
    /// Version 2 limits nothing below a cgroup with processes.
    #[error("cgroup {0} has processes of its own, so nothing below it can be limited: choose a cgroup elsewhere")]
    Occupied(PathBuf),
    /// Somebody made cgroups below the container's.
    #[error("cgroup {0} was made below the container's, and has to go first: end what is in it, then rmdir {0}")]
    Child(PathBuf),
    /// A member does not stop.
    #[error("cgroup {0} has processes that do not stop: they wait for a device, try again")]
    Unstoppable(PathBuf),
    /// Version 1 has no files that are the same for all controllers.
    #[error("linux.resources.unified names {0}, and this node has cgroup version 1: use the limits of version 1")]
    Unified(String),
    /// The container has ended meanwhile.
    #[error("cgroup {0} is gone: its container has ended")]
    Gone(PathBuf),
    /// Members stay alive.
    #[error("cgroup {0} still has processes 10 s after they were killed")]
    Busy(PathBuf),
}

/// One container's cgroup: a directory in each hierarchy in use.
#[derive(Debug)]
pub struct Cgroup {
    hierarchy: Hierarchy,
    path: String,
    scope: Option<Scope>,
}

impl Cgroup {
    /// The cgroup at `path` below the root of each hierarchy, whether it exists or not, to be removed.
    pub fn at(path: &str) -> io::Result<Cgroup> {
        let path = path.trim_start_matches('/').to_owned();
        Ok(Cgroup { hierarchy: Hierarchy::of_this_node()?, path, scope: None })
    }

    /// The cgroup of a container, whether it exists or not.
    pub fn of(wanted: &CgroupPath) -> io::Result<Cgroup> {
        let mut cgroup = Cgroup::at(&wanted.path())?;
        if let CgroupPath::Systemd { slice, scope } = wanted {
            let version = cgroup.hierarchy.version();
            let (slice, name) = (slice.clone(), scope.clone());
            cgroup.scope = Some(Scope { slice, name, version });
        }
        Ok(cgroup)
    }

    /// Refuses a cgroup that is there. To be asked before it is written down as the container's.
    pub fn ensure_free(&self) -> Result<(), CgroupError> {
        match self.dirs().into_iter().find(|dir| dir.exists()) {
            None => Ok(()),
            Some(dir) => Err(CgroupError::Exists(dir)),
        }
    }

    /// The directories above it that are not there, and that [`Cgroup::create`] is about to make.
    pub fn missing_parents(&self, limits: &Limits) -> Vec<PathBuf> {
        if self.scope.is_some() {
            return Vec::new();
        }
        let above = |dir: &Path| dir.ancestors().skip(1).take_while(|one| !one.exists()).map(Path::to_owned).collect();
        self.dirs_for(limits).iter().flat_map(|dir| -> Vec<PathBuf> { above(dir) }).collect()
    }

    /// Makes it, with its limits set before anybody is in it; gives a line for each that this node cannot keep and that
    /// a container can do without. On failure nothing of it is left.
    ///
    /// One of systemd's is made once there is a process, since systemd makes no scope without, and gets the rest of its
    /// limits by [`Cgroup::adjust`].
    pub fn create(&self, limits: &Limits) -> Result<Vec<String>, CgroupError> {
        if self.scope.is_some() {
            return Ok(Vec::new());
        }
        let dirs = self.dirs_for(limits);
        for (index, dir) in dirs.iter().enumerate() {
            if let Err(error) = make(dir, self.hierarchy.root_of(dir)) {
                // Another's stays; of one that was made half, parents may be there.
                let ours = if matches!(error, CgroupError::Exists(_)) { index } else { index + 1 };
                self.unmake(&dirs[..ours]);
                return Err(error);
            }
        }
        let limited = self.limit(limits);
        if limited.is_err() {
            self.unmake(&dirs);
        }
        limited
    }

    /// What a fork takes to put the child into it: under version 2, if it is ours to do, see [`Cgroup::is_systemd`].
    pub(crate) fn birthplace(&self) -> Result<Option<File>, CgroupError> {
        let Hierarchy::V2(root) = &self.hierarchy else { return Ok(None) };
        if self.scope.is_some() {
            return Ok(None);
        }
        let path = root.join(&self.path);
        let opened = File::open(&path);
        opened.map(Some).map_err(|source| CgroupError::File { action: "open".to_owned(), path, source })
    }

    /// Puts this process, which has one thread, into what it was not born in.
    pub fn join(&self, limits: &Limits) -> Result<(), CgroupError> {
        match &self.hierarchy {
            Hierarchy::V1(_) => self.dirs_for(limits).iter().try_for_each(|dir| join_v1(dir)),
            Hierarchy::V2(_) => Ok(()),
        }
    }

    /// Puts this process, which has one thread, into it wherever it is.
    pub fn join_as_it_is(&self) -> Result<(), CgroupError> {
        let dirs = self.dirs();
        let mut there = dirs.iter().filter(|dir| dir.exists()).peekable();
        if there.peek().is_none() {
            return Err(CgroupError::Gone(dirs.into_iter().next().unwrap_or_default()));
        }
        match &self.hierarchy {
            Hierarchy::V1(_) => there.try_for_each(|dir| join_v1(dir)),
            Hierarchy::V2(_) => there.try_for_each(|dir| write(&dir.join("cgroup.procs"), "0")),
        }
    }

    /// Sets limits that changed for the processes in it, `pid` among them; gives lines as [`Cgroup::create`] does.
    pub fn adjust(&self, pid: u32, limits: &Limits) -> Result<Vec<String>, CgroupError> {
        let Hierarchy::V1(controllers) = &self.hierarchy else { return self.limit(limits) };
        let dirs = self.dirs_for(limits);
        for dir in &dirs {
            match make(dir, self.hierarchy.root_of(dir)) {
                Ok(()) | Err(CgroupError::Exists(_)) => {}
                Err(error) => return Err(error),
            }
        }
        let notes = v1::limit(controllers, &self.path, limits)?;
        let mut all = self.processes();
        all.retain(|other| *other != pid);
        all.insert(0, pid);
        // Also into one that an update made which then failed.
        for dir in &dirs {
            let there = members(dir);
            for one in all.iter().filter(|one| !there.contains(one)) {
                match write(&dir.join("cgroup.procs"), &one.to_string()) {
                    // One that exec brought in has ended meanwhile.
                    Err(CgroupError::File { source, .. })
                        if *one != pid && source.raw_os_error() == Some(libc::ESRCH) => {}
                    moved => moved?,
                }
            }
        }
        Ok(notes)
    }

    /// Whether systemd makes it, and has to be told of new limits, lest it sets the old ones again: see
    /// [`Cgroup::ask_systemd`].
    pub fn is_systemd(&self) -> bool {
        self.scope.is_some()
    }

    fn limit(&self, limits: &Limits) -> Result<Vec<String>, CgroupError> {
        match &self.hierarchy {
            Hierarchy::V1(controllers) => v1::limit(controllers, &self.path, limits),
            Hierarchy::V2(root) => {
                if self.scope.is_none() {
                    v2::delegate(root, &self.path, limits)?;
                }
                v2::limit(&root.join(&self.path), limits)
            }
        }
    }

    /// Its limit of memory, as the kernel has it now and later.
    pub fn memory_limit(&self) -> Result<MemoryLimit, CgroupError> {
        let path = match &self.hierarchy {
            Hierarchy::V1(controllers) => controllers.dir("memory", &self.path)?.join("memory.limit_in_bytes"),
            Hierarchy::V2(root) => root.join(&self.path).join("memory.max"),
        };
        let opened = File::open(&path);
        opened.map(MemoryLimit).map_err(|source| CgroupError::File { action: "open".to_owned(), path, source })
    }

    fn dirs(&self) -> Vec<PathBuf> {
        match &self.hierarchy {
            Hierarchy::V1(controllers) => controllers.dirs(&self.path),
            Hierarchy::V2(root) => vec![root.join(&self.path)],
        }
    }

    /// The directories that a container with these limits is in.
    fn dirs_for(&self, limits: &Limits) -> Vec<PathBuf> {
        match &self.hierarchy {
            Hierarchy::V1(controllers) => {
                let needed = v1::needed(limits);
                controllers.dirs_of(&self.path, |name| hierarchy::ALWAYS.contains(&name) || needed.contains(&name))
            }
            Hierarchy::V2(root) => vec![root.join(&self.path)],
        }
    }
}

/// By thread: a whole process is moved under a lock of the node's that waits for every processor, some 10 ms.
fn join_v1(dir: &Path) -> Result<(), CgroupError> {
    write(&dir.join("tasks"), "0")
}

/// The file that holds a cgroup's limit of memory. It stays readable where cgroups cannot be seen any more.
#[derive(Debug)]
pub struct MemoryLimit(File);

impl MemoryLimit {
    /// The limit at this moment, bytes; `None` if there is none.
    pub fn read(&self) -> Option<u64> {
        let mut text = [0; 32];
        let length = self.0.read_at(&mut text, 0).ok()?;
        let text = std::str::from_utf8(&text[..length]).ok()?;
        text.trim().parse().ok().filter(|limit| *limit < stats::NO_LIMIT)
    }
}

/// Makes a directory and the parents it lacks; these are marked, so that they are removed again.
fn make(dir: &Path, root: &Path) -> Result<(), CgroupError> {
    let fail = |source| CgroupError::File { action: "make".to_owned(), path: dir.to_owned(), source };
    loop {
        match fs::create_dir(dir) {
            Ok(()) => return v1::inherit_sets(dir, root),
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
