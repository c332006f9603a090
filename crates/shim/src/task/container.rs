//! What a container owns, from the moment something is owned until all is gone again.

use super::{State, Task, TaskError, hooks, locked};
use crate::runc::{Runc, RuncError};
use crate::spawner::Spawner;
use plan::{Numbering, RunPlan};
use sandbox::cgroup::{Cgroup, CgroupError, Parents};
use sandbox::rootfs::{self, RootfsError};
use sandbox::{Orders, Record, RecordError};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// What a container owns on the node.
#[derive(Debug, Default)]
pub(crate) struct Owned {
    pub(crate) bundle: PathBuf,
    /// The bundle of its pod, if that is another.
    pub(crate) pod: Option<PathBuf>,
    pub(crate) rootfs: PathBuf,
    pub(crate) cgroup: Option<Arc<Cgroup>>,
    pub(crate) record: Option<Record>,
    /// Of a cgroup that another makes.
    pub(crate) parents: Option<Parents>,
    /// Who made it, if that was not the shim.
    pub(crate) runc: Option<Arc<Runc>>,
    /// Whether the root filesystem was given back.
    pub(crate) unmounted: AtomicBool,
    /// Whether it was told that runc failed, all else given back.
    pub(crate) told: AtomicBool,
}

/// A container that was made.
#[derive(Debug)]
pub(crate) struct Container {
    owned: Arc<Owned>,
    kind: Kind,
}

/// Who runs a container.
#[derive(Debug)]
pub(crate) enum Kind {
    /// A process of the shim's own, which takes orders once.
    Own { plan: Arc<RunPlan>, orders: Option<Orders> },
    /// Runc.
    Linux { runc: Arc<Runc>, numbering: Numbering },
}

/// Why something of a container stayed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReleaseError {
    #[error(transparent)]
    Runc(#[from] RuncError),
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    #[error(transparent)]
    Rootfs(#[from] RootfsError),
    #[error(transparent)]
    Record(#[from] RecordError),
}

impl Owned {
    /// Records what is about to be taken.
    pub(crate) fn note(&mut self, mut record: Record) -> Result<(), RecordError> {
        record.pod = self.pod.clone();
        record.save(&self.bundle)?;
        self.record.insert(record).list(&self.bundle)
    }

    /// Records the process that was made, too.
    pub(crate) fn name_process(&mut self, pid: u32) -> Result<(), RecordError> {
        let Some(record) = &mut self.record else { return Ok(()) };
        record.pid = Some(pid);
        record.save(&self.bundle)
    }

    /// Gives everything back. What is gone already is no error, so a failed release can be tried again. A runc
    /// that fails keeps nothing else from it, and fails one release: what it keeps itself goes with the bundle.
    pub(crate) async fn release(&self, id: &str, spawner: &Spawner) -> Result<(), ReleaseError> {
        let mut deleted = Ok(());
        if let Some(runc) = &self.runc {
            // Its processes are found by their cgroup all the same.
            deleted = runc.delete(spawner).await;
            runc.unmount(spawner, &self.rootfs).await?;
        }
        if let Some(cgroup) = &self.cgroup {
            cgroup.remove().await?;
        }
        if let Some(parents) = &self.parents {
            if deleted.is_err() {
                parents.remove_cgroup();
            }
            parents.remove();
        }
        self.release_rootfs().await?;
        if let Some(record) = &self.record {
            // Before the record goes: the delete action runs them if this shim cannot.
            hooks::after_stop(spawner, id, &record.poststop, &record.told).await;
            record.remove(&self.bundle)?;
        }
        match deleted {
            Err(error) if !self.told.swap(true, Ordering::Relaxed) => Err(error.into()),
            Err(error) => {
                tracing::warn!(id, error = plan::one_line(&error), "the container's runtime did not delete it");
                Ok(())
            }
            Ok(()) => Ok(()),
        }
    }

    /// To be called again as long as it fails. Others have their turn after each step: one may wait for the disk.
    pub(super) async fn release_rootfs(&self) -> Result<(), RootfsError> {
        if self.unmounted.load(Ordering::Relaxed) {
            return Ok(());
        }
        for point in self.record.iter().flat_map(|record| record.mount_points.iter().rev()) {
            rootfs::remove_mount_point(&self.rootfs, point);
            let_others().await;
        }
        rootfs::unmount(&self.rootfs)?;
        self.unmounted.store(true, Ordering::Relaxed);
        Ok(())
    }
}

impl Container {
    pub(crate) fn new(owned: Owned, kind: Kind) -> Container {
        Container { owned: Arc::new(owned), kind }
    }

    pub(crate) fn cgroup(&self) -> Option<Arc<Cgroup>> {
        self.owned.cgroup.clone()
    }

    /// The right to let the guest run, once.
    pub(crate) fn take_orders(&mut self) -> Option<Orders> {
        match &mut self.kind {
            Kind::Own { orders, .. } => orders.take(),
            Kind::Linux { .. } => None,
        }
    }

    /// What the shim's own process runs.
    pub(crate) fn plan(&self) -> Option<Arc<RunPlan>> {
        match &self.kind {
            Kind::Own { plan, .. } => Some(plan.clone()),
            Kind::Linux { .. } => None,
        }
    }

    pub(crate) fn runc(&self) -> Option<Arc<Runc>> {
        match &self.kind {
            Kind::Own { .. } => None,
            Kind::Linux { runc, .. } => Some(runc.clone()),
        }
    }

    /// Whether processes of it may outlive its first: where that does not end their process id namespace.
    pub(crate) fn may_leave_processes(&self) -> bool {
        match &self.kind {
            // It has none but those that exec brought in.
            Kind::Own { .. } => false,
            Kind::Linux { numbering, .. } => *numbering == Numbering::Shared,
        }
    }

    /// Whose root filesystem is given back when it has ended. What runc keeps goes with its own delete.
    fn to_release_early(&self) -> Option<Arc<Owned>> {
        match self.kind {
            Kind::Own { .. } => Some(self.owned.clone()),
            Kind::Linux { .. } => None,
        }
    }

    /// Gives everything back; see [`Owned::release`].
    pub(crate) async fn release(&self, id: &str, spawner: &Spawner) -> Result<(), ReleaseError> {
        self.owned.release(id, spawner).await
    }
}

impl Task {
    /// Has a paused container go on: what was killed dies then only.
    pub(super) fn go_on_to_die(&self) -> Result<(), TaskError> {
        let (State::Paused { .. }, Ok(cgroup)) = (self.main.state(), self.cgroup()) else { return Ok(()) };
        cgroup.thaw().map_err(|source| TaskError::Cgroup { id: self.request.id.clone(), action: "thaw", source })
    }

    /// Gives back what only its processes needed: what the shim holds of the root filesystem. The rest goes with the last of
    /// them. Done while containerd asks for the delete.
    pub(super) async fn release_early(&self) {
        let_others().await;
        let owned = locked(&self.container).as_ref().and_then(Container::to_release_early);
        if let Some(owned) = owned {
            // What fails is tried again, and told, when everything is given back.
            let _ = owned.release_rootfs().await;
        }
    }
}

/// Lets those be answered first who wait.
async fn let_others() {
    /// How many turns of the runtime an answer takes from its task to the socket; some more do not matter.
    const TURNS_OF_AN_ANSWER: usize = 8;
    for _ in 0..TURNS_OF_AN_ANSWER {
        tokio::task::yield_now().await;
    }
}
