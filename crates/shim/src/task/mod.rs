//! The tasks of one group: found by id, moved from state to state, forgotten when deleted.

mod container;
mod create;
mod error;
mod forgotten;
pub(crate) mod hooks;
mod limits;
mod output;
mod request;
mod state;
mod termination;
mod watch;

use crate::address::Address;
use crate::events::Publisher;
use crate::metrics;
use crate::spawner::Spawner;
use crate::wire::timestamp;
use container::Container;
use containerd_shim_protos::events::task::{TaskDelete, TaskPaused, TaskResumed, TaskStart};
use containerd_shim_protos::protobuf::well_known_types::any::Any;
use protobuf::MessageField;
use sandbox::cgroup::{Cgroup, Freeze};
use std::collections::HashMap;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};
use tokio::sync::{Notify, watch as channel};
use tokio::time::timeout;

pub(crate) use create::CreateError;
pub(crate) use error::TaskError;
pub(crate) use request::Request;
pub(crate) use state::{Exit, Move, State};

/// The tasks of one group.
pub(crate) struct Tasks {
    tasks: Mutex<Registry>,
    containerd: oci::Containerd,
    address: Address,
    spawner: Spawner,
    host: Arc<engine::Host>,
    publisher: Publisher,
    /// Told when the shim is to end.
    quit: Arc<Notify>,
    /// Told when the last task is gone.
    vacant: Notify,
}

#[derive(Default)]
struct Registry {
    tasks: HashMap<String, Arc<Task>>,
    /// Tasks so far.
    made: u64,
    /// The shim ends once it has no tasks.
    closed: bool,
}

/// One task: a container and where it stands.
pub(crate) struct Task {
    pub(crate) request: Request,
    state: Mutex<State>,
    container: Mutex<Option<Container>>,
    /// Whether it was sent SIGKILL.
    killed: AtomicBool,
    /// Says when the state changed.
    changes: channel::Sender<()>,
    /// Held while the container is stopped, released, or given other limits.
    changing: tokio::sync::Mutex<()>,
}

impl Tasks {
    pub(crate) fn new(
        containerd: oci::Containerd,
        address: Address,
        spawner: Spawner,
        host: Arc<engine::Host>,
        publisher: Publisher,
        quit: Arc<Notify>,
    ) -> Tasks {
        Tasks { tasks: Mutex::default(), containerd, address, spawner, host, publisher, quit, vacant: Notify::new() }
    }

    /// The task of that id, once it is created. No task has processes besides its first one yet.
    pub(crate) fn get(&self, id: &str, exec: &str) -> Result<Arc<Task>, TaskError> {
        let task = self.find(id, exec)?;
        match task.state() {
            State::Creating | State::Abandoned => Err(TaskError::BeingCreated(id.to_owned())),
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
                tracing::error!(id = task.request.id, error = plan::one_line(&error), "create failed");
                Err(error.into())
            }
        }
    }

    /// Lets the guest run. Returns its pid.
    pub(crate) async fn start(&self, id: &str, exec: &str) -> Result<u32, TaskError> {
        let task = self.get(id, exec)?;
        // Of two, one runs the hooks.
        let turn = task.changing.lock().await;
        let plan = locked(&task.container).as_ref().map(Container::plan);
        if let (Some(plan), State::Created { pid }) = (&plan, task.state())
            && let Err(source) = hooks::before_start(&self.spawner, plan, pid).await
        {
            // A container whose hooks fail is stopped (OCI runtime spec, "Lifecycle").
            let _ = task.kill(KILL);
            return Err(TaskError::Hooks { id: id.to_owned(), source: Box::new(source) });
        }
        let pid = task.transition(Move::Start)?.pid().unwrap_or_default();
        drop(turn);
        let orders = locked(&task.container).as_mut().and_then(Container::take_orders);
        // Queued before the order: the exit must not overtake the start.
        let event = TaskStart { container_id: id.to_owned(), pid, ..TaskStart::default() };
        self.publisher.publish(&event);
        if let Some(mut orders) = orders {
            orders.go().await.map_err(|source| TaskError::Start { id: id.to_owned(), source })?;
        }
        if let Some(plan) = plan {
            hooks::after_start(&self.spawner, &plan, pid, &task).await;
        }
        Ok(pid)
    }

    /// Stops all of a running container.
    pub(crate) async fn pause(&self, id: &str) -> Result<(), TaskError> {
        let task = self.get(id, "")?;
        task.freeze(Freeze::Frozen, Move::Pause).await?;
        self.publisher.publish(&TaskPaused { container_id: id.to_owned(), ..TaskPaused::default() });
        Ok(())
    }

    /// Lets a paused container go on.
    pub(crate) async fn resume(&self, id: &str) -> Result<(), TaskError> {
        let task = self.get(id, "")?;
        task.freeze(Freeze::Thawed, Move::Resume).await?;
        self.publisher.publish(&TaskResumed { container_id: id.to_owned(), ..TaskResumed::default() });
        Ok(())
    }

    /// Changes the limits of a container that has not ended.
    pub(crate) async fn update(&self, id: &str, type_url: &str, resources: &[u8]) -> Result<(), TaskError> {
        let task = self.get(id, "")?;
        let _one_at_a_time = task.changing.lock().await;
        let update = oci::update(type_url, resources)?;
        limits::note(id, &update.warnings);
        let (cgroup, pid) = (task.cgroup()?, task.state().pid().unwrap_or_default());
        if task.state().exit().is_some() {
            return Err(TaskError::Finished(id.to_owned()));
        }
        let changed = limits::change(self, &task, &cgroup, pid, &update.limits).await;
        changed.map_err(|source| TaskError::Update { id: id.to_owned(), source })
    }

    /// What a container has used so far.
    pub(crate) fn stats(&self, id: &str) -> Result<Any, TaskError> {
        let task = self.get(id, "")?;
        let failed = |source| TaskError::Cgroup { id: id.to_owned(), action: "read the use of", source };
        let stats = task.cgroup()?.stats().map_err(failed)?;
        Ok(metrics::encode(&stats)?)
    }

    /// Forgets a task that has ended, or was never started, and removes all it owned.
    pub(crate) async fn delete(&self, id: &str, exec: &str) -> Result<Exit, TaskError> {
        let task = self.find(id, exec)?;
        if task.transition(Move::Abandon).is_ok() {
            // containerd gives a shim seconds to answer, and a compilation may take longer: create undoes itself then.
            let _ = timeout(UNDOING, self.forgotten(&task)).await;
        }
        let task = self.get(id, exec)?;
        if let State::Created { .. } = task.state() {
            let _ = task.kill(KILL);
            task.exit().await?;
        }
        // An update that waits for systemd must not make anew what is removed here.
        let _one_at_a_time = task.changing.lock().await;
        // Of two who delete, the second finds nothing.
        self.find(id, exec)?;
        let exit = task.transition(Move::Delete)?.exit().ok_or(TaskError::Cancelled)?;
        let container = locked(&task.container).take();
        if let Some(container) = container
            && let Err(source) = container.release(id, &self.spawner).await
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

    /// Ends the shim if nobody needs it: refuses new tasks from now on, and takes the socket away, so that the next
    /// container of this name gets a shim of its own. Tasks that were abandoned are undone before it ends.
    pub(crate) fn shut_down(&self) {
        let mut registry = locked(&self.tasks);
        let needed = registry.tasks.values().any(|task| task.state() != State::Abandoned);
        if needed || registry.closed {
            return;
        }
        registry.closed = true;
        if let Err(error) = self.address.remove() {
            tracing::error!(error = plan::one_line(&error), "the shim's socket stays");
        }
        self.end_if_empty(&registry);
    }

    fn end_if_empty(&self, registry: &Registry) {
        if !registry.tasks.is_empty() {
            return;
        }
        match registry.closed {
            true => self.quit.notify_one(),
            false => self.vacant.notify_one(),
        }
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
            killed: AtomicBool::default(),
            changes: channel::Sender::new(()),
            changing: tokio::sync::Mutex::default(),
            request,
        });
        registry.made += 1;
        registry.tasks.insert(task.request.id.clone(), task.clone());
        Ok(task)
    }

    /// Waits until a task is not among these any more.
    async fn forgotten(&self, task: &Arc<Task>) {
        let mut changes = task.changes.subscribe();
        let is_here = || locked(&self.tasks).tasks.get(&task.request.id).is_some_and(|other| Arc::ptr_eq(other, task));
        while is_here() && changes.changed().await.is_ok() {}
    }

    fn forget(&self, id: &str) {
        let mut registry = locked(&self.tasks);
        registry.tasks.remove(id);
        self.end_if_empty(&registry);
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
/// How long a delete waits for a create that it gives up: containerd runs the `delete` action next, and forgets the shim
/// after 5 s.
const UNDOING: Duration = Duration::from_secs(3);

impl Task {
    /// Where it stands.
    pub(crate) fn state(&self) -> State {
        locked(&self.state).clone()
    }

    /// Sends a signal to the container process.
    pub(crate) fn kill(&self, signal: u32) -> Result<(), TaskError> {
        let id = || self.request.id.clone();
        match self.state() {
            State::Creating | State::Abandoned => return Err(TaskError::BeingCreated(id())),
            State::Stopped { .. } | State::Deleting { .. } => return Err(TaskError::Finished(id())),
            State::Created { .. } | State::Running { .. } | State::Paused { .. } => {}
        }
        if signal == KILL {
            self.killed.store(true, Ordering::Relaxed);
        }
        let child = locked(&self.container).as_ref().map(Container::child);
        let sent = child.map_or(Ok(()), |child| child.signal(signal));
        sent.map_err(|source| match source.kind() {
            io::ErrorKind::NotFound => TaskError::Finished(id()),
            _ => TaskError::Signal { signal, id: id(), source },
        })?;
        if let (State::Paused { .. }, KILL, Ok(cgroup)) = (self.state(), signal, self.cgroup()) {
            // A paused process dies when it goes on.
            cgroup.thaw().map_err(|source| TaskError::Cgroup { id: id(), action: "thaw", source })?;
        }
        Ok(())
    }

    /// Its cgroup, while it has one.
    pub(crate) fn cgroup(&self) -> Result<Arc<Cgroup>, TaskError> {
        let cgroup = locked(&self.container).as_ref().and_then(Container::cgroup);
        cgroup.ok_or_else(|| TaskError::Finished(self.request.id.clone()))
    }

    /// Stops or releases all of the container, then moves to the state that says so.
    async fn freeze(&self, wanted: Freeze, step: Move) -> Result<u32, TaskError> {
        let _one_at_a_time = self.changing.lock().await;
        self.state().after(&step).map_err(|from| self.refused(from, &step))?;
        let failed = |source| TaskError::Cgroup { id: self.request.id.clone(), action: step.name(), source };
        self.cgroup()?.freeze(wanted).await.map_err(failed)?;
        // It may have been killed meanwhile: by the kernel, or by a signal that it meets when it goes on.
        if self.killed.load(Ordering::Relaxed) {
            self.cgroup()?.thaw().map_err(failed)?;
        }
        Ok(self.transition(step)?.pid().unwrap_or_default())
    }

    fn refused(&self, from: &'static str, step: &Move) -> TaskError {
        TaskError::Move { id: self.request.id.clone(), from, action: step.name() }
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

    /// Waits until it is given up while it is created, or deleted.
    async fn unwanted(&self) {
        let mut changes = self.changes.subscribe();
        let is_wanted = || !matches!(self.state(), State::Abandoned | State::Deleting { .. });
        while is_wanted() && changes.changed().await.is_ok() {}
    }

    /// Lets the guest see the end of its input.
    pub(crate) fn close_stdin(&self) {
        if let Some(container) = locked(&self.container).as_mut() {
            container.close_stdin();
        }
    }

    /// The only way from one state to the next.
    fn transition(&self, step: Move) -> Result<State, TaskError> {
        let mut state = locked(&self.state);
        let next = state.after(&step).map_err(|from| self.refused(from, &step))?;
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
