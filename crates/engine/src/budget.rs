//! The guest's memory limit: all linear memories and tables of all its instances together. It may change while the guest
//! runs.
//! Invariant: what is counted for an instance never falls while it lives, so no sequence of failed growths gains a guest
//! anything.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::Notify;
use wasmtime::ResourceLimiterAsync;
use wasmtime_wasi::async_trait;

/// What Wasmtime takes for an element of a table, bytes: a pointer.
pub(crate) const TABLE_ELEMENT: u64 = 8;

/// The memory that the instances of a guest share.
#[derive(Clone)]
pub(crate) struct Memory(Arc<Shares>);

struct Shares {
    /// What may be used at this moment, bytes; `None` if nothing bounds it. A question to the kernel.
    limit: Box<dyn Fn() -> Option<u64> + Send + Sync>,
    /// Its last answer, bytes; `UNBOUNDED` for none.
    known: AtomicU64,
    /// When that was, in nanoseconds since `begun`; written after the answer and read before it, so that no answer is
    /// taken for a later one.
    asked: AtomicU64,
    begun: Instant,
    used_bytes: AtomicU64,
}

/// No memory is above it.
const UNBOUNDED: u64 = u64::MAX;

/// How long an answer about the limit is good for. A service that makes an instance for each request would ask the kernel
/// thousands of times in a second.
const FRESH: Duration = Duration::from_millis(5);

impl Memory {
    /// Memory whose limit is asked for at each growth.
    pub(crate) fn new(limit: impl Fn() -> Option<u64> + Send + Sync + 'static) -> Memory {
        let known = AtomicU64::new(limit().unwrap_or(UNBOUNDED));
        let (asked, used_bytes, begun) = (AtomicU64::new(0), AtomicU64::new(0), Instant::now());
        Memory(Arc::new(Shares { limit: Box::new(limit), known, asked, begun, used_bytes }))
    }

    /// The limit, bytes, as it was last asked for.
    pub(crate) fn limit_bytes(&self) -> Option<u64> {
        Some(self.0.known.load(Ordering::Relaxed)).filter(|limit| *limit != UNBOUNDED)
    }
}

impl Shares {
    /// The limit, if `used` is above it.
    fn met_by(&self, used: u64) -> Option<u64> {
        let now = self.begun.elapsed();
        let asked = Duration::from_nanos(self.asked.load(Ordering::Acquire));
        let mut limit = self.known.load(Ordering::Relaxed);
        // A refusal is always by the limit of this moment.
        if now.saturating_sub(asked) >= FRESH || used > limit {
            limit = (self.limit)().unwrap_or(UNBOUNDED);
            self.known.store(limit, Ordering::Relaxed);
            // Of 64 bits, for 584 years.
            self.asked.store(now.as_nanos() as u64, Ordering::Release);
        }
        (used > limit).then_some(limit)
    }
}

/// Grants growth to one instance until the limit.
pub(crate) struct Budget {
    memory: Memory,
    used_bytes: u64,
    refusal: Refusal,
}

impl Drop for Budget {
    fn drop(&mut self) {
        self.memory.0.used_bytes.fetch_sub(self.used_bytes, Ordering::Relaxed);
    }
}

/// Whether a growth was refused, as seen from outside of the store.
#[derive(Clone, Default)]
pub(crate) struct Refusal(Arc<Shared>);

#[derive(Default)]
struct Shared {
    happened: AtomicBool,
    limit_bytes: AtomicU64,
    first: Notify,
}

impl Refusal {
    /// The limit that the latest refused growth met, bytes; `None` if none was refused until now.
    pub(crate) fn limit_bytes(&self) -> Option<u64> {
        self.0.happened.load(Ordering::Relaxed).then(|| self.0.limit_bytes.load(Ordering::Relaxed))
    }

    /// Completes once, at the first refusal.
    pub(crate) async fn first(&self) {
        self.0.first.notified().await;
    }

    fn record(&self, limit_bytes: u64) -> bool {
        self.0.limit_bytes.store(limit_bytes, Ordering::Relaxed);
        let is_first = !self.0.happened.swap(true, Ordering::Relaxed);
        if is_first {
            self.0.first.notify_one();
        }
        is_first
    }
}

impl Budget {
    /// A budget that has taken nothing of `memory` yet.
    pub(crate) fn new(memory: Memory, refusal: Refusal) -> Self {
        Budget { memory, used_bytes: 0, refusal }
    }

    async fn grow(&mut self, current: u64, desired: u64, maximum: Option<u64>) -> bool {
        // Beyond its own maximum it fails without us, and is not for want of memory.
        if maximum.is_some_and(|maximum| desired > maximum) {
            return true;
        }
        let more = desired.saturating_sub(current);
        let shares = &self.memory.0;
        let used = shares.used_bytes.fetch_add(more, Ordering::Relaxed).saturating_add(more);
        let Some(limit) = shares.met_by(used) else {
            self.used_bytes = self.used_bytes.saturating_add(more);
            return true;
        };
        shares.used_bytes.fetch_sub(more, Ordering::Relaxed);
        if self.refusal.record(limit) {
            // So that the refusal is told now and not when the guest ends.
            tokio::task::yield_now().await;
        }
        false
    }
}

#[async_trait]
impl ResourceLimiterAsync for Budget {
    async fn memory_growing(
        &mut self,
        current: usize,
        desired: usize,
        maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        let maximum = maximum.map(|bytes| bytes as u64);
        Ok(self.grow(current as u64, desired as u64, maximum).await)
    }

    async fn table_growing(
        &mut self,
        current: usize,
        desired: usize,
        maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        let bytes = |elements: usize| (elements as u64).saturating_mul(TABLE_ELEMENT);
        Ok(self.grow(bytes(current), bytes(desired), maximum.map(bytes)).await)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::runtime::Builder;

    fn budget(limit_bytes: u64) -> (Budget, Refusal) {
        let refusal = Refusal::default();
        (Budget::new(Memory::new(move || Some(limit_bytes)), refusal.clone()), refusal)
    }

    fn memory(budget: &mut Budget, current: usize, desired: usize, maximum: Option<usize>) -> bool {
        let runtime = Builder::new_current_thread().build().unwrap();
        runtime.block_on(budget.memory_growing(current, desired, maximum)).unwrap()
    }

    fn table(budget: &mut Budget, current: usize, desired: usize) -> bool {
        let runtime = Builder::new_current_thread().build().unwrap();
        runtime.block_on(budget.table_growing(current, desired, None)).unwrap()
    }

    #[test]
    fn memories_and_tables_are_summed() {
        let (mut budget, refusal) = budget(100);
        assert!(memory(&mut budget, 0, 40, None));
        assert!(memory(&mut budget, 0, 20, None));
        assert!(table(&mut budget, 0, 5));
        assert_eq!(refusal.limit_bytes(), None);
        assert!(!memory(&mut budget, 40, 41, None));
        assert_eq!(refusal.limit_bytes(), Some(100));
    }

    #[test]
    fn growth_beyond_the_memory_s_own_maximum_is_not_a_refusal() {
        let (mut budget, refusal) = budget(100);
        assert!(memory(&mut budget, 0, 1000, Some(64)));
        assert!(memory(&mut budget, 0, 100, Some(100)));
        assert_eq!(refusal.limit_bytes(), None);
    }

    #[test]
    fn a_limit_that_changes_is_followed() {
        let limit = Arc::new(AtomicU64::new(100));
        let now = limit.clone();
        let shared = Memory::new(move || Some(now.load(Ordering::Relaxed)));
        let mut budget = Budget::new(shared.clone(), Refusal::default());
        assert!(!memory(&mut budget, 0, 101, None));
        limit.store(200, Ordering::Relaxed);
        assert!(memory(&mut budget, 0, 101, None));
        limit.store(150, Ordering::Relaxed);
        let begun = Instant::now();
        while shared.0.met_by(160).is_none() {
            assert!(begun.elapsed() < 100 * FRESH, "a lowered limit is not followed");
        }
        assert!(!memory(&mut budget, 101, 160, None));
    }

    #[test]
    fn instances_share_and_give_back() {
        let shared = Memory::new(|| Some(100));
        let mut first = Budget::new(shared.clone(), Refusal::default());
        let mut second = Budget::new(shared, Refusal::default());
        assert!(memory(&mut first, 0, 60, None));
        assert!(!memory(&mut second, 0, 60, None));
        drop(first);
        assert!(memory(&mut second, 0, 60, None));
    }

    #[test]
    fn failed_growth_gains_nothing() {
        let (mut budget, _) = budget(100);
        assert!(memory(&mut budget, 0, 100, None));
        budget.memory_grow_failed(wasmtime::Error::msg("overflow")).unwrap();
        assert!(!memory(&mut budget, 0, 1, None));
    }
}
