//! Limits of a container: set while it is made, and changed while it runs.

use super::{Task, Tasks};
use crate::spawner::SpawnerError;
use plan::{Failure, Limits, Report, RunPlan};
use sandbox::cgroup::{Cgroup, CgroupError, Wanted};
use sandbox::{ChannelError, Orders};
use std::io;
use std::sync::Arc;

/// Why limits were not set.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LimitError {
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    #[error(transparent)]
    Spawn(#[from] SpawnerError<io::Error>),
    #[error(transparent)]
    Channel(#[from] ChannelError),
    /// systemd, or the way to it.
    #[error("{0}")]
    Refused(String),
    #[error("the container has ended meanwhile")]
    Ended,
    #[error("the process that asks systemd ended without a word")]
    Silent,
}

/// Has systemd put the process that waits for it into its cgroup, where systemd is the one who makes cgroups.
pub(super) async fn enter(
    tasks: &Tasks,
    cgroup: &Arc<Cgroup>,
    pid: u32,
    plan: &Arc<RunPlan>,
    orders: &mut Orders,
) -> Result<(), LimitError> {
    if !cgroup.is_systemd() {
        return Ok(());
    }
    ask_systemd(tasks, cgroup, Wanted::Start { pid }, &plan.limits).await?;
    note(&plan.id, &cgroup.adjust(pid, &plan.limits)?);
    Ok(orders.go().await?)
}

/// Changes the limits of a container that has a process.
pub(super) async fn change(
    tasks: &Tasks,
    task: &Task,
    cgroup: &Arc<Cgroup>,
    pid: u32,
    limits: &Limits,
) -> Result<(), LimitError> {
    if cgroup.is_systemd() {
        ask_systemd(tasks, cgroup, Wanted::Change, limits).await?;
    }
    // Its number may be another's by now: only the shim reaps it, and not before the limits are set.
    if task.main.child().is_none_or(|child| child.signal(0).is_err()) {
        return Err(LimitError::Ended);
    }
    note(&task.request.id, &cgroup.adjust(pid, limits)?);
    Ok(())
}

/// Logs what a container runs without.
pub(super) fn note(id: &str, notes: &[String]) {
    for note in notes {
        tracing::warn!(id, note, "the container differs from its spec");
    }
}

async fn ask_systemd(tasks: &Tasks, cgroup: &Arc<Cgroup>, wanted: Wanted, limits: &Limits) -> Result<(), LimitError> {
    let (cgroup, limits) = (cgroup.clone(), limits.clone());
    let (child, mut channel) = tasks.spawner.spawn(move || cgroup.ask_systemd(wanted, &limits)).await?;
    let answer = channel.reports.next().await;
    child.end().await;
    match answer? {
        Some(Report::Ready) => Ok(()),
        Some(Report::Failed(Failure::Message(line))) => Err(LimitError::Refused(line)),
        _ => Err(LimitError::Silent),
    }
}
