//! The hooks of a container, each at its moment.

use crate::spawner::{Spawner, SpawnerError};
use plan::{Hook, HookState, RunPlan};
use sandbox::hooks::{HookError, Moment, Place, spawn};

/// Why hooks did not all succeed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HooksError {
    #[error(transparent)]
    Hook(#[from] HookError),
    #[error(transparent)]
    Spawner(#[from] SpawnerError<HookError>),
}

/// Runs the hooks of creation, once there are namespaces and mounts, until one fails.
pub(super) async fn at_creation(spawner: &Spawner, plan: &RunPlan, pid: u32) -> Result<(), HooksError> {
    let hooks = &plan.hooks;
    let runtime = hooks.create_runtime.iter().map(|hook| (Place::Runtime, hook));
    let container = hooks.create_container.iter().map(|hook| (Place::Container, hook));
    for (place, hook) in runtime.chain(container) {
        one(spawner, hook, &place, &hooks.told, &plan.id, Some(pid), "creating").await?;
    }
    Ok(())
}

/// Runs the hooks of a guest that is about to run, until one fails.
pub(super) async fn before_start(spawner: &Spawner, plan: &RunPlan, pid: u32) -> Result<(), HooksError> {
    let place = Place::ContainerUser(Box::new(plan.isolation.clone()));
    for hook in &plan.hooks.start_container {
        one(spawner, hook, &place, &plan.hooks.told, &plan.id, Some(pid), "created").await?;
    }
    Ok(())
}

/// Runs the hooks of a guest that runs. One that fails is logged, as below.
pub(super) async fn after_start(spawner: &Spawner, plan: &RunPlan, pid: u32) {
    for hook in &plan.hooks.poststart {
        let ran = one(spawner, hook, &Place::Runtime, &plan.hooks.told, &plan.id, Some(pid), "running").await;
        log_failure(&plan.id, ran);
    }
}

/// Runs the hooks of a container that is gone. One that fails is logged, and keeps none of the others from running.
pub(crate) async fn after_stop(spawner: &Spawner, id: &str, hooks: &[Hook], told: &HookState) {
    for hook in hooks {
        log_failure(id, one(spawner, hook, &Place::Runtime, told, id, None, "stopped").await);
    }
}

fn log_failure(id: &str, ran: Result<(), HooksError>) {
    if let Err(error) = ran {
        tracing::warn!(id, error = plan::one_line(&error), "a hook failed");
    }
}

async fn one(
    spawner: &Spawner,
    hook: &Hook,
    place: &Place,
    told: &HookState,
    id: &str,
    pid: Option<u32>,
    status: &'static str,
) -> Result<(), HooksError> {
    let fork = {
        let (hook, place, told, id) = (hook.clone(), place.clone(), told.clone(), id.to_owned());
        move || spawn(&hook, &place, &told, Moment { id: &id, pid, status })
    };
    Ok(spawner.fork(fork).await?.finish(hook).await?)
}
