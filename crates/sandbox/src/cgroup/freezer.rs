//! Stopping all processes of a cgroup, and letting them go on.

use super::files::{read, write};
use super::hierarchy::Hierarchy;
use super::{Cgroup, CgroupError, PAUSE};
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// How long the kernel may take to stop every process: one in an uninterruptible wait holds it up.
const STOPPING: Duration = Duration::from_secs(10);

/// Whether the processes of a cgroup run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Freeze {
    /// None of them does.
    Frozen,
    /// They do.
    Thawed,
}

impl Cgroup {
    /// Stops all processes, or lets them go on, and waits until the kernel says so. What cannot be stopped in 10 s goes
    /// on.
    pub async fn freeze(&self, wanted: Freeze) -> Result<(), CgroupError> {
        let deadline = Instant::now() + STOPPING;
        self.ask(wanted)?;
        while self.freezing()? != wanted {
            if Instant::now() > deadline {
                self.ask(Freeze::Thawed)?;
                return Err(CgroupError::Unstoppable(self.dirs().into_iter().next().unwrap_or_default()));
            }
            tokio::time::sleep(PAUSE).await;
        }
        Ok(())
    }

    /// Lets the processes go on, without waiting for it. Under version 1 a frozen process does not die of a signal.
    pub fn thaw(&self) -> Result<(), CgroupError> {
        self.ask(Freeze::Thawed)
    }

    fn ask(&self, wanted: Freeze) -> Result<(), CgroupError> {
        let (file, frozen, thawed) = match &self.hierarchy {
            Hierarchy::V1(controllers) => {
                (controllers.dir("freezer", &self.path)?.join("freezer.state"), "FROZEN", "THAWED")
            }
            Hierarchy::V2(root) => (root.join(&self.path).join("cgroup.freeze"), "1", "0"),
        };
        write(&file, if wanted == Freeze::Frozen { frozen } else { thawed })
    }

    fn freezing(&self) -> Result<Freeze, CgroupError> {
        let (file, frozen): (PathBuf, &str) = match &self.hierarchy {
            Hierarchy::V1(controllers) => (controllers.dir("freezer", &self.path)?.join("freezer.state"), "FROZEN"),
            Hierarchy::V2(root) => (root.join(&self.path).join("cgroup.events"), "frozen 1"),
        };
        let stopped = read(&file)?.lines().any(|line| line == frozen);
        Ok(if stopped { Freeze::Frozen } else { Freeze::Thawed })
    }
}
