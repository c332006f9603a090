//! The tasks of one group: found by id, moved from state to state, forgotten when deleted.

mod container;
mod create;
mod request;
mod state;
mod watch;

use crate::address::Address;
use crate::events::Publisher;
use crate::spawner::Spawner;
use crate::wire::timestamp;
use container::{Container, ReleaseError};
use containerd_shim_protos::events::task::{TaskDelete, TaskStart};
use protobuf::MessageField;
use sandbox::ChannelError;
use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;
use tokio::sync::watch as channel;

pub(crate) use create::CreateError;
pub(crate) use request::Request;
pub(crate) use state::{Exit, Move, State};

/// The tasks of one group.
pub(crate) struct Tasks {
    tasks: Mutex<Registry>,
    containerd: oci::Containerd,
    address: Address,
    spawner: Spawner,
    publisher: Publisher,
}

#[derive(Default)]
struct Registry {
    tasks: HashMap<String, Arc<Task>>,
    closed: bool,
}

/// One task: a container and where it stands.
pub(crate) struct Task {
    pub(crate) request: Request,
    state: Mutex<State>,
    container: Mutex<Option<Container>>,
    /// Says when the state changed.
    changes: channel::Sender<()>,
}

/// Why a task did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TaskError {
    #[error("no container {0} in this shim")]
    NotFound(String),
    #[error("container {id} has no process {exec}: exec is not built yet")]
    NoExec { id: String, exec: String },
    #[error("container {0} exists already: delete it first")]
    Exists(String),
    #[error("container {0} is still being created: wait for create to answer")]
    BeingCreated(String),
    #[error("container {0} has ended: its process is gone")]
    Finished(String),
    #[error("container {id} is {from}, which does not allow to {action}")]
    Move { id: String, from: &'static str, action: &'static str },
    #[error(transparent)]
    Create(#[from] CreateError),
    #[error("start container {id}")]
    Start {
        id: String,
        #[source]
        source: ChannelError,
    },
    #[error("send signal {signal} to container {id}")]
    Signal {
        signal: u32,
        id: String,
        #[source]
        source: io::Error,
    },
    #[error("clean up after container {id}")]
    Release {
        id: String,
        #[source]
        source: ReleaseError,
    },
    #[error("the call was cut short by a fault of the shim: see its log")]
    Cancelled,
    #[error("{0} is not built yet")]
    NotBuilt(&'static str),
}

impl Tasks {
    pub(crate) fn new(containerd: oci::Containerd, address: Address, spawner: Spawner, publisher: Publisher) -> Tasks {
        Tasks { tasks: Mutex::default(), containerd, address, spawner, publisher }
    }

    /// The task of that id, once it is created. No task has processes besides its first one yet.
    pub(crate) fn get(&self, id: &str, exec: &str) -> Result<Arc<Task>, TaskError> {
        let task = self.find(id, exec)?;
        match task.state() {
            State::Creating => Err(TaskError::BeingCreated(id.to_owned())),
            _ => Ok(task),
        }
    }

    fn find(&self, id: &str, exec: &str) -> Result<Arc<Task>, TaskError> {
        let task = locked(&self.tasks).tasks.get(id).cloned();
        let task = task.ok_or_else(|| TaskError::NotFound(id.to_owned()))?;
        match exec.is_empty() {
            true => Ok(task),
            false => Err(TaskError::NoExec { id: id.to_owned(), exec: exec.to_owned() }),
        }
    }

    /// Makes a container up to the point where it waits for start. Returns its pid.
    pub(crate) async fn create(&self, request: Request) -> Result<u32, TaskError> {
        let task = self.reserve(request)?;
        let unmade = Unmade { tasks: self, task: &task };
        match create::create(self, &task).await {
            Ok(pid) => {
                std::mem::forget(unmade);
                Ok(pid)
            }
            Err(error) => {
                let line = plan::one_line(&error);
                tracing::error!(id = task.request.id, error = line, "create failed");
                Err(error.into())
            }
        }
    }

    /// Lets the guest run. Returns its pid.
    pub(crate) async fn start(&self, id: &str, exec: &str) -> Result<u32, TaskError> {
        let task = self.get(id, exec)?;
        let pid = task.transition(Move::Start)?.pid().unwrap_or_default();
        let orders = locked(&task.container).as_mut().and_then(Container::take_orders);
        // Queued before the order: the exit must not overtake the start.
        let event = TaskStart { container_id: id.to_owned(), pid, ..TaskStart::default() };
        self.publisher.publish(&event);
        if let Some(mut orders) = orders {
            orders.go().await.map_err(|source| TaskError::Start { id: id.to_owned(), source })?;
        }
        Ok(pid)
    }

    /// Forgets a task that has ended, or was never started, and removes all it owned.
    pub(crate) async fn delete(&self, id: &str, exec: &str) -> Result<Exit, TaskError> {
        let task = self.find(id, exec)?;
        task.created().await?;
        if let State::Created { .. } = task.state() {
            let _ = task.kill(KILL);
            task.exit().await?;
        }
        let exit = task.transition(Move::Delete)?.exit().ok_or(TaskError::Cancelled)?;
        let container = locked(&task.container).take();
        if let Some(container) = container
            && let Err(source) = container.release().await
        {
            *locked(&task.container) = Some(container);
            task.transition(Move::KeepAfterFailure)?;
            return Err(TaskError::Release { id: id.to_owned(), source });
        }
        self.forget(id);
        let event = TaskDelete {
            container_id: id.to_owned(),
            pid: exit.pid,
            exit_status: exit.code,
            exited_at: MessageField::some(timestamp(exit.at)),
            ..TaskDelete::default()
        };
        self.publisher.publish(&event);
        Ok(exit)
    }

    /// Refuses new tasks from now on if there are none, and takes the socket away, so that the next container of this
    /// name gets a shim of its own. False if there are tasks.
    pub(crate) fn close_if_empty(&self) -> bool {
        let mut registry = locked(&self.tasks);
        if !registry.tasks.is_empty() {
            return false;
        }
        if !registry.closed {
            registry.closed = true;
            if let Err(error) = self.address.remove() {
                tracing::error!(error = plan::one_line(&error), "the shim's socket stays");
            }
        }
        true
    }

    fn reserve(&self, request: Request) -> Result<Arc<Task>, TaskError> {
        let mut registry = locked(&self.tasks);
        if registry.closed {
            return Err(TaskError::NotFound(request.id));
        }
        if registry.tasks.contains_key(&request.id) {
            return Err(TaskError::Exists(request.id));
        }
        let task = Arc::new(Task {
            state: Mutex::new(State::Creating),
            container: Mutex::default(),
            changes: channel::Sender::new(()),
            request,
        });
        registry.tasks.insert(task.request.id.clone(), task.clone());
        Ok(task)
    }

    fn forget(&self, id: &str) {
        locked(&self.tasks).tasks.remove(id);
    }
}

/// A task that is not created: forgotten when this is dropped, also by a panic, and who waits for it is told.
struct Unmade<'a> {
    tasks: &'a Tasks,
    task: &'a Task,
}

impl Drop for Unmade<'_> {
    fn drop(&mut self) {
        self.tasks.forget(&self.task.request.id);
        self.task.changes.send_replace(());
    }
}

/// SIGKILL.
const KILL: u32 = 9;

impl Task {
    /// Where it stands.
    pub(crate) fn state(&self) -> State {
        locked(&self.state).clone()
    }

    /// Sends a signal to the container process.
    pub(crate) fn kill(&self, signal: u32) -> Result<(), TaskError> {
        let id = || self.request.id.clone();
        match self.state() {
            State::Creating => return Err(TaskError::BeingCreated(id())),
            State::Stopped { .. } | State::Deleting { .. } => return Err(TaskError::Finished(id())),
            State::Created { .. } | State::Running { .. } => {}
        }
        let child = locked(&self.container).as_ref().map(Container::child);
        let sent = child.map_or(Ok(()), |child| child.signal(signal));
        sent.map_err(|source| match source.kind() {
            io::ErrorKind::NotFound => TaskError::Finished(id()),
            _ => TaskError::Signal { signal, id: id(), source },
        })
    }

    /// Waits until it has ended.
    pub(crate) async fn exit(&self) -> Result<Exit, TaskError> {
        let mut changes = self.changes.subscribe();
        loop {
            if let Some(exit) = self.state().exit() {
                return Ok(exit);
            }
            // The sender is a part of this task, so the channel is open.
            changes.changed().await.map_err(|_| TaskError::Cancelled)?;
        }
    }

    /// Lets the guest see the end of its input.
    pub(crate) fn close_stdin(&self) {
        if let Some(container) = locked(&self.container).as_mut() {
            container.close_stdin();
        }
    }

    /// Waits until create is through, however it went.
    async fn created(&self) -> Result<(), TaskError> {
        let mut changes = self.changes.subscribe();
        if let State::Creating = self.state() {
            changes.changed().await.map_err(|_| TaskError::Cancelled)?;
        }
        match self.state() {
            State::Creating => Err(TaskError::NotFound(self.request.id.clone())),
            _ => Ok(()),
        }
    }

    /// The only way from one state to the next.
    fn transition(&self, step: Move) -> Result<State, TaskError> {
        let mut state = locked(&self.state);
        let next = state.after(&step).map_err(|from| TaskError::Move {
            id: self.request.id.clone(),
            from,
            action: step.name(),
        })?;
        *state = next.clone();
        drop(state);
        self.changes.send_replace(());
        Ok(next)
    }
}

/// The end of a task, as of now.
fn exit_now(pid: u32, code: u32) -> Exit {
    Exit { pid, code, at: SystemTime::now() }
}

/// One thread holds these locks, for moments: a panic in between leaves nothing half done.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
