//! One process of a container, and where it stands: its first, or one that exec brought in.

use super::output::RunningLogger;
use super::state::{Exit, Move, State};
use super::{Task, TaskError, locked};
use sandbox::Child;
use sandbox::console::{Console, Size};
use sandbox::stdio::Kept;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::watch as channel;
use tokio::time::timeout;

/// SIGKILL.
pub(super) const KILL: u32 = 9;
/// How long the kernel may take to end a process. A file system that does not answer can hold one up for ever.
const ENDING: Duration = Duration::from_secs(10);

/// Where a process's standard streams are, by containerd's names.
#[derive(Debug, Clone, Default)]
pub(crate) struct Streams {
    pub(crate) stdin: String,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
    pub(crate) terminal: bool,
}

/// Which processes of a container a signal is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Whom {
    First,
    All,
}

impl Streams {
    /// The descriptor of its stdin, if it was asked for.
    pub(super) fn typed(&self, stdin: OwnedFd) -> Option<OwnedFd> {
        Some(stdin).filter(|_| !self.stdin.is_empty())
    }
}

/// One process of a container.
pub(crate) struct Process {
    container: String,
    /// The name that exec gave it; the first has none.
    exec: Option<String>,
    pub(crate) streams: Streams,
    state: Mutex<State>,
    /// Whether it was sent SIGKILL.
    killed: AtomicBool,
    /// Whether nothing is left of it in the kernel.
    gone: AtomicBool,
    /// Says when the state changed, or nothing is left of it.
    changes: channel::Sender<()>,
    live: Mutex<Option<Live>>,
    /// The size of its terminal, as it was asked for last.
    size: Mutex<Option<Size>>,
}

/// What there is of a process once it was made.
#[derive(Debug)]
pub(crate) struct Live {
    pub(crate) child: Arc<Child>,
    /// The shim's ends of its streams.
    pub(crate) kept: Kept,
    pub(crate) console: Option<Console>,
    pub(crate) logger: Option<RunningLogger>,
}

impl Process {
    /// The first one of a container.
    pub(super) fn first(container: &str, streams: Streams) -> Process {
        Process::new(container, None, streams, State::Creating)
    }

    /// One that exec is to bring in.
    pub(super) fn further(container: &str, exec: &str, streams: Streams) -> Process {
        Process::new(container, Some(exec.to_owned()), streams, State::Created { pid: 0 })
    }

    fn new(container: &str, exec: Option<String>, streams: Streams, state: State) -> Process {
        Process {
            container: container.to_owned(),
            exec,
            streams,
            state: Mutex::new(state),
            killed: AtomicBool::default(),
            gone: AtomicBool::default(),
            changes: channel::Sender::new(()),
            live: Mutex::default(),
            size: Mutex::default(),
        }
    }

    pub(crate) fn container(&self) -> &str {
        &self.container
    }

    /// The id that events name it by: the container's for the first.
    pub(crate) fn id(&self) -> &str {
        self.exec.as_deref().unwrap_or(&self.container)
    }

    pub(crate) fn is_first(&self) -> bool {
        self.exec.is_none()
    }

    /// What messages call it.
    pub(crate) fn name(&self) -> String {
        match &self.exec {
            None => format!("container {}", self.container),
            Some(exec) => format!("process {exec} of container {}", self.container),
        }
    }

    /// Where it stands.
    pub(crate) fn state(&self) -> State {
        locked(&self.state).clone()
    }

    /// The only way from one state to the next.
    pub(super) fn transition(&self, step: Move) -> Result<State, TaskError> {
        let mut state = locked(&self.state);
        let next = state.after(&step).map_err(|from| self.refused(from, &step))?;
        *state = next.clone();
        drop(state);
        self.tell();
        Ok(next)
    }

    /// Has those who wait look again.
    pub(super) fn tell(&self) {
        self.changes.send_replace(());
    }

    pub(super) fn changes(&self) -> channel::Receiver<()> {
        self.changes.subscribe()
    }

    pub(super) fn refused(&self, from: &'static str, step: &Move) -> TaskError {
        TaskError::Move { process: self.name(), from, action: step.name() }
    }

    pub(super) fn enliven(&self, live: Live) {
        if let (Some(size), Some(console)) = (*locked(&self.size), &live.console) {
            // A terminal of another size than its user's is one all the same.
            let _ = console.resize(size);
        }
        *locked(&self.live) = Some(live);
    }

    pub(super) fn child(&self) -> Option<Arc<Child>> {
        locked(&self.live).as_ref().map(|live| live.child.clone())
    }

    /// Whether it was sent SIGKILL.
    pub(super) fn is_killed(&self) -> bool {
        self.killed.load(Ordering::Relaxed)
    }

    /// Sends it a signal.
    pub(super) fn kill(&self, signal: u32) -> Result<(), TaskError> {
        match self.state() {
            State::Creating | State::Abandoned => return Err(TaskError::BeingCreated(self.container.clone())),
            State::Stopped { .. } | State::Deleting { .. } => return Err(TaskError::Finished(self.name())),
            State::Created { .. } | State::Running { .. } | State::Paused { .. } => {}
        }
        if signal == KILL {
            self.killed.store(true, Ordering::Relaxed);
        }
        let sent = match self.child() {
            Some(child) => child.signal(signal),
            // It meets this one as soon as it is there.
            None if signal == KILL => Ok(()),
            None => return Err(TaskError::BeingCreated(self.container.clone())),
        };
        sent.map_err(|source| match source.kind() {
            io::ErrorKind::NotFound => TaskError::Finished(self.name()),
            _ => TaskError::Signal { signal, process: self.name(), source },
        })
    }

    /// Waits until it has ended.
    pub(crate) async fn exit(&self) -> Result<Exit, TaskError> {
        let mut changes = self.changes();
        loop {
            if let Some(exit) = self.state().exit() {
                return Ok(exit);
            }
            // The sender is a part of this process, so the channel is open.
            changes.changed().await.map_err(|_| TaskError::Cancelled)?;
        }
    }

    /// Says that nothing is left of it.
    pub(super) fn bury(&self) {
        self.gone.store(true, Ordering::Relaxed);
        self.tell();
    }

    /// Waits until nothing is left of one that has ended. One that was never made has no child, and is never buried.
    pub(super) async fn gone(&self) -> Result<(), TaskError> {
        let mut changes = self.changes();
        let is_ending = || {
            let has_ended = self.child().is_some() && self.state().exit().is_some();
            has_ended && !self.gone.load(Ordering::Relaxed)
        };
        let gone = async { while is_ending() && changes.changed().await.is_ok() {} };
        timeout(ENDING, gone).await.map_err(|_| TaskError::Ending(self.name()))
    }

    /// Ends one that has said how it ends, lest any of its threads should go on; also where all of its container is stopped.
    pub(super) fn finish(&self, task: &Task) {
        // It may be gone already.
        let _ = self.kill(KILL);
        if self.is_first()
            && let Err(error) = task.go_on_to_die()
        {
            let id = &self.container;
            tracing::warn!(id, error = plan::one_line(&error), "a paused container that has ended stays");
        }
    }

    /// Waits until it is given up while it is created, or deleted.
    pub(super) async fn unwanted(&self) {
        let mut changes = self.changes();
        let is_wanted = || !matches!(self.state(), State::Abandoned | State::Deleting { .. });
        while is_wanted() && changes.changed().await.is_ok() {}
    }

    /// Lets it see the end of its input.
    pub(crate) fn close_stdin(&self) {
        if let Some(live) = locked(&self.live).as_mut() {
            live.kept.close_stdin();
        }
    }

    /// Tells it the size of its user's terminal.
    pub(crate) fn resize(&self, size: Size) -> Result<(), TaskError> {
        if !self.streams.terminal {
            return Err(TaskError::NoTerminal(self.name()));
        }
        *locked(&self.size) = Some(size);
        let live = locked(&self.live);
        let Some(console) = live.as_ref().and_then(|live| live.console.as_ref()) else { return Ok(()) };
        console.resize(size).map_err(|source| TaskError::Resize { process: self.name(), source })
    }

    /// The shim's ends of its streams and its terminal; they end with what is returned.
    pub(super) fn take_streams(&self) -> (Kept, Option<Console>) {
        let mut live = locked(&self.live);
        live.as_mut().map(|live| (std::mem::take(&mut live.kept), live.console.take())).unwrap_or_default()
    }

    /// Waits for its logger, if it has one.
    pub(super) async fn finish_logger(&self) {
        let logger = locked(&self.live).as_mut().and_then(|live| live.logger.take());
        if let Some(logger) = logger {
            logger.finish(self.id()).await;
        }
    }
}
