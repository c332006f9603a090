//! Instances that wait for their next request, and how long they are kept without one.
//! It must not know what an instance is, nor what time it is.

use std::mem;
use std::time::Duration;
use tokio::time::Instant;

/// How long one is kept: its memory is the container's, and a fresh one costs the next request some microseconds.
const KEPT: Duration = Duration::from_secs(30);

/// Those that wait.
pub(super) struct Idle<T> {
    /// With the moment since when, the latest last.
    waiting: Vec<(Instant, T)>,
    /// Whether somebody is to ask for the outdated ones.
    watched: bool,
}

/// Those that have waited for too long.
pub(super) struct Outdated<T> {
    /// To be dropped where nobody waits for that.
    pub(super) instances: Vec<T>,
    /// When to ask again; `None` if nobody waits any more.
    pub(super) next: Option<Instant>,
}

impl<T> Default for Idle<T> {
    fn default() -> Self {
        Idle { waiting: Vec::new(), watched: false }
    }
}

impl<T> Idle<T> {
    /// The one that has waited least.
    pub(super) fn take(&mut self) -> Option<T> {
        self.waiting.pop().map(|(_, instance)| instance)
    }

    /// Keeps one; `now` is no earlier than at the last call. Gives when to ask for the outdated ones, if nobody is to do
    /// so yet.
    pub(super) fn keep(&mut self, now: Instant, instance: T) -> Option<Instant> {
        self.waiting.push((now, instance));
        (!mem::replace(&mut self.watched, true)).then(|| now + KEPT)
    }

    /// Gives up those that have waited for too long.
    pub(super) fn outdated(&mut self, now: Instant) -> Outdated<T> {
        let count = self.waiting.partition_point(|(since, _)| *since + KEPT <= now);
        let instances = self.waiting.drain(..count).map(|(_, instance)| instance).collect();
        let next = self.waiting.first().map(|(since, _)| *since + KEPT);
        self.watched = next.is_some();
        Outdated { instances, next }
    }

    /// Gives up all of them, to be dropped where nobody waits for that.
    pub(super) fn clear(&mut self) -> Vec<(Instant, T)> {
        mem::take(&mut self.waiting)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn who_waits_for_30_s_is_given_up() {
        let begun = Instant::now();
        let mut idle = Idle::default();
        assert_eq!(idle.keep(begun, "first"), Some(begun + 30 * SECOND));
        assert_eq!(idle.keep(begun + SECOND, "second"), None, "somebody looks already");
        let look = idle.outdated(begun + 30 * SECOND);
        assert_eq!((look.instances, look.next), (vec!["first"], Some(begun + 31 * SECOND)));
        let look = idle.outdated(begun + 31 * SECOND);
        assert_eq!((look.instances, look.next), (vec!["second"], None));
        assert_eq!(idle.keep(begun + 60 * SECOND, "third"), Some(begun + 90 * SECOND), "somebody has to look anew");
    }

    #[test]
    fn who_is_used_waits_anew() {
        let begun = Instant::now();
        let mut idle = Idle::default();
        idle.keep(begun, "one");
        let used = idle.take().unwrap();
        idle.keep(begun + 20 * SECOND, used);
        let look = idle.outdated(begun + 30 * SECOND);
        assert_eq!((look.instances, look.next), (vec![], Some(begun + 50 * SECOND)));
    }

    #[test]
    fn nobody_looks_for_ever() {
        let begun = Instant::now();
        let mut idle = Idle::default();
        idle.keep(begun, "one");
        idle.take();
        assert_eq!(idle.outdated(begun + 30 * SECOND).next, None);
        idle.keep(begun, "two");
        idle.clear();
        assert_eq!(idle.outdated(begun + 30 * SECOND).next, None);
    }
}
