//! The end of a container: awaited, explained, told in the order OOM, exit.

use super::container::Container;
use super::state::{Exit, Move};
use super::termination::TerminationFile;
use super::{Task, exit_now, locked};
use crate::events::Publisher;
use crate::wire::timestamp;
use containerd_shim_protos::events::task::{TaskExit, TaskOOM};
use plan::{ExitStatus, FORBIDDEN_CALL, Report, RunPlan, Termination};
use protobuf::MessageField;
use sandbox::Ended;
use sandbox::cgroup::{OomKill, OomWatch};
use sandbox::channel::Reports;
use sandbox::stdio::Kept;
use std::convert::Infallible;
use std::sync::Arc;

/// SIGKILL.
const KILL: i32 = 9;
/// How many turns of the runtime an answer takes from its task to the socket; some more do not matter.
const TURNS_OF_AN_ANSWER: usize = 8;

/// Waits for the end of the task's process and tells everybody.
pub(super) async fn watch(
    task: Arc<Task>,
    plan: Arc<RunPlan>,
    reports: Reports,
    termination_file: Option<TerminationFile>,
    publisher: Publisher,
) {
    let (child, cgroup) = {
        let container = locked(&task.container);
        let Some(container) = container.as_ref() else { return };
        (container.child(), container.cgroup())
    };
    let mut oom = cgroup.map(OomWatch::of);
    let said_and_ended = async {
        let said = last_words(&task.request.id, reports).await;
        (said, child.wait().await.unwrap_or(Ended::Signal(KILL)))
    };
    let (said, ended) = tokio::select! {
        ended = said_and_ended => ended,
        never = follow(&mut oom) => match never {},
    };
    let status = match (said, ended, oom) {
        (Some(said), ..) => said,
        (None, Ended::Signal(KILL), Some(oom)) => killed(oom.verdict().await, &plan),
        (None, ended, _) => without_word(ended),
    };
    let termination = status.termination();
    let id = &task.request.id;
    tracing::info!(id, code = termination.code, status = summary(&status), "the container ended");
    let kept = locked(&task.container).as_mut().map(Container::take_stdio).unwrap_or_default();
    if let Some(message) = &termination.message {
        explain(id, &kept, termination_file.as_ref(), message).await;
    }
    kept.until_read().await;
    // Closed before the exit is told: clients read to the end of the output before they delete.
    drop(kept);
    let exit = exit_now(child.pid(), termination.code);
    publish(&publisher, id, &termination, exit);
    // The move cannot fail: only the end of its process ends a task.
    let _ = task.transition(Move::End { exit });
    // Who waits is answered first.
    for _ in 0..TURNS_OF_AN_ANSWER {
        tokio::task::yield_now().await;
    }
    if let Some(container) = locked(&task.container).as_ref() {
        container.release_early();
    }
}

/// Writes why a container failed to its stderr and its termination file; the log has it from the caller.
pub(super) async fn explain(id: &str, kept: &Kept, termination_file: Option<&TerminationFile>, message: &str) {
    if let Err(error) = kept.tell(&format!("{message}\n")).await {
        tracing::warn!(id, %error, "the container's stderr did not take the reason");
    }
    if let Some(file) = termination_file {
        file.take(id, message);
    }
}

/// Reads what the process says until it is gone; returns how it said it ended.
async fn last_words(id: &str, mut reports: Reports) -> Option<ExitStatus> {
    let mut status = None;
    loop {
        match reports.next().await {
            Ok(Some(Report::GrowthRefused { limit_bytes })) => {
                tracing::warn!(id, limit_bytes, "a growth of the guest's memory was refused");
            }
            Ok(Some(Report::Exited(exited))) => status = Some(exited),
            Ok(Some(report)) => tracing::warn!(id, ?report, "the container process said something out of turn"),
            Ok(None) => return status,
            Err(error) => {
                tracing::warn!(id, error = plan::one_line(&error), "the container process is not understood");
                return status;
            }
        }
    }
}

async fn follow(oom: &mut Option<OomWatch>) -> Infallible {
    match oom {
        Some(oom) => oom.follow().await,
        None => std::future::pending().await,
    }
}

/// The end of a process that was killed before it could say anything.
fn killed(by_kernel: Option<OomKill>, plan: &RunPlan) -> ExitStatus {
    match by_kernel {
        Some(OomKill { limit_bytes }) => {
            ExitStatus::OomKilled { limit_bytes: limit_bytes.or(plan.limits.memory.limit_bytes()) }
        }
        None => ExitStatus::Signal(KILL),
    }
}

/// The end of a process that did not say how it ends.
pub(super) fn without_word(ended: Ended) -> ExitStatus {
    match ended {
        Ended::Signal(libc::SIGSYS) => ExitStatus::ForbiddenCall,
        Ended::Signal(signal) => ExitStatus::Signal(signal),
        // As the sandbox leaves a process whose call was trapped.
        Ended::Code(code) if code.cast_unsigned() == FORBIDDEN_CALL => ExitStatus::ForbiddenCall,
        Ended::Code(code) => ExitStatus::Code(code.to_le_bytes()[0]),
    }
}

fn publish(publisher: &Publisher, id: &str, termination: &Termination, exit: Exit) {
    // Before the exit, or clients say "Error" instead of "OOMKilled".
    if termination.out_of_memory {
        publisher.publish(&TaskOOM { container_id: id.to_owned(), ..TaskOOM::default() });
    }
    publisher.publish(&TaskExit {
        container_id: id.to_owned(),
        id: id.to_owned(),
        pid: exit.pid,
        exit_status: exit.code,
        exited_at: MessageField::some(timestamp(exit.at)),
        ..TaskExit::default()
    });
}

fn summary(status: &ExitStatus) -> String {
    match status.termination().message {
        Some(message) => message.replace('\n', " | "),
        None => format!("{status:?}"),
    }
}
