//! The tasks of one group: found by id, moved from state to state, forgotten when deleted.

mod container;
mod create;
mod error;
mod exec;
mod forgotten;
pub(crate) mod hooks;
mod limits;
mod linux;
mod output;
mod own;
mod process;
mod request;
mod state;
mod termination;
mod watch;

use crate::address::Group;
use crate::events::Publisher;
use crate::metrics;
use crate::spawner::Spawner;
use crate::wire::timestamp;
use container::Container;
use containerd_shim_protos::events::task::{TaskDelete, TaskPaused, TaskResumed, TaskStart};
use containerd_shim_protos::protobuf::well_known_types::any::Any;
use exec::Exec;
use process::{KILL, Process};
use protobuf::MessageField;
use sandbox::cgroup::{Cgroup, Freeze};
use sandbox::rootfs::NodeMounts;
use std::collections::HashMap;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::timeout;

pub(crate) use create::CreateError;
pub(crate) use error::TaskError;
pub(crate) use exec::{ExecError, ExecRequest};
pub(crate) use process::{Streams, Whom};
pub(crate) use request::Request;
pub(crate) use state::{Exit, Move, State};

/// The tasks of one group.
pub(crate) struct Tasks {
    tasks: Mutex<Registry>,
    containerd: oci::Containerd,
    group: Group,
    spawner: Spawner,
    node: NodeMounts,
    host: Arc<engine::Host>,
    publisher: Publisher,
    /// Told when the shim is to end.
    quit: Arc<Notify>,
    /// Told when the last task is gone.
    vacant: Notify,
    /// Set once this process takes what runc leaves behind.
    takes_orphans: OnceLock<()>,
}

#[derive(Default)]
struct Registry {
    tasks: HashMap<String, Arc<Task>>,
    /// Tasks so far.
    made: u64,
    /// The shim ends once it has no tasks.
    closed: bool,
}

/// One task: a container and its processes.
pub(crate) struct Task {
    pub(crate) request: Request,
    /// The first process, with which the container ends.
    pub(crate) main: Arc<Process>,
    /// Those that exec brought in, by name.
    execs: Mutex<HashMap<String, Arc<Exec>>>,
    container: Mutex<Option<Container>>,
    /// Whether the first process has ended: no other is brought in.
    ending: AtomicBool,
    /// Held while the container is stopped, released, or given other limits.
    changing: tokio::sync::Mutex<()>,
    /// Held while the first process is started.
    starting: tokio::sync::Mutex<()>,
}

impl Tasks {
    pub(crate) fn new(
        containerd: oci::Containerd,
        group: Group,
        spawner: Spawner,
        node: NodeMounts,
        host: Arc<engine::Host>,
        publisher: Publisher,
        quit: Arc<Notify>,
    ) -> Tasks {
        let (tasks, vacant, takes_orphans) = (Mutex::default(), Notify::new(), OnceLock::new());
        Tasks { tasks, containerd, group, spawner, node, host, publisher, quit, vacant, takes_orphans }
    }

    /// The task of that id, once it is created.
    pub(crate) fn get(&self, id: &str) -> Result<Arc<Task>, TaskError> {
        let task = self.find(id)?;
        match task.main.state() {
            State::Creating | State::Abandoned => Err(TaskError::BeingCreated(id.to_owned())),
            _ => Ok(task),
        }
    }

    fn find(&self, id: &str) -> Result<Arc<Task>, TaskError> {
        locked(&self.tasks).tasks.get(id).cloned().ok_or_else(|| TaskError::NotFound(id.to_owned()))
    }

    /// A process of a task that is created: the first, or the one that exec calls so.
    pub(crate) fn process(&self, id: &str, exec: &str) -> Result<Arc<Process>, TaskError> {
        let task = self.get(id)?;
        match exec {
            "" => Ok(task.main.clone()),
            exec => Ok(task.exec(exec)?.process.clone()),
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

    /// Lets a process run. Returns its pid.
    pub(crate) async fn start(&self, id: &str, exec: &str) -> Result<u32, TaskError> {
        let task = self.get(id)?;
        if !exec.is_empty() {
            // Boxed, lest every start be as large.
            return Box::pin(self.start_exec(&task, task.exec(exec)?.as_ref())).await;
        }
        // Of two, one runs the hooks. The exit is not told before the start.
        let turn = task.starting.lock().await;
        let (plan, runc) = {
            let container = locked(&task.container);
            (container.as_ref().and_then(Container::plan), container.as_ref().and_then(Container::runc))
        };
        if let (Some(plan), State::Created { pid }) = (&plan, task.main.state())
            && let Err(source) = hooks::before_start(&self.spawner, plan, pid).await
        {
            // A container whose hooks fail is stopped (OCI runtime spec, "Lifecycle").
            let _ = task.main.kill(KILL);
            return Err(TaskError::Hooks { id: id.to_owned(), source: Box::new(source) });
        }
        let pid = task.main.transition(Move::Start)?.pid().unwrap_or_default();
        if let Some(runc) = runc
            && let Err(error) = runc.start(&self.spawner).await
        {
            let _ = task.main.kill(KILL);
            return Err(error.into());
        }
        let orders = locked(&task.container).as_mut().and_then(Container::take_orders);
        // Queued before the order: the exit must not overtake the start.
        let event = TaskStart { container_id: id.to_owned(), pid, ..TaskStart::default() };
        self.publisher.publish(&event);
        if let Some(mut orders) = orders {
            orders.go().await.map_err(|source| TaskError::Start { id: id.to_owned(), source })?;
        }
        drop(turn);
        if let Some(plan) = plan {
            hooks::after_start(&self.spawner, &plan, pid, &task.main).await;
        }
        Ok(pid)
    }

    /// Sends a signal to a process, or to all of a container.
    pub(crate) fn kill(&self, id: &str, exec: &str, signal: u32, whom: Whom) -> Result<(), TaskError> {
        let task = self.get(id)?;
        if !exec.is_empty() {
            return task.kill_exec(exec, signal);
        }
        task.main.kill(signal)?;
        if let (Whom::All, Ok(cgroup)) = (whom, task.cgroup()) {
            cgroup.signal_others(signal, task.main.state().pid());
        }
        match signal {
            KILL => task.go_on_to_die(),
            _ => Ok(()),
        }
    }

    /// The processes of a container, as the node numbers them.
    pub(crate) fn pids(&self, id: &str) -> Result<Vec<u32>, TaskError> {
        let task = self.get(id)?;
        // Always one at least: containerd takes a shim without for leaked, and kills it.
        let mut pids: Vec<u32> = task.main.state().pid().into_iter().collect();
        let members = task.cgroup().map(|cgroup| cgroup.processes()).unwrap_or_default();
        pids.extend(members.into_iter().filter(|pid| Some(*pid) != task.main.state().pid()));
        Ok(pids)
    }

    /// Stops all of a running container.
    pub(crate) async fn pause(&self, id: &str) -> Result<(), TaskError> {
        let task = self.get(id)?;
        task.freeze(Freeze::Frozen, Move::Pause).await?;
        self.publisher.publish(&TaskPaused { container_id: id.to_owned(), ..TaskPaused::default() });
        Ok(())
    }

    /// Lets a paused container go on.
    pub(crate) async fn resume(&self, id: &str) -> Result<(), TaskError> {
        let task = self.get(id)?;
        task.freeze(Freeze::Thawed, Move::Resume).await?;
        self.publisher.publish(&TaskResumed { container_id: id.to_owned(), ..TaskResumed::default() });
        Ok(())
    }

    /// Changes the limits of a container that has not ended.
    pub(crate) async fn update(&self, id: &str, type_url: &str, resources: &[u8]) -> Result<(), TaskError> {
        let task = self.get(id)?;
        let _one_at_a_time = task.changing.lock().await;
        let runc = locked(&task.container).as_ref().and_then(Container::runc);
        if let Some(runc) = runc {
            return Ok(runc.update(&self.spawner, &oci::resources(type_url, resources)?).await?);
        }
        let update = oci::update(type_url, resources)?;
        limits::note(id, &update.warnings);
        let (cgroup, pid) = (task.cgroup()?, task.main.state().pid().unwrap_or_default());
        if task.main.state().exit().is_some() {
            return Err(TaskError::Finished(task.main.name()));
        }
        let changed = limits::change(self, &task, &cgroup, pid, &update.limits).await;
        changed.map_err(|source| TaskError::Update { id: id.to_owned(), source })
    }

    /// What a container has used so far.
    pub(crate) fn stats(&self, id: &str) -> Result<Any, TaskError> {
        let task = self.get(id)?;
        let failed = |source| TaskError::Cgroup { id: id.to_owned(), action: "read the use of", source };
        let stats = task.cgroup()?.stats().map_err(failed)?;
        Ok(metrics::encode(&stats)?)
    }

    /// Forgets a process that has ended, or was never started; with the first of a container, removes all it owned.
    pub(crate) async fn delete(&self, id: &str, exec: &str) -> Result<Exit, TaskError> {
        let task = self.find(id)?;
        if !exec.is_empty() {
            return task.delete_exec(exec).await;
        }
        if task.main.transition(Move::Abandon).is_ok() {
            // containerd gives a shim seconds to answer, and a compilation may take longer: create undoes itself then.
            let _ = timeout(UNDOING, self.forgotten(&task)).await;
        }
        let task = self.get(id)?;
        if let State::Created { .. } = task.main.state() {
            let _ = task.main.kill(KILL);
            task.main.exit().await?;
        }
        task.main.gone().await?;
        // An update that waits for systemd must not make anew what is removed here.
        let _one_at_a_time = task.changing.lock().await;
        // Of two who delete, the second finds nothing.
        self.find(id)?;
        let exit = task.main.transition(Move::Delete)?.exit().ok_or(TaskError::Cancelled)?;
        task.main.finish_logger().await;
        let container = locked(&task.container).take();
        if let Some(container) = container
            && let Err(source) = container.release(id, &self.spawner).await
        {
            *locked(&task.container) = Some(container);
            task.main.transition(Move::KeepAfterFailure)?;
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
        let needed = registry.tasks.values().any(|task| task.main.state() != State::Abandoned);
        if needed || registry.closed {
            return;
        }
        registry.closed = true;
        if let Err(error) = self.group.address.remove() {
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
            main: Arc::new(Process::first(&request.id, request.streams.clone())),
            execs: Mutex::default(),
            container: Mutex::default(),
            ending: AtomicBool::default(),
            changing: tokio::sync::Mutex::default(),
            starting: tokio::sync::Mutex::default(),
            request,
        });
        registry.made += 1;
        registry.tasks.insert(task.request.id.clone(), task.clone());
        Ok(task)
    }

    /// Waits until a task is not among these any more.
    async fn forgotten(&self, task: &Arc<Task>) {
        let mut changes = task.main.changes();
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
        self.task.main.tell();
    }
}

/// How long a delete waits for a create that it gives up: containerd runs the `delete` action next, and forgets the shim
/// after 5 s.
const UNDOING: Duration = Duration::from_secs(3);

impl Task {
    /// Its cgroup, while it has one.
    pub(crate) fn cgroup(&self) -> Result<Arc<Cgroup>, TaskError> {
        let cgroup = locked(&self.container).as_ref().and_then(Container::cgroup);
        cgroup.ok_or_else(|| TaskError::Finished(self.main.name()))
    }

    /// Stops or releases all of the container, then moves to the state that says so.
    async fn freeze(&self, wanted: Freeze, step: Move) -> Result<u32, TaskError> {
        let _one_at_a_time = self.changing.lock().await;
        self.main.state().after(&step).map_err(|from| self.main.refused(from, &step))?;
        let action = step.name();
        let failed = |source| TaskError::Cgroup { id: self.request.id.clone(), action, source };
        self.cgroup()?.freeze(wanted).await.map_err(failed)?;
        let moved = self.main.transition(step);
        // It may have ended meanwhile, or been killed by a signal that it meets when it goes on.
        if moved.is_err() || self.main.is_killed() {
            self.cgroup()?.thaw().map_err(failed)?;
        }
        Ok(moved?.pid().unwrap_or_default())
    }
}

/// One thread holds these locks, for moments: a panic in between leaves nothing half done.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
