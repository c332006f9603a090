//! Forks on behalf of async code. A fork must happen outside of the runtime's context, or the child could not make a
//! runtime of its own: so async code asks, and the main loop forks between two turns of the runtime.

use sandbox::process::Spawned;
use sandbox::{Channel, Child};
use std::io;
use tokio::sync::{mpsc, oneshot};

type Outcome<E> = Result<Spawned, E>;
type Job = Box<dyn FnOnce() + Send>;

/// Asks for forks.
#[derive(Debug, Clone)]
pub(crate) struct Spawner(mpsc::UnboundedSender<Job>);

/// Receives what was asked for.
#[derive(Debug)]
pub(crate) struct Jobs(mpsc::UnboundedReceiver<Job>);

/// Why there is no child.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SpawnerError<E: std::error::Error + 'static> {
    #[error(transparent)]
    Fork(E),
    #[error("watch the child process")]
    Watch(#[source] io::Error),
    #[error("the shim is shutting down")]
    ShuttingDown,
}

pub(crate) fn new() -> (Spawner, Jobs) {
    let (sender, receiver) = mpsc::unbounded_channel();
    (Spawner(sender), Jobs(receiver))
}

impl Spawner {
    /// Has the main loop run `fork`, and watches the child.
    pub(crate) async fn spawn<E>(
        &self,
        fork: impl FnOnce() -> Outcome<E> + Send + 'static,
    ) -> Result<(Child, Channel), SpawnerError<E>>
    where
        E: std::error::Error + Send + 'static,
    {
        self.fork(fork).await?.watch().map_err(SpawnerError::Watch)
    }

    /// Has the main loop run `fork`.
    pub(crate) async fn fork<T, E>(
        &self,
        fork: impl FnOnce() -> Result<T, E> + Send + 'static,
    ) -> Result<T, SpawnerError<E>>
    where
        T: Send + 'static,
        E: std::error::Error + Send + 'static,
    {
        let (reply, outcome) = oneshot::channel();
        let job: Job = Box::new(move || drop(reply.send(fork())));
        self.0.send(job).map_err(|_| SpawnerError::ShuttingDown)?;
        outcome.await.map_err(|_| SpawnerError::ShuttingDown)?.map_err(SpawnerError::Fork)
    }
}

impl Jobs {
    pub(crate) async fn next(&mut self) -> Option<Job> {
        self.0.recv().await
    }
}
