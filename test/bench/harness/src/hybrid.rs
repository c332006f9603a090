//! A node that has both versions of cgroups, with controllers in version 2: crun refuses it. The run then takes place in
//! a mount namespace that shows version 1 alone, to all contenders alike; the node's own mounts stay as they are.

use anyhow::{Context, Result};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use std::fs;

/// Where systemd, and who follows it, mounts version 2 beside version 1.
const UNIFIED: &str = "/sys/fs/cgroup/unified";

/// Hides version 2 from this process and its children, where that is needed. To be called before there are threads.
pub(crate) fn hide() -> Result<()> {
    let controllers = fs::read_to_string(format!("{UNIFIED}/cgroup.controllers")).unwrap_or_default();
    if controllers.trim().is_empty() {
        return Ok(());
    }
    unshare(CloneFlags::CLONE_NEWNS).context("make a mount namespace: run as root")?;
    // Slave, so that what happens here stays here.
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_SLAVE, None::<&str>)?;
    umount2(UNIFIED, MntFlags::MNT_DETACH).with_context(|| format!("hide {UNIFIED}"))
}
