//! Create: request → plan → a process that waits for start, the shim's own (`own`) or runc's (`linux`). Each room is
//! entered in this order. What fails here leaves nothing behind, and says why in three places.

use super::container::{Container, Kind, Owned, ReleaseError};
use super::hooks::HooksError;
use super::limits::LimitError;
use super::output::{self, OutputError};
use super::process::Live;
use super::state::Move;
use super::termination::TerminationFile;
use super::watch::{self, Watched};
use super::{Task, Tasks, linux, locked, own};
use crate::address::Address;
use crate::artifact::ArtifactError;
use crate::runc::RuncError;
use crate::spawner::SpawnerError;
use containerd_shim_protos::events::task::{TaskCreate, TaskIO};
use oci::Lowered;
use protobuf::MessageField;
use sandbox::cgroup::CgroupError;
use sandbox::channel::Reports;
use sandbox::console::Console;
use sandbox::container::SpawnError;
use sandbox::rootfs::{self, RootfsError};
use sandbox::stdio::Stdio;
use sandbox::{ChannelError, Child, RecordError};
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;

/// Why there is no container.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CreateError {
    #[error(transparent)]
    Output(#[from] OutputError),
    #[error(transparent)]
    Rootfs(#[from] RootfsError),
    #[error(transparent)]
    Mount(SpawnerError<RootfsError>),
    #[error(transparent)]
    Plan(#[from] oci::Error),
    #[error(transparent)]
    Artifact(#[from] ArtifactError),
    #[error(transparent)]
    Record(#[from] RecordError),
    #[error("read the node's cgroup hierarchies")]
    Hierarchy(#[source] io::Error),
    #[error(transparent)]
    Runc(#[from] RuncError),
    #[error("make a terminal: the node may have none left (sysctl kernel.pty.max)")]
    Terminal(#[source] io::Error),
    #[error("container {0} has ended")]
    Gone(String),
    #[error("take the processes that runc leaves behind")]
    Orphans(#[source] io::Error),
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    #[error(transparent)]
    Spawn(#[from] SpawnerError<SpawnError>),
    #[error(transparent)]
    Channel(#[from] ChannelError),
    /// The container process says why.
    #[error("{0}")]
    Refused(String),
    #[error(transparent)]
    Limit(#[from] LimitError),
    #[error(transparent)]
    Hooks(#[from] HooksError),
    #[error(
        "the container process ended before it was ready: its memory limit may be too low for it, or its seccomp profile too strict"
    )]
    Died,
    /// By seccomp.
    #[error("the container process ended before it was ready: {0}")]
    Killed(String),
    #[error("restoring from checkpoint {0} is not built: delete the checkpoint option")]
    Checkpoint(String),
    #[error("deleted while it was being created")]
    Abandoned,
    #[error(transparent)]
    Address(#[from] crate::address::AddressError),
}

/// A container that waits for start.
pub(super) struct Made {
    pub(super) child: Child,
    pub(super) console: Option<Console>,
    pub(super) kind: Kind,
    /// What its process says, if it is the shim's own.
    pub(super) reports: Option<Reports>,
    pub(super) memory_limit_bytes: Option<u64>,
}

/// Makes the container of `task`. Returns the pid of its process.
pub(super) async fn create(tasks: &Tasks, task: &Arc<Task>) -> Result<u32, CreateError> {
    let request = &task.request;
    if let Some(checkpoint) = &request.checkpoint {
        return Err(CreateError::Checkpoint(checkpoint.clone()));
    }
    let (Stdio { kept, child: ends }, logger) = output::open(tasks, &request.id, &task.main.streams).await?;
    let rootfs = request.rootfs();
    let pod = Some(&tasks.group.bundle).filter(|first| **first != request.bundle).cloned();
    let mut owned = Owned { bundle: request.bundle.clone(), pod, rootfs, ..Owned::default() };
    let mut termination_file = None;
    let Made { child, console, kind, reports, memory_limit_bytes } =
        match make(tasks, task, ends, &mut owned, &mut termination_file).await {
            Ok(made) => made,
            Err(error) => {
                // What runc says it says there itself, but on a terminal that is not there yet.
                let said = matches!(error, CreateError::Runc(RuncError::Refused { .. })) && !task.main.streams.terminal;
                if !said {
                    watch::explain(&request.id, &kept, termination_file.as_ref(), &plan::one_line(&error)).await;
                }
                release_after_failure(tasks, &request.id, &owned).await;
                drop(kept);
                if let Some(logger) = logger {
                    logger.finish(&request.id).await;
                }
                return Err(error);
            }
        };
    let pid = child.pid();
    if task.main.transition(Move::Create { pid }).is_err() {
        child.end().await;
        drop((console, kept));
        release_after_failure(tasks, &request.id, &owned).await;
        if let Some(logger) = logger {
            logger.finish(&request.id).await;
        }
        return Err(CreateError::Abandoned);
    }
    *locked(&task.container) = Some(Container::new(owned, kind));
    task.main.enliven(Live { child: Arc::new(child), kept, console, logger });
    tasks.publisher.publish(&created_event(task, pid));
    let watched = Watched { process: task.main.clone(), reports, memory_limit_bytes, termination_file };
    tokio::spawn(watch::watch(task.clone(), watched, tasks.publisher.clone()));
    Ok(pid)
}

async fn make(
    tasks: &Tasks,
    task: &Task,
    ends: [OwnedFd; 3],
    owned: &mut Owned,
    termination_file: &mut Option<TerminationFile>,
) -> Result<Made, CreateError> {
    let request = &task.request;
    // containerd 2.3 and newer does not run `start` for a pod's later containers, so their bundles get theirs here.
    if !Address::is_saved(&request.bundle) {
        tasks.group.address.save(&request.bundle)?;
    }
    let (rootfs, layers) = (owned.rootfs.clone(), request.layers.clone());
    // Where forks are made: mapped layers take one.
    let mounted = tasks.spawner.fork(move || rootfs::mount_all(&rootfs, &layers)).await;
    mounted.map_err(CreateError::Mount)?;
    let mounts = request.rootfs_mounts();
    let lowered = oci::lower(oci::Request {
        id: &request.id,
        bundle: &request.bundle,
        rootfs: &owned.rootfs,
        rootfs_mounts: &mounts,
        options: request.options.as_ref(),
        containerd: &tasks.containerd,
    });
    match lowered.await? {
        Lowered::Own(lowered) => own::make(tasks, task, *lowered, ends, owned, termination_file).await,
        Lowered::Linux(plan) => linux::make(tasks, task, &plan, ends, owned).await,
    }
}

async fn release_after_failure(tasks: &Tasks, id: &str, owned: &Owned) {
    if let Err(error) = owned.release(id, &tasks.spawner).await {
        let error: ReleaseError = error;
        tracing::error!(id, error = plan::one_line(&error), "something of a failed create stays");
    }
}

fn created_event(task: &Task, pid: u32) -> TaskCreate {
    let (request, streams) = (&task.request, &task.main.streams);
    let io = TaskIO {
        stdin: streams.stdin.clone(),
        stdout: streams.stdout.clone(),
        stderr: streams.stderr.clone(),
        terminal: streams.terminal,
        ..TaskIO::default()
    };
    TaskCreate {
        container_id: request.id.clone(),
        bundle: path_text(&request.bundle),
        io: MessageField::some(io),
        pid,
        ..TaskCreate::default()
    }
}

fn path_text(path: &Path) -> String {
    path.display().to_string()
}
