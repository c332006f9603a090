//! The end of a process: awaited, explained, told in the order OOM, exit. A process of the shim's own says how its guest
//! ended. That is told at once; what the kernel takes to end the process itself, some 1 ms, is waited for by delete.

use super::Task;
use super::process::Process;
use super::state::{Exit, Move};
use super::termination::TerminationFile;
use crate::events::Publisher;
use crate::wire::timestamp;
use containerd_shim_protos::events::task::{TaskExit, TaskOOM};
use plan::{ExitStatus, FORBIDDEN_CALL, Report, Termination};
use protobuf::MessageField;
use sandbox::cgroup::{OomKill, OomWatch};
use sandbox::channel::Reports;
use sandbox::stdio::Kept;
use sandbox::{Child, Ended};
use std::convert::Infallible;
use std::sync::Arc;

/// SIGKILL.
const KILL: i32 = 9;

/// A process whose end is awaited.
pub(super) struct Watched {
    pub(super) process: Arc<Process>,
    /// What it says, if it is the shim's own.
    pub(super) reports: Option<Reports>,
    pub(super) memory_limit_bytes: Option<u64>,
    pub(super) termination_file: Option<TerminationFile>,
}

/// How the end of a process was heard of.
enum End {
    /// It said so itself, and was killed lest it should go on.
    Said(ExitStatus),
    /// It is gone.
    Seen(Ended),
}

/// Waits for the end of a process and tells everybody.
pub(super) async fn watch(task: Arc<Task>, watched: Watched, publisher: Publisher) {
    let process = watched.process.clone();
    let _buried = Burial(&process);
    if let Some(child) = process.child() {
        let end = tell_of(&task, &child, watched, &publisher).await;
        if process.is_first() {
            task.release_early().await;
        }
        if let End::Said(_) = end {
            let _ = child.wait().await;
        }
    }
}

/// Buries its process when it is dropped, also by a panic: a delete waits for that.
struct Burial<'a>(&'a Process);

impl Drop for Burial<'_> {
    fn drop(&mut self) {
        self.0.bury();
    }
}

async fn tell_of(task: &Task, child: &Child, watched: Watched, publisher: &Publisher) -> End {
    let Watched { process, reports, memory_limit_bytes, termination_file } = watched;
    let cgroup = task.cgroup().ok().filter(|_| process.is_first());
    let mut oom = cgroup.map(OomWatch::of);
    let is_own = reports.is_some();
    let heard = async {
        if let Some(reports) = reports
            && let Some(said) = last_words(process.id(), reports).await
        {
            process.finish(task);
            return End::Said(said);
        }
        End::Seen(child.wait().await.unwrap_or(Ended::Signal(KILL)))
    };
    let end = tokio::select! {
        end = heard => end,
        never = follow(&mut oom) => match never {},
    };
    let mut of_others = None;
    let status = match (&end, oom) {
        (End::Said(said), _) => said.clone(),
        (End::Seen(Ended::Signal(KILL)), Some(oom)) => killed(oom.verdict().await, memory_limit_bytes),
        (End::Seen(ended), _) if is_own => without_word(*ended),
        (End::Seen(ended), oom) => {
            // A child of the first process may have been the kernel's choice.
            if let Some(oom) = oom {
                of_others = oom.verdict().await;
            }
            as_it_is(*ended)
        }
    };
    if process.is_first() {
        task.end_the_others().await;
    }
    let mut termination = status.termination();
    termination.out_of_memory |= of_others.is_some();
    let id = process.container();
    let what = if process.is_first() { "the container ended" } else { "a process of exec ended" };
    tracing::info!(id, process = process.id(), code = termination.code, status = summary(&status), "{what}");
    let (kept, console) = process.take_streams();
    if let Some(mut console) = console {
        console.finish().await;
    }
    if let Some(message) = &termination.message {
        explain(id, &kept, termination_file.as_ref(), message).await;
    }
    kept.until_read().await;
    // Closed before the exit is told: clients read to the end of the output before they delete.
    drop(kept);
    let exit = Exit::now(child.pid(), termination.code);
    {
        // Not before the start of what runc runs; what is ours does not run before its start was told.
        let _starting = if is_own { None } else { Some(task.starting.lock().await) };
        publish(publisher, &process, &termination, exit);
        // The move cannot fail: nothing else ends it.
        let _ = process.transition(Move::End { exit });
    }
    end
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

/// Reads what the process says until it says how it ends, or is gone.
async fn last_words(id: &str, mut reports: Reports) -> Option<ExitStatus> {
    loop {
        match reports.next().await {
            Ok(Some(Report::GrowthRefused { limit_bytes })) => {
                tracing::warn!(id, limit_bytes, "a growth of the guest's memory was refused");
            }
            Ok(Some(Report::Exited(exited))) => return Some(exited),
            Ok(Some(report)) => tracing::warn!(id, ?report, "the container process said something out of turn"),
            Ok(None) => return None,
            Err(error) => {
                tracing::warn!(id, error = plan::one_line(&error), "the container process is not understood");
                return None;
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
fn killed(by_kernel: Option<OomKill>, known: Option<u64>) -> ExitStatus {
    match by_kernel {
        Some(OomKill { limit_bytes }) => ExitStatus::OomKilled { limit_bytes: limit_bytes.or(known) },
        None => ExitStatus::Signal(KILL),
    }
}

/// The end of a program that is not ours.
fn as_it_is(ended: Ended) -> ExitStatus {
    match ended {
        Ended::Signal(signal) => ExitStatus::Signal(signal),
        Ended::Code(code) => ExitStatus::Code(code.to_le_bytes()[0]),
    }
}

/// The end of a process of ours that did not say how it ends.
pub(super) fn without_word(ended: Ended) -> ExitStatus {
    match ended {
        Ended::Signal(libc::SIGSYS) => ExitStatus::ForbiddenCall,
        Ended::Signal(signal) => ExitStatus::Signal(signal),
        // As the sandbox leaves a process whose call was trapped.
        Ended::Code(code) if code.cast_unsigned() == FORBIDDEN_CALL => ExitStatus::ForbiddenCall,
        Ended::Code(code) => ExitStatus::Code(code.to_le_bytes()[0]),
    }
}

fn publish(publisher: &Publisher, process: &Process, termination: &Termination, exit: Exit) {
    let container_id = process.container().to_owned();
    // Before the exit, or clients say "Error" instead of "OOMKilled".
    if termination.out_of_memory && process.is_first() {
        publisher.publish(&TaskOOM { container_id: container_id.clone(), ..TaskOOM::default() });
    }
    publisher.publish(&TaskExit {
        container_id,
        id: process.id().to_owned(),
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
