//! Processes that exec brings into a container that runs: a Linux program through runc, or another wasm of its files.

use super::container::Container;
use super::output::{self, OutputError, RunningLogger};
use super::own;
use super::process::{Live, Process, Streams};
use super::state::{Exit, Move, State};
use super::watch::{self, Watched};
use super::{CreateError, Task, TaskError, Tasks, linux, locked};
use crate::runc::RuncError;
use containerd_shim_protos::events::task::{TaskExecAdded, TaskExecStarted};
use sandbox::Orders;
use sandbox::channel::Reports;
use std::collections::hash_map::Entry;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::time::timeout;

/// The exit code of a process that was not started, as of a command that cannot be executed (POSIX, "Exit Status").
const NOT_STARTED: u32 = 126;

/// What containerd asks to bring in.
#[derive(Debug)]
pub(crate) struct ExecRequest {
    pub(crate) container: String,
    pub(crate) exec: String,
    pub(crate) streams: Streams,
    /// The `process` section of a runtime spec.
    pub(crate) spec: oci::ProcessSpec,
}

/// One that was asked for.
pub(crate) struct Exec {
    pub(crate) process: Arc<Process>,
    pub(super) spec: oci::Process,
    /// Whether it was started, or given up before.
    begun: AtomicBool,
}

/// Where one stands that is not there yet, for who wants something of it.
const STARTING: &str = "being started";

/// How long processes that exec brought in may take to end with their container.
const ENDING: Duration = Duration::from_secs(2);

/// Why a process was not brought in.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ExecError {
    #[error("exec {0:?} is no name: use letters, digits, dots, dashes and underscores")]
    Name(String),
    #[error(transparent)]
    Output(#[from] OutputError),
    #[error(transparent)]
    Plan(#[from] oci::ExecError),
    #[error(transparent)]
    Runc(#[from] RuncError),
    #[error(transparent)]
    Create(#[from] CreateError),
}

/// A process that was brought in.
pub(super) struct Entered {
    pub(super) live: Live,
    /// Those of the shim's own wait for an order, and say how they end.
    pub(super) own: Option<(Orders, Reports)>,
}

impl Tasks {
    /// Takes a process up, to be started later.
    pub(crate) fn exec(&self, request: ExecRequest) -> Result<(), TaskError> {
        let ExecRequest { container: id, exec: name, streams, spec } = request;
        let task = self.get(&id)?;
        let state = task.main.state();
        if !matches!(state, State::Running { .. }) {
            return Err(TaskError::NotRunning { id, state: state.name() });
        }
        // It becomes the name of files.
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        if name.is_empty() || name.starts_with('.') || !name.bytes().all(plain) {
            return Err(ExecError::Name(name).into());
        }
        let spec = oci::process(&spec, streams.terminal).map_err(ExecError::from)?;
        let process = Arc::new(Process::further(&id, &name, streams));
        match locked(&task.execs).entry(name.clone()) {
            Entry::Occupied(_) => return Err(TaskError::ExecExists { id, exec: name }),
            Entry::Vacant(entry) => entry.insert(Arc::new(Exec { process, spec, begun: AtomicBool::default() })),
        };
        self.publisher.publish(&TaskExecAdded { container_id: id, exec_id: name, ..TaskExecAdded::default() });
        Ok(())
    }

    /// Brings it in and lets it run. Returns its pid.
    pub(super) async fn start_exec(&self, task: &Arc<Task>, exec: &Exec) -> Result<u32, TaskError> {
        let process = &exec.process;
        if task.ending.load(Ordering::Relaxed) {
            return Err(TaskError::Finished(task.main.name()));
        }
        if exec.begun.swap(true, Ordering::Relaxed) {
            return Err(process.refused("started", &Move::Start));
        }
        let Entered { live, own } = match self.enter(task, exec).await {
            Ok(entered) => entered,
            Err(error) => {
                tracing::warn!(process = process.name(), error = plan::one_line(&error), "exec failed");
                let _ = process.transition(Move::End { exit: Exit::now(0, NOT_STARTED) });
                return Err(error.into());
            }
        };
        let (pid, child) = (live.child.pid(), live.child.clone());
        process.enliven(live);
        if process.is_killed() || task.ending.load(Ordering::Relaxed) {
            // While it was made. Its end is told as any other.
            child.kill();
        }
        process.transition(Move::Enter { pid })?;
        let event = TaskExecStarted {
            container_id: process.container().to_owned(),
            exec_id: process.id().to_owned(),
            pid,
            ..TaskExecStarted::default()
        };
        // Queued before the order, and before its end is watched for: the exit must not overtake the start.
        self.publisher.publish(&event);
        let (orders, reports) = own.unzip();
        let watched = Watched { process: process.clone(), reports, memory_limit_bytes: None, termination_file: None };
        tokio::spawn(watch::watch(task.clone(), watched, self.publisher.clone()));
        if let Some(mut orders) = orders {
            // One that is gone takes no order, and its end is told.
            let _ = orders.go().await;
        }
        Ok(pid)
    }

    async fn enter(&self, task: &Arc<Task>, exec: &Exec) -> Result<Entered, ExecError> {
        let process = &exec.process;
        let (stdio, logger) = output::open(self, process.container(), &process.streams).await?;
        let runc = locked(&task.container).as_ref().and_then(Container::runc);
        let entered = match runc {
            Some(runc) => linux::exec(&self.spawner, &runc, process.id(), &exec.spec, stdio, &process.streams)
                .await
                .map_err(ExecError::from),
            None => own::exec(self, task, exec, stdio).await,
        };
        with_logger(entered, logger, process.container()).await
    }
}

async fn with_logger(
    entered: Result<Entered, ExecError>,
    logger: Option<RunningLogger>,
    id: &str,
) -> Result<Entered, ExecError> {
    match entered {
        Ok(mut entered) => {
            entered.live.logger = logger;
            Ok(entered)
        }
        Err(error) => {
            if let Some(logger) = logger {
                logger.finish(id).await;
            }
            Err(error)
        }
    }
}

impl Task {
    /// The process that exec calls so.
    pub(super) fn exec(&self, name: &str) -> Result<Arc<Exec>, TaskError> {
        let exec = locked(&self.execs).get(name).cloned();
        exec.ok_or_else(|| TaskError::NoExec { id: self.request.id.clone(), exec: name.to_owned() })
    }

    pub(super) fn kill_exec(&self, name: &str, signal: u32) -> Result<(), TaskError> {
        let exec = self.exec(name)?;
        match exec.begun.load(Ordering::Relaxed) {
            true => exec.process.kill(signal),
            false => Err(exec.process.refused("not started", &Move::End { exit: Exit::now(0, NOT_STARTED) })),
        }
    }

    pub(super) async fn delete_exec(&self, name: &str) -> Result<Exit, TaskError> {
        let exec = self.exec(name)?;
        let process = &exec.process;
        if let State::Created { .. } = process.state() {
            if exec.begun.swap(true, Ordering::Relaxed) {
                return Err(process.refused(STARTING, &Move::Delete));
            }
            process.transition(Move::End { exit: Exit::now(0, 0) })?;
        }
        process.gone().await?;
        let exit = process.transition(Move::Delete)?.exit().ok_or(TaskError::Cancelled)?;
        process.finish_logger().await;
        locked(&self.execs).remove(name);
        Ok(exit)
    }

    /// Ends the processes that the end of the first one leaves: their ends are told before its.
    pub(super) async fn end_the_others(&self) {
        self.ending.store(true, Ordering::Relaxed);
        let is_there = |exec: &Arc<Exec>| exec.begun.load(Ordering::Relaxed) && exec.process.state().exit().is_none();
        let left: Vec<_> = locked(&self.execs).values().filter(|exec| is_there(exec)).cloned().collect();
        let leaves = locked(&self.container).as_ref().is_some_and(Container::may_leave_processes);
        if (leaves || !left.is_empty())
            && let Ok(cgroup) = self.cgroup()
        {
            cgroup.kill_all();
        }
        for exec in left {
            let _ = timeout(ENDING, exec.process.exit()).await;
        }
    }
}
