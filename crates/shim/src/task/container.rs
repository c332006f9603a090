//! What a container owns, from the moment something is owned until all is gone again.

use super::hooks;
use super::output::RunningLogger;
use crate::spawner::Spawner;
use plan::RunPlan;
use sandbox::cgroup::{Cgroup, CgroupError};
use sandbox::rootfs::{self, RootfsError};
use sandbox::stdio::Kept;
use sandbox::{Child, Orders, Record, RecordError};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// What a container owns on the node.
#[derive(Debug, Default)]
pub(crate) struct Owned {
    pub(crate) bundle: PathBuf,
    pub(crate) rootfs: PathBuf,
    pub(crate) cgroup: Option<Arc<Cgroup>>,
    pub(crate) record: Option<Record>,
    /// Whether the root filesystem was given back.
    pub(crate) unmounted: AtomicBool,
}

/// A container with its process.
#[derive(Debug)]
pub(crate) struct Container {
    owned: Owned,
    plan: Arc<RunPlan>,
    logger: Option<RunningLogger>,
    child: Arc<Child>,
    orders: Option<Orders>,
    kept: Kept,
}

/// Why something of a container stayed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReleaseError {
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    #[error(transparent)]
    Rootfs(#[from] RootfsError),
    #[error(transparent)]
    Record(#[from] RecordError),
}

impl Owned {
    /// Gives everything back. What is gone already is no error, so a failed release can be tried again.
    pub(crate) async fn release(&self, id: &str, spawner: &Spawner) -> Result<(), ReleaseError> {
        if let Some(cgroup) = &self.cgroup {
            cgroup.remove().await?;
        }
        self.release_rootfs()?;
        if let Some(record) = &self.record {
            // Before the record goes: the delete action runs them if this shim cannot.
            hooks::after_stop(spawner, id, &record.poststop, &record.told).await;
        }
        Ok(Record::remove(&self.bundle)?)
    }

    fn release_rootfs(&self) -> Result<(), RootfsError> {
        if self.unmounted.load(Ordering::Relaxed) {
            return Ok(());
        }
        if let Some(record) = &self.record {
            rootfs::remove_mount_points(&self.rootfs, &record.mount_points);
        }
        rootfs::unmount(&self.rootfs)?;
        self.unmounted.store(true, Ordering::Relaxed);
        Ok(())
    }
}

impl Container {
    pub(crate) fn new(
        owned: Owned,
        plan: Arc<RunPlan>,
        logger: Option<RunningLogger>,
        child: Arc<Child>,
        orders: Orders,
        kept: Kept,
    ) -> Container {
        Container { owned, plan, logger, child, orders: Some(orders), kept }
    }

    pub(crate) fn child(&self) -> Arc<Child> {
        self.child.clone()
    }

    pub(crate) fn cgroup(&self) -> Option<Arc<Cgroup>> {
        self.owned.cgroup.clone()
    }

    /// The right to let the guest run, once.
    pub(crate) fn take_orders(&mut self) -> Option<Orders> {
        self.orders.take()
    }

    /// The shim's ends of stdio; they end with it.
    pub(crate) fn take_stdio(&mut self) -> Kept {
        std::mem::take(&mut self.kept)
    }

    pub(crate) fn close_stdin(&mut self) {
        self.kept.close_stdin();
    }

    pub(crate) fn plan(&self) -> Arc<RunPlan> {
        self.plan.clone()
    }

    /// Gives back what only the process needed: the root filesystem takes a millisecond, which no delete then waits for.
    pub(crate) fn release_early(&self) {
        // What fails is tried again, and told, when everything is given back.
        let _ = self.owned.release_rootfs();
    }

    /// Gives everything back; see [`Owned::release`].
    pub(crate) async fn release(&self, id: &str, spawner: &Spawner) -> Result<(), ReleaseError> {
        if let Some(logger) = &self.logger {
            logger.finish(id).await;
        }
        self.owned.release(id, spawner).await
    }
}
