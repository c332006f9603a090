//! The configuration files of a private containerd.

use super::{Logging, Version};
use crate::wait;
use anyhow::Result;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

pub(super) fn socket(dir: &Path) -> PathBuf {
    dir.join("c.sock")
}

pub(super) fn state(dir: &Path) -> PathBuf {
    dir.join("state")
}

/// Plugins that a task does not need, and that would reach outside the directory (NRI's socket, /opt, CNI) or cost time.
const DISABLED: [&str; 11] = [
    "io.containerd.grpc.v1.cri",
    "io.containerd.cri.v1.images",
    "io.containerd.cri.v1.runtime",
    "io.containerd.nri.v1.nri",
    "io.containerd.internal.v1.opt",
    "io.containerd.internal.v1.tracing",
    "io.containerd.tracing.processor.v1.otlp",
    "io.containerd.snapshotter.v1.blockfile",
    "io.containerd.snapshotter.v1.btrfs",
    "io.containerd.snapshotter.v1.devmapper",
    "io.containerd.snapshotter.v1.zfs",
];

/// Writes containerd's own configuration and the operator file of the shim.
pub(super) fn write(version: Version, logging: Logging, dir: &Path) -> Result<()> {
    let format = match version {
        Version::V1_6 | Version::V1_7 => 2,
        Version::V2_4 => 3,
    };
    let disabled: Vec<String> = DISABLED.iter().map(|id| format!("{id:?}")).collect();
    let config = format!(
        "version = {format}\nroot = {root:?}\nstate = {state:?}\ndisabled_plugins = [{disabled}]\n\
         [grpc]\naddress = {socket:?}\n[ttrpc]\naddress = {ttrpc:?}\n[debug]\nlevel = \"{level}\"\n",
        level = logging.level(),
        root = dir.join("root"),
        state = state(dir),
        disabled = disabled.join(", "),
        socket = socket(dir),
        ttrpc = dir.join("c.sock.ttrpc"),
    );
    // Otherwise 2.4 tells shims to put their sockets into the node's own directory.
    let sockets = match version {
        Version::V1_6 | Version::V1_7 => String::new(),
        Version::V2_4 => format!("[plugins.\"io.containerd.shim.v1.manager\"]\nsocket_dir = {:?}\n", dir.join("s")),
    };
    fs::write(dir.join("config.toml"), config + &sockets)?;
    // The shim's default, which a Go program exceeds where the processor is emulated.
    let compiling = wait::scaled(Duration::from_secs(120));
    let operator = format!("[cache]\ndir = {:?}\ncompile-timeout = \"{}s\"\n", dir.join("cache"), compiling.as_secs());
    fs::write(dir.join("operator.toml"), operator)?;
    Ok(())
}
