//! A container that a process of the shim's own runs: wasm, or the pause container.
//! plan → artifact → a confined process that waits for start.

use super::container::{Container, Kind, Owned};
use super::create::{CreateError, Made};
use super::exec::{Entered, Exec, ExecError};
use super::hooks;
use super::limits;
use super::process::{Live, Streams};
use super::state::State;
use super::termination::TerminationFile;
use super::{Task, Tasks, locked, watch};
use crate::artifact;
use crate::log;
use crate::spawner::SpawnerError;
use engine::{Artifact, Host, Metering};
use plan::{ExitStatus, Failure, Program, Report, RunPlan, Source};
use sandbox::cgroup::Cgroup;
use sandbox::console::{self, Console};
use sandbox::container::{Inside, Place, Spawn, SpawnError, missing, refused_score, spawn};
use sandbox::stdio::Stdio;
use sandbox::{Channel, ChannelError, Child, Record, pause, rootfs};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;

/// The process's ends of its standard input, output and error.
pub(super) type Ends = Arc<[OwnedFd; 3]>;

/// Makes what `lowered` says for `task`, up to the point where it waits for start.
pub(super) async fn make(
    tasks: &Tasks,
    task: &Task,
    lowered: oci::Own,
    ends: [OwnedFd; 3],
    owned: &mut Owned,
    termination_file: &mut Option<TerminationFile>,
) -> Result<Made, CreateError> {
    let request = &task.request;
    for warning in lowered.warnings.iter().chain(&missing(&lowered.plan.isolation)) {
        tracing::warn!(id = request.id, warning, "the container differs from its spec");
    }
    let plan = Arc::new(lowered.plan);
    *termination_file = TerminationFile::open(&plan);
    let source = source(&plan, lowered.guest.as_ref());
    let artifact = match &source {
        Some(source) => Some(source.artifact(&tasks.spawner).await?),
        None => None,
    };
    if task.main.state() == State::Abandoned {
        return Err(CreateError::Abandoned);
    }
    let cgroup = claim(owned, request.layers.clone(), &plan)?;
    let (ends, console) = ends_of(&plan, &task.main.streams, ends)?;
    let room = Room { plan: plan.clone(), cgroup, rootfs: owned.rootfs.clone(), ends, place: Place::Own };
    let (child, channel) = match room.first(tasks, task, owned, artifact).await {
        // A cache is only a cache: what it holds in vain is made again, once.
        Err(Confining::Stale(reason)) => {
            let Some(source) = source else { return Err(CreateError::Refused(reason)) };
            tracing::warn!(id = request.id, reason, "a cached artifact is no good and is compiled again");
            let artifact = source.fresh_artifact(&tasks.spawner).await?;
            room.first(tasks, task, owned, Some(artifact)).await?
        }
        made => made?,
    };
    let Channel { reports, orders } = channel;
    let memory_limit_bytes = plan.limits.memory.limit_bytes();
    let kind = Kind::Own { plan, orders: Some(orders) };
    Ok(Made { child, console, kind, reports: Some(reports), memory_limit_bytes })
}

/// Makes one more process in the container of `task`, up to the point where it waits for its order.
pub(super) async fn exec(tasks: &Tasks, task: &Task, exec: &Exec, stdio: Stdio) -> Result<Entered, ExecError> {
    let request = &task.request;
    let gone = || CreateError::Gone(request.id.clone());
    let plan = locked(&task.container).as_ref().and_then(Container::plan).ok_or_else(gone)?;
    let place = Place::Of(task.main.child().ok_or_else(gone)?.pid());
    let cgroup = task.cgroup().map_err(|_| gone())?;
    let mounts = request.rootfs_mounts();
    let rootfs = request.rootfs();
    let request = oci::Request {
        id: &request.id,
        bundle: &request.bundle,
        rootfs: &rootfs,
        rootfs_mounts: &mounts,
        options: request.options.as_ref(),
        containerd: &tasks.containerd,
    };
    let lowered = oci::lower_exec(request, &plan, &exec.spec).await?;
    let plan = Arc::new(lowered.plan);
    let source = source(&plan, lowered.guest.as_ref()).ok_or_else(gone)?;
    let artifact = source.artifact(&tasks.spawner).await.map_err(CreateError::from)?;
    let Stdio { kept, child: ends } = stdio;
    let (ends, console) = ends_of(&plan, &exec.process.streams, ends)?;
    let room = Room { plan: plan.clone(), cgroup, rootfs: rootfs.clone(), ends, place };
    let (child, channel) = match room.further(tasks, artifact).await {
        Err(Confining::Stale(reason)) => {
            tracing::warn!(id = request.id, reason, "a cached artifact is no good and is compiled again");
            let artifact = source.fresh_artifact(&tasks.spawner).await.map_err(CreateError::from)?;
            room.further(tasks, artifact).await.map_err(CreateError::from)?
        }
        made => made.map_err(CreateError::from)?,
    };
    let Channel { reports, orders } = channel;
    let live = Live { child: Arc::new(child), kept, console, logger: None };
    Ok(Entered { live, own: Some((orders, reports)) })
}

/// What is to be compiled for a plan.
fn source<'a>(plan: &'a RunPlan, guest: Option<&'a oci::Guest>) -> Option<artifact::Source<'a>> {
    match (&plan.program, guest) {
        (Program::Wasm(Source { origin, .. }), Some(guest)) => {
            Some(artifact::Source { origin, guest, metering: Metering::of(plan) })
        }
        _ => None,
    }
}

/// The ends of its streams that a process gets, and the terminal that is between them and those of its client, if it is to
/// have one.
fn ends_of(plan: &RunPlan, wanted: &Streams, ends: [OwnedFd; 3]) -> Result<(Ends, Option<Console>), CreateError> {
    if !plan.terminal {
        return Ok((Arc::new(ends), None));
    }
    let [stdin, stdout, _] = ends;
    let (master, ends) = console::open().map_err(CreateError::Terminal)?;
    let console = Console::serve(master, wanted.typed(stdin), stdout).map_err(CreateError::Terminal)?;
    Ok((Arc::new(ends), Some(console)))
}

/// Takes what the container owns on the node, each thing recorded before it is taken.
fn claim(owned: &mut Owned, layers: Vec<rootfs::Layer>, plan: &RunPlan) -> Result<Arc<Cgroup>, CreateError> {
    let cgroup = Arc::new(Cgroup::of(&plan.isolation.cgroup).map_err(CreateError::Hierarchy)?);
    cgroup.ensure_free()?;
    let points = rootfs::missing_mount_points(&owned.rootfs, plan)?;
    let record = Record::new(plan, cgroup.missing_parents(&plan.limits), layers, points.clone());
    owned.note(record)?;
    rootfs::make_mount_points(&owned.rootfs, &points)?;
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

/// What a process is made with.
struct Room {
    plan: Arc<RunPlan>,
    cgroup: Arc<Cgroup>,
    rootfs: PathBuf,
    ends: Ends,
    place: Place,
}

impl Room {
    /// Makes the first process of a container.
    async fn first(
        &self,
        tasks: &Tasks,
        task: &Task,
        owned: &mut Owned,
        artifact: Option<Artifact>,
    ) -> Result<(Child, Channel), Confining> {
        let plan = &self.plan;
        let (child, mut channel) = self.fork(tasks, artifact).await?;
        // While the process makes itself ready, for the event to come.
        tasks.publisher.connect();
        if let Err(error) = owned.name_process(child.pid()) {
            child.end().await;
            return Err(Confining::Failed(error.into()));
        }
        if let Err(error) = limits::enter(tasks, &self.cgroup, child.pid(), plan, &mut channel.orders).await {
            child.end().await;
            return Err(Confining::Failed(error.into()));
        }
        let mut report = channel.reports.next().await;
        if let Ok(Some(Report::Mounted)) = report {
            if let Err(error) = hooks::at_creation(&tasks.spawner, plan, child.pid(), &task.main).await {
                child.end().await;
                return Err(Confining::Failed(error.into()));
            }
            // A process that is gone takes no order, and the next report says so.
            let _ = channel.orders.go().await;
            report = channel.reports.next().await;
        }
        self.ready(child, channel, report).await
    }

    /// Makes one more.
    async fn further(&self, tasks: &Tasks, artifact: Artifact) -> Result<(Child, Channel), Confining> {
        let (child, mut channel) = self.fork(tasks, Some(artifact)).await?;
        let report = channel.reports.next().await;
        self.ready(child, channel, report).await
    }

    async fn fork(&self, tasks: &Tasks, artifact: Option<Artifact>) -> Result<(Child, Channel), Confining> {
        let Room { plan, cgroup, rootfs, ends, place } = self;
        let (plan, cgroup, ends, rootfs, place) = (plan.clone(), cgroup.clone(), ends.clone(), rootfs.clone(), *place);
        let host = tasks.host.clone();
        let fork = move || {
            let code = artifact.as_ref().map(Artifact::file);
            let made = Spawn { plan: &plan, rootfs: &rootfs, cgroup: &cgroup, stdio: &ends, artifact: code, place };
            spawn(&made, |inside| match &artifact {
                Some(artifact) => run_guest(inside, &host, artifact),
                None => pause::run(inside),
            })
        };
        Ok(tasks.spawner.spawn(fork).await?)
    }

    async fn ready(
        &self,
        child: Child,
        channel: Channel,
        report: Result<Option<Report>, ChannelError>,
    ) -> Result<(Child, Channel), Confining> {
        let plan = &self.plan;
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
    if let Some(status) = confined.wait_for_start() {
        // With its address and its files, before that is told.
        drop(guest);
        confined.end(status);
    }
    let status = guest.run(&mut |report| confined.report(&report));
    confined.end(status)
}
