//! Where a container's output goes: opened before anything else, so that every failure can be told there.

use super::Tasks;
use super::process::Streams;
use crate::spawner::SpawnerError;
use plan::{Failure, Report};
use sandbox::stdio::{LoggerToRun, Names, Stdio, StdioError};
use sandbox::{Channel, Child};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::unix::pipe::Receiver;
use tokio::time::timeout;

/// How long a logger may take until it is ready (containerd's own bound).
const STARTING: Duration = Duration::from_secs(10);
/// How long a logger may take to write what it has once both streams have ended.
const ENDING: Duration = Duration::from_secs(10);

/// Why there is no output.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OutputError {
    #[error(transparent)]
    Stdio(#[from] StdioError),
    #[error("run logger {path}")]
    Spawn {
        path: PathBuf,
        #[source]
        source: SpawnerError<io::Error>,
    },
    #[error("logger {path} {reason}")]
    Logger { path: PathBuf, reason: String },
}

/// A logger that runs.
#[derive(Debug, Clone)]
pub(crate) struct RunningLogger(Arc<Child>);

impl RunningLogger {
    /// Waits for its end, which comes once the container's output has ended, and ends it if it does not come.
    pub(super) async fn finish(&self, id: &str) {
        if timeout(ENDING, self.0.wait()).await.is_err() {
            tracing::warn!(id, "the container's logger did not end with the output and is killed");
            self.0.end_group().await;
        }
    }
}

/// Opens the streams of a process of container `id`, and runs their logger if they name one.
pub(super) async fn open(
    tasks: &Tasks,
    id: &str,
    streams: &Streams,
) -> Result<(Stdio, Option<RunningLogger>), OutputError> {
    let names = Names {
        namespace: &tasks.containerd.namespace,
        id,
        stdin: &streams.stdin,
        stdout: &streams.stdout,
        // A terminal has one output, which is where the shim tells what it has to tell.
        stderr: if streams.terminal { &streams.stdout } else { &streams.stderr },
    };
    let (stdio, logger) = Stdio::open(&names)?;
    let logger = match logger {
        Some(logger) => Some(run(tasks, logger).await?),
        None => None,
    };
    Ok((stdio, logger))
}

async fn run(tasks: &Tasks, wanted: LoggerToRun) -> Result<RunningLogger, OutputError> {
    let LoggerToRun { logger, ends, ready } = wanted;
    let path = logger.path.clone();
    let spawned = tasks.spawner.spawn(move || logger.spawn(ends)).await;
    let (child, channel) = spawned.map_err(|source| OutputError::Spawn { path: path.clone(), source })?;
    let failure = match timeout(STARTING, is_ready(channel, ready)).await {
        Ok(Ok(())) => return Ok(RunningLogger(Arc::new(child))),
        Ok(Err(reason)) => reason,
        Err(_) => format!("did not say that it is ready within {} s", STARTING.as_secs()),
    };
    child.end_group().await;
    Err(OutputError::Logger { path, reason: failure })
}

/// A logger that writes, or closes its end, is ready; one that left has closed it too, and is found out by its streams.
async fn is_ready(mut channel: Channel, ready: std::os::fd::OwnedFd) -> Result<(), String> {
    // The end of the channel says that the program is there.
    match channel.reports.next().await {
        Ok(None) => {}
        Ok(Some(Report::Failed(Failure::Message(reason)))) => return Err(format!("cannot be run: {reason}")),
        Ok(Some(report)) => return Err(format!("said something out of turn: {report:?}")),
        Err(error) => return Err(plan::one_line(&error)),
    }
    let ready = Receiver::from_owned_fd(ready).map_err(|error| error.to_string())?;
    ready.readable().await.map_err(|error| error.to_string())
}
