//! Instances of the guest, one for each request, or for several one after the other.

use super::idle::Idle;
use crate::budget::{Budget, Memory, Refusal};
use crate::grant::{self, Grant, State};
use crate::run::refuel;
use crate::ticker::Ticker;
use plan::{Failure, Http, RunPlan};
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use tokio::time::{Instant, sleep_until};
use wasmtime::{Engine, Store};
use wasmtime_wasi_http::handler::{Proxy, ProxyPre};

/// Makes instances, with the rights of the container.
pub(crate) struct Instances {
    engine: Engine,
    pre: ProxyPre<State>,
    grant: Grant,
    memory: Memory,
    /// Whether a refused growth was told of.
    told: AtomicBool,
    pub(super) ticker: Ticker,
    reuse: NonZeroU32,
    fuel: Option<u64>,
    /// Those that wait for their next request.
    idle: Mutex<Idle<Instance>>,
}

/// What instances are made from.
pub(crate) struct Made {
    pub(crate) engine: Engine,
    pub(crate) pre: ProxyPre<State>,
    pub(crate) grant: Grant,
    pub(crate) memory: Memory,
}

/// A guest that did not return.
pub(super) struct Broken {
    pub(super) error: wasmtime::Error,
    /// The memory limit, if it refused a growth.
    pub(super) refused_bytes: Option<u64>,
}

/// One instance.
pub(super) struct Instance {
    pub(super) store: Store<State>,
    pub(super) proxy: Proxy,
    pub(super) refusal: Refusal,
    answered: u32,
}

impl Instances {
    /// Starts the thread that lets guests take turns.
    pub(crate) fn new(made: Made, http: &Http, plan: &RunPlan) -> Result<Instances, Failure> {
        let Made { engine, pre, grant, memory } = made;
        let ticker = Ticker::start(engine.clone()).map_err(|error| {
            Failure::Message(format!("start a thread for {}: {error}: raise the limit of pids", plan.program))
        })?;
        let (told, idle) = (AtomicBool::new(false), Mutex::default());
        let fuel = plan.limits.fuel;
        Ok(Instances { engine, pre, grant, memory, told, ticker, reuse: http.reuse, fuel, idle })
    }

    /// One that waits, or a fresh one.
    pub(super) async fn take(&self) -> Result<Instance, Broken> {
        let broken = |error| Broken { error, refused_bytes: None };
        let waiting = if self.reuse > NonZeroU32::MIN { self.idle().take() } else { None };
        if let Some(mut waiting) = waiting {
            refuel(&mut waiting.store, self.fuel).map_err(broken)?;
            return Ok(waiting);
        }
        let refusal = Refusal::default();
        let budget = Budget::new(self.memory.clone(), refusal.clone());
        let mut store = grant::store(&self.engine, self.grant.state(budget));
        refuel(&mut store, self.fuel).map_err(broken)?;
        store.set_epoch_deadline(1);
        store.epoch_deadline_async_yield_and_update(1);
        match self.pre.instantiate_async(&mut store).await {
            Ok(proxy) => Ok(Instance { store, proxy, refusal, answered: 0 }),
            Err(error) => {
                let refused_bytes = refusal.limit_bytes();
                if refused_bytes.is_some() {
                    // What idle ones hold is the next one's.
                    let given_up = self.idle().clear();
                    drop(given_up);
                }
                Err(Broken { error, refused_bytes })
            }
        }
    }

    /// Takes one back that has answered a request well.
    pub(super) fn give_back(self: &Arc<Self>, mut instance: Instance) {
        if let Some(limit_bytes) = instance.refusal.limit_bytes()
            && !self.told.swap(true, Ordering::Relaxed)
        {
            self.log(&format!("memory limit {} reached: a growth was refused\n", plan::Size(limit_bytes)));
        }
        instance.answered += 1;
        // One that met the limit gives back what it has, and so do those that wait.
        if instance.refusal.limit_bytes().is_some() {
            let given_up = self.idle().clear();
            drop(given_up);
        } else if instance.answered < self.reuse.get() {
            let look = self.idle().keep(Instant::now(), instance);
            if let Some(look) = look {
                tokio::spawn(sweep(Arc::downgrade(self), look));
            }
        }
    }

    /// The log of the container.
    pub(super) fn log(&self, text: &str) {
        self.grant.log(text);
    }

    fn idle(&self) -> MutexGuard<'_, Idle<Instance>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Gives up instances that wait for too long. Ends when none wait, so that nothing wakes up in an idle service.
async fn sweep(instances: Weak<Instances>, first: Instant) {
    let mut next = Some(first);
    while let Some(moment) = next {
        sleep_until(moment).await;
        let Some(instances) = instances.upgrade() else { return };
        let outdated = instances.idle().outdated(Instant::now());
        next = outdated.next;
        // After the lock.
        drop(outdated.instances);
    }
}
