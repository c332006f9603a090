//! Create: request → plan → artifact → a confined process that waits for start. Each room is entered in this order.
//! What fails here leaves nothing behind, and says why in three places.

use super::container::{Container, Owned, ReleaseError};
use super::hooks::{self, HooksError};
use super::limits::{self, LimitError};
use super::output::{self, OutputError};
use super::state::{Move, State};
use super::termination::TerminationFile;
use super::{Task, Tasks, locked, watch};
use crate::address::Address;
use crate::artifact::{self, ArtifactError};
use crate::log;
use crate::spawner::SpawnerError;
use containerd_shim_protos::events::task::{TaskCreate, TaskIO};
use engine::{Artifact, Host, Metering};
use plan::{ExitStatus, Failure, Program, Report, RunPlan, Source};
use protobuf::MessageField;
use sandbox::cgroup::{Cgroup, CgroupError};
use sandbox::container::{Inside, Spawn, SpawnError, missing, refused_score, spawn};
use sandbox::pause;
use sandbox::rootfs::{self, RootfsError};
use sandbox::stdio::Stdio;
use sandbox::{Channel, ChannelError, Child, Record, RecordError};
use std::io;
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

/// What a create needs to keep for its run.
struct Made {
    plan: Arc<RunPlan>,
    child: Child,
    channel: Channel,
}

/// Makes the container of `task`. Returns the pid of its process.
pub(super) async fn create(tasks: &Tasks, task: &Arc<Task>) -> Result<u32, CreateError> {
    let request = &task.request;
    if let Some(checkpoint) = &request.checkpoint {
        return Err(CreateError::Checkpoint(checkpoint.clone()));
    }
    let (stdio, logger) = output::open(tasks, request).await?;
    let stdio = Arc::new(stdio);
    let rootfs = request.bundle.join("rootfs");
    let mut owned = Owned { bundle: request.bundle.clone(), rootfs, ..Owned::default() };
    let mut termination_file = None;
    let made = match make(tasks, task, &stdio, &mut owned, &mut termination_file).await {
        Ok(made) => made,
        Err(error) => {
            let line = plan::one_line(&error);
            watch::explain(&request.id, &stdio.kept, termination_file.as_ref(), &line).await;
            release_after_failure(tasks, &request.id, &owned).await;
            drop(stdio);
            if let Some(logger) = logger {
                logger.finish(&request.id).await;
            }
            return Err(error);
        }
    };
    let pid = made.child.pid();
    let Channel { reports, orders } = made.channel;
    let child = Arc::new(made.child);
    let kept = Arc::try_unwrap(stdio).map(|stdio| stdio.kept).unwrap_or_default();
    if task.transition(Move::Create { pid }).is_err() {
        child.end().await;
        release_after_failure(tasks, &request.id, &owned).await;
        drop(kept);
        if let Some(logger) = logger {
            logger.finish(&request.id).await;
        }
        return Err(CreateError::Abandoned);
    }
    *locked(&task.container) = Some(Container::new(owned, made.plan.clone(), logger, child, orders, kept));
    tasks.publisher.publish(&created_event(task, pid));
    tokio::spawn(watch::watch(task.clone(), made.plan, reports, termination_file, tasks.publisher.clone()));
    Ok(pid)
}

async fn make(
    tasks: &Tasks,
    task: &Arc<Task>,
    stdio: &Arc<Stdio>,
    owned: &mut Owned,
    termination_file: &mut Option<TerminationFile>,
) -> Result<Made, CreateError> {
    let request = &task.request;
    // containerd 2.3 and newer does not run `start` for a pod's later containers, so their bundles get theirs here.
    if !Address::is_saved(&request.bundle) {
        tasks.address.save(&request.bundle)?;
    }
    let (rootfs, layers) = (owned.rootfs.clone(), request.layers.clone());
    // Where forks are made: mapped layers take one.
    let mounted = tasks.spawner.fork(move || rootfs::mount_all(&rootfs, &layers)).await;
    mounted.map_err(CreateError::Mount)?;
    let mounts: Vec<oci::RootfsMount> = request.layers.iter().map(rootfs_mount).collect();
    let lowered = oci::lower(oci::Request {
        id: &request.id,
        bundle: &request.bundle,
        rootfs: &owned.rootfs,
        rootfs_mounts: &mounts,
        options: request.options.as_ref(),
        containerd: &tasks.containerd,
    })
    .await?;
    for warning in lowered.warnings.iter().chain(&missing(&lowered.plan.isolation)) {
        tracing::warn!(id = request.id, warning, "the container differs from its spec");
    }
    let plan = Arc::new(lowered.plan);
    *termination_file = TerminationFile::open(&plan);
    let source = match (&plan.program, &lowered.guest) {
        (Program::Wasm(Source { origin, .. }), Some(guest)) => {
            Some(artifact::Source { origin, guest, metering: Metering::of(&plan) })
        }
        _ => None,
    };
    let artifact = match &source {
        Some(source) => Some(source.artifact(&tasks.spawner).await?),
        None => None,
    };
    if task.state() == State::Abandoned {
        return Err(CreateError::Abandoned);
    }
    let cgroup = claim(owned, request.layers.clone(), &plan)?;
    let (child, channel) = match confined(tasks, task, &plan, owned, &cgroup, stdio, artifact).await {
        // A cache is only a cache: what it holds in vain is made again, once.
        Err(Confining::Stale(reason)) => {
            let Some(source) = source else { return Err(CreateError::Refused(reason)) };
            tracing::warn!(id = request.id, reason, "a cached artifact is no good and is compiled again");
            let artifact = source.fresh_artifact(&tasks.spawner).await?;
            confined(tasks, task, &plan, owned, &cgroup, stdio, Some(artifact)).await?
        }
        made => made?,
    };
    Ok(Made { plan, child, channel })
}

/// Takes what the container owns on the node, each thing recorded before it is taken.
fn claim(owned: &mut Owned, layers: Vec<rootfs::Layer>, plan: &RunPlan) -> Result<Arc<Cgroup>, CreateError> {
    let cgroup = Arc::new(Cgroup::of(&plan.isolation.cgroup).map_err(CreateError::Hierarchy)?);
    cgroup.ensure_free()?;
    let points = rootfs::missing_mount_points(&owned.rootfs, plan)?;
    let record = Record::new(plan, cgroup.missing_parents(&plan.limits), layers, points);
    record.save(&owned.bundle)?;
    let record = owned.record.insert(record);
    rootfs::make_mount_points(&owned.rootfs, &record.mount_points)?;
    limits::note(&plan.id, &cgroup.create(&plan.limits)?);
    // Not before it is made: what another made is not removed.
    owned.cgroup = Some(cgroup.clone());
    Ok(cgroup)
}

/// Why a process was not confined.
enum Confining {
    Stale(String),
    Failed(CreateError),
}

impl From<SpawnerError<SpawnError>> for Confining {
    fn from(error: SpawnerError<SpawnError>) -> Confining {
        Confining::Failed(error.into())
    }
}

impl From<ChannelError> for Confining {
    fn from(error: ChannelError) -> Confining {
        Confining::Failed(error.into())
    }
}

impl From<Confining> for CreateError {
    fn from(confining: Confining) -> CreateError {
        match confining {
            Confining::Stale(reason) => CreateError::Refused(reason),
            Confining::Failed(error) => error,
        }
    }
}

async fn confined(
    tasks: &Tasks,
    task: &Task,
    plan: &Arc<RunPlan>,
    owned: &mut Owned,
    cgroup: &Arc<Cgroup>,
    stdio: &Arc<Stdio>,
    artifact: Option<Artifact>,
) -> Result<(Child, Channel), Confining> {
    let fork = {
        let (plan, cgroup, stdio, rootfs) = (plan.clone(), cgroup.clone(), stdio.clone(), owned.rootfs.clone());
        let host = tasks.host.clone();
        move || {
            let code = artifact.as_ref().map(Artifact::file);
            let made = Spawn { plan: &plan, rootfs: &rootfs, cgroup: &cgroup, stdio: &stdio, artifact: code };
            spawn(&made, |inside| match &artifact {
                Some(artifact) => run_guest(inside, &host, artifact),
                None => pause::run(inside),
            })
        }
    };
    let (child, mut channel) = tasks.spawner.spawn(fork).await?;
    // While the process makes itself ready.
    if let Some(record) = &mut owned.record {
        record.pid = Some(child.pid());
        if let Err(error) = record.save(&owned.bundle) {
            child.end().await;
            return Err(Confining::Failed(error.into()));
        }
    }
    if let Err(error) = limits::enter(tasks, cgroup, child.pid(), plan, &mut channel.orders).await {
        child.end().await;
        return Err(Confining::Failed(error.into()));
    }
    let mut report = channel.reports.next().await;
    if let Ok(Some(Report::Mounted)) = report {
        if let Err(error) = hooks::at_creation(&tasks.spawner, plan, child.pid(), task).await {
            child.end().await;
            return Err(Confining::Failed(error.into()));
        }
        // A process that is gone takes no order, and the next report says so.
        let _ = channel.orders.go().await;
        report = channel.reports.next().await;
    }
    let failed = match report {
        Ok(Some(Report::Ready)) => {
            limits::note(&plan.id, refused_score(&plan.isolation, child.pid()).as_slice());
            return Ok((child, channel));
        }
        Ok(Some(Report::Failed(Failure::StaleArtifact(reason)))) => Confining::Stale(reason),
        Ok(Some(Report::Failed(Failure::Message(line)))) => Confining::Failed(CreateError::Refused(line)),
        Ok(_) => return Err(Confining::Failed(died(&child).await)),
        Err(error) => error.into(),
    };
    child.end().await;
    Err(failed)
}

/// Why a process is gone that said nothing.
async fn died(child: &Child) -> CreateError {
    child.kill();
    match child.wait().await.map(watch::without_word) {
        Ok(ExitStatus::ForbiddenCall) => {
            CreateError::Killed(ExitStatus::ForbiddenCall.termination().message.unwrap_or_default())
        }
        Ok(_) | Err(_) => CreateError::Died,
    }
}

/// The life of the container process.
fn run_guest(mut inside: Inside<'_>, host: &Host, cached: &Artifact) {
    log::mute();
    inside.join_cgroup();
    let limit = inside.memory_limit();
    let plan = inside.plan();
    let artifact = cached.inherit(inside.take_artifact());
    let loaded = artifact.and_then(|artifact| match host.suits(&artifact) {
        true => host.load(plan, &artifact),
        false => Host::new(artifact.variant())?.load(plan, &artifact),
    });
    let loaded = match loaded {
        Ok(loaded) => loaded,
        Err(failure) => inside.fail(failure),
    };
    if loaded.serves() {
        inside.take_short_turns();
    }
    let interrupter = loaded.interrupter();
    let (mut confined, signals) = inside.confine(move || interrupter.interrupt());
    let granted = engine::Stdio::of_process()
        .map_err(|error| Failure::Message(plan::one_line(&error)))
        .and_then(|stdio| loaded.grant(plan, stdio, signals, move || limit.read()));
    let guest = match granted {
        Ok(guest) => guest,
        Err(failure) => confined.fail(failure),
    };
    confined.wait_for_start();
    let status = guest.run(&mut |report| confined.report(&report));
    confined.end(status)
}

fn rootfs_mount(layer: &rootfs::Layer) -> oci::RootfsMount {
    oci::RootfsMount { kind: layer.kind.clone(), source: layer.source.clone(), options: layer.options.clone() }
}

async fn release_after_failure(tasks: &Tasks, id: &str, owned: &Owned) {
    if let Err(error) = owned.release(id, &tasks.spawner).await {
        let error: ReleaseError = error;
        tracing::error!(id, error = plan::one_line(&error), "something of a failed create stays");
    }
}

fn created_event(task: &Task, pid: u32) -> TaskCreate {
    let request = &task.request;
    let io = TaskIO {
        stdin: request.stdin.clone(),
        stdout: request.stdout.clone(),
        stderr: request.stderr.clone(),
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
