//! A Linux container of a pod, made by the node's runc from the same bundle.

use super::container::{Kind, Owned};
use super::create::{CreateError, Made};
use super::exec::Entered;
use super::process::{self, Live};
use super::{Task, Tasks};
use crate::runc::{Runc, RuncError, Started, Streams};
use crate::spawner::Spawner;
use plan::{CgroupPath, LinuxPlan};
use sandbox::cgroup::{Cgroup, Parents};
use sandbox::children::{become_subreaper, bury};
use sandbox::console::Console;
use sandbox::rootfs;
use sandbox::stdio::Stdio;
use sandbox::{Child, Record};
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

/// Has runc make the container of a request, up to the point where it waits for start.
pub(super) async fn make(
    tasks: &Tasks,
    task: &Task,
    plan: &LinuxPlan,
    ends: [OwnedFd; 3],
    owned: &mut Owned,
) -> Result<Made, CreateError> {
    let request = &task.request;
    let runc = Arc::new(Runc::find(plan, &request.bundle, tasks.node.clone())?);
    tasks.take_orphans().map_err(CreateError::Orphans)?;
    let cgroup = Arc::new(Cgroup::of(&plan.cgroup).map_err(CreateError::Hierarchy)?);
    cgroup.ensure_free()?;
    let path = plan.cgroup.path();
    let (parents, missing) = match plan.cgroup {
        // systemd sees to its slices.
        CgroupPath::Systemd { .. } => (None, Vec::new()),
        CgroupPath::Cgroupfs(_) => {
            let parents = Parents::of(&path).map_err(CreateError::Hierarchy)?;
            let missing = parents.missing();
            (Some(parents), missing)
        }
    };
    let record = Record::of_linux(path, missing.clone(), request.layers.clone(), runc.how());
    owned.note(record)?;
    if let Some(parents) = parents {
        // Those that were made go, also if one could not be.
        owned.parents.insert(parents).create(&missing)?;
    }
    owned.cgroup = Some(cgroup);
    owned.runc = Some(runc.clone());
    // Where the shim looked at it nobody else would see it.
    rootfs::unmount(&owned.rootfs)?;
    runc.mount(&tasks.spawner, &owned.rootfs, &request.layers).await?;
    let (child, console) = run(ends, &task.main.streams, |streams| runc.create(&tasks.spawner, streams)).await?;
    if let Err(error) = owned.name_process(child.pid()) {
        child.end().await;
        return Err(error.into());
    }
    let kind = Kind::Linux { runc, numbering: plan.numbering };
    let memory_limit_bytes = plan.memory_limit_bytes;
    Ok(Made { child, console, kind, reports: None, memory_limit_bytes })
}

/// Has runc run one more process of a container.
pub(super) async fn exec(
    spawner: &Spawner,
    runc: &Runc,
    exec: &str,
    process: &oci::Process,
    stdio: Stdio,
    wanted: &process::Streams,
) -> Result<Entered, RuncError> {
    let Stdio { kept, child: ends } = stdio;
    let (child, console) = run(ends, wanted, |streams| runc.exec(spawner, exec, process, streams)).await?;
    Ok(Entered { live: Live { child: Arc::new(child), kept, console, logger: None }, own: None })
}

/// Runs what `make` makes with these ends of its streams, or with a terminal between it and them.
async fn run<F: Future<Output = Result<Started, RuncError>>>(
    ends: [OwnedFd; 3],
    wanted: &process::Streams,
    make: impl FnOnce(Streams) -> F,
) -> Result<(Child, Option<Console>), RuncError> {
    if !wanted.terminal {
        return Ok((make(Streams::Given(ends)).await?.child, None));
    }
    let [stdin, stdout, _] = ends;
    let Started { child, terminal } = make(Streams::Terminal).await?;
    let Some(master) = terminal else { return Ok((child, None)) };
    match Console::serve(master, wanted.typed(stdin), stdout) {
        Ok(console) => Ok((child, Some(console))),
        Err(source) => {
            child.end().await;
            Err(RuncError::Step { action: "serve the terminal".to_owned(), source })
        }
    }
}

impl Tasks {
    /// From the first Linux container on: what runc leaves behind becomes this process's, and is buried when it ends.
    fn take_orphans(&self) -> io::Result<()> {
        if self.takes_orphans.get().is_some() {
            return Ok(());
        }
        become_subreaper()?;
        tokio::spawn(bury()?);
        let _ = self.takes_orphans.set(());
        Ok(())
    }
}
