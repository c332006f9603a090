//! The hooks of a container, each at its moment.

use super::process::Process;
use crate::spawner::{Spawner, SpawnerError};
use plan::{Hook, HookState, RunPlan};
use sandbox::hooks::{HookError, Moment, Place, spawn};
use std::future::pending;
use std::pin::pin;
use std::time::Duration;
use tokio::time::timeout;

/// After this long the log says what a container waits for: a hook need not have a time limit.
const LONG: Duration = Duration::from_secs(10);

/// Why hooks did not all succeed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HooksError {
    #[error(transparent)]
    Hook(#[from] HookError),
    #[error(transparent)]
    Spawner(#[from] SpawnerError<HookError>),
}

/// Hooks of one container at one moment of its life.
struct Round<'a> {
    spawner: &'a Spawner,
    told: &'a HookState,
    moment: Moment<'a>,
}

/// Runs the hooks of creation, once there are namespaces and mounts, until one fails or nobody wants the container.
pub(super) async fn at_creation(
    spawner: &Spawner,
    plan: &RunPlan,
    pid: u32,
    process: &Process,
) -> Result<(), HooksError> {
    let hooks = &plan.hooks;
    let round = Round::of(spawner, plan, pid, "creating");
    let runtime = hooks.create_runtime.iter().map(|hook| (Place::Runtime, hook));
    let container = hooks.create_container.iter().map(|hook| (Place::Container, hook));
    for (place, hook) in runtime.chain(container) {
        round.run(hook, &place, process.unwanted()).await?;
    }
    Ok(())
}

/// Runs the hooks of a guest that is about to run, until one fails. They end with the container process.
pub(super) async fn before_start(spawner: &Spawner, plan: &RunPlan, pid: u32) -> Result<(), HooksError> {
    let place = Place::ContainerUser(Box::new(plan.isolation.clone()));
    let round = Round::of(spawner, plan, pid, "created");
    for hook in &plan.hooks.start_container {
        round.run(hook, &place, pending()).await?;
    }
    Ok(())
}

/// Runs the hooks of a guest that runs, until it is deleted. One that fails is logged, as below.
pub(super) async fn after_start(spawner: &Spawner, plan: &RunPlan, pid: u32, process: &Process) {
    let round = Round::of(spawner, plan, pid, "running");
    for hook in &plan.hooks.poststart {
        log_failure(&plan.id, round.run(hook, &Place::Runtime, process.unwanted()).await);
    }
}

/// Runs the hooks of a container that is gone. One that fails is logged, and keeps none of the others from running.
pub(crate) async fn after_stop(spawner: &Spawner, id: &str, hooks: &[Hook], told: &HookState) {
    let round = Round { spawner, told, moment: Moment { id, pid: None, status: "stopped" } };
    for hook in hooks {
        log_failure(id, round.run(hook, &Place::Runtime, pending()).await);
    }
}

fn log_failure(id: &str, ran: Result<(), HooksError>) {
    if let Err(error) = ran {
        tracing::warn!(id, error = plan::one_line(&error), "a hook failed");
    }
}

impl<'a> Round<'a> {
    fn of(spawner: &'a Spawner, plan: &'a RunPlan, pid: u32, status: &'static str) -> Round<'a> {
        Round { spawner, told: &plan.hooks.told, moment: Moment { id: &plan.id, pid: Some(pid), status } }
    }

    async fn run(&self, hook: &Hook, place: &Place, unwanted: impl Future<Output = ()>) -> Result<(), HooksError> {
        let Moment { id, pid, status } = self.moment;
        let fork = {
            let (hook, place, told, id) = (hook.clone(), place.clone(), self.told.clone(), id.to_owned());
            move || spawn(&hook, &place, &told, Moment { id: &id, pid, status })
        };
        let mut finished = pin!(self.spawner.fork(fork).await?.finish(hook, unwanted));
        if let Ok(finished) = timeout(LONG, &mut finished).await {
            return Ok(finished?);
        }
        tracing::warn!(id, kind = hook.kind, path = %hook.path.display(), "the container waits for a hook");
        Ok(finished.await?)
    }
}
