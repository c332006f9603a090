//! Whether the kernel killed in a cgroup for want of memory: also in a scope, which systemd removes as soon as it is
//! empty, and what was counted in it with it.

use super::hierarchy::Hierarchy;
use super::{Cgroup, CgroupError, read};
use std::convert::Infallible;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::time::timeout;

/// How long to look for what the kernel announced before the scope was gone: a turn of the runtime.
const LAST_LOOK: Duration = Duration::from_millis(5);

/// How long before the end of a container its last want of memory may have been the reason.
const JUST: Duration = Duration::from_secs(1);

/// A kill for want of memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OomKill {
    /// The limit that was reached, bytes, if it is known.
    pub limit_bytes: Option<u64>,
}

/// Follows one cgroup for as long as its container runs.
#[derive(Debug)]
pub struct OomWatch {
    cgroup: Arc<Cgroup>,
    /// What announces changes; only where the cgroup may be gone before it is asked.
    events: Option<AsyncFd<File>>,
    /// When something happened last that might have been a kill.
    stirred: Option<Instant>,
    seen: Seen,
}

/// What was counted at the last look.
#[derive(Debug, Default)]
struct Seen {
    slice_kills: u64,
    own_kills: u64,
    limit_bytes: Option<u64>,
}

impl OomWatch {
    /// Begins to follow. To be made in the runtime's context, before the guest runs.
    pub fn of(cgroup: Arc<Cgroup>) -> OomWatch {
        let events = cgroup.scope.as_ref().and_then(|_| announcing(&cgroup));
        let mut watch = OomWatch { stirred: None, cgroup, events, seen: Seen::default() };
        watch.look();
        watch
    }

    /// Keeps up with what happens; to be polled while the container runs.
    pub async fn follow(&mut self) -> Infallible {
        loop {
            let Some(events) = &self.events else { return std::future::pending().await };
            match events.ready(Interest::PRIORITY).await {
                Ok(mut ready) => ready.clear_ready(),
                Err(_) => return std::future::pending().await,
            }
            self.stirred = Some(Instant::now());
            self.look();
        }
    }

    /// Whether there was a kill, once the container has ended.
    pub async fn verdict(mut self) -> Option<OomKill> {
        let killed = match (self.cgroup.oom_kills(), &self.cgroup.scope) {
            (Ok(kills), _) => kills > 0,
            (Err(_), None) => false,
            (Err(_), Some(_)) => {
                let _ = timeout(LAST_LOOK, self.follow()).await;
                // What is counted in a scope counts in its slice too, as does what its neighbours meet.
                self.seen.own_kills > 0
                    || (self.has_just_stirred() && self.cgroup.oom_kills_in_slice() > self.seen.slice_kills)
            }
        };
        let limit = self.cgroup.memory_limit().ok().and_then(|limit| limit.read());
        killed.then_some(OomKill { limit_bytes: limit.or(self.seen.limit_bytes) })
    }

    /// Always, where nothing is announced.
    fn has_just_stirred(&self) -> bool {
        self.events.is_none() || self.stirred.is_some_and(|stirred| stirred.elapsed() < JUST)
    }

    fn look(&mut self) {
        if self.cgroup.scope.is_none() {
            return;
        }
        // The slice first: a kill between the two is not to be in its count alone.
        let slice_kills = self.cgroup.oom_kills_in_slice();
        let limit_bytes = self.cgroup.memory_limit().ok().and_then(|limit| limit.read());
        // Gone, or about to be: what was seen before stands.
        if let Ok(own_kills) = self.cgroup.oom_kills() {
            self.seen = Seen { slice_kills, own_kills, limit_bytes };
        }
    }
}

/// The file whose changes the kernel announces. Version 1 has none of the kind.
fn announcing(cgroup: &Cgroup) -> Option<AsyncFd<File>> {
    let Hierarchy::V2(root) = &cgroup.hierarchy else { return None };
    let file = File::open(root.join(&cgroup.path).join("memory.events")).ok()?;
    // What happened before it is read for the first time is announced too.
    file.read_at(&mut [0; 1], 0).ok()?;
    // SAFETY: the AsyncFd owns the file, whose descriptor thus stays open and the same until it is dropped.
    unsafe { AsyncFd::register_with_interest(file, Interest::PRIORITY) }.ok()
}

impl Cgroup {
    /// How many processes the kernel killed in it for want of memory.
    fn oom_kills(&self) -> Result<u64, CgroupError> {
        self.oom_kills_at(&self.path)
    }

    fn oom_kills_in_slice(&self) -> u64 {
        let slice = Path::new(&self.path).parent().and_then(Path::to_str).unwrap_or_default();
        self.oom_kills_at(slice).unwrap_or(0)
    }

    fn oom_kills_at(&self, path: &str) -> Result<u64, CgroupError> {
        let file = match &self.hierarchy {
            Hierarchy::V1(controllers) => controllers.dir("memory", path)?.join("memory.oom_control"),
            Hierarchy::V2(root) => root.join(path).join("memory.events"),
        };
        let text = read(&file)?;
        let count = text.lines().filter_map(|line| line.split_once(' ')).find(|(name, _)| *name == "oom_kill");
        Ok(count.and_then(|(_, count)| count.trim().parse().ok()).unwrap_or(0))
    }
}
