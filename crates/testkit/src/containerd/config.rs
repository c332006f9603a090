//! The configuration files of a private containerd.

use super::{Form, Logging, Service, Version, pods};
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

/// Where clients put the fifos of containers.
pub(super) fn fifos(dir: &Path) -> PathBuf {
    state(dir).join("fifo")
}

/// What may be laid over the node's `/etc`.
pub(super) fn etc(dir: &Path) -> PathBuf {
    dir.join("etc")
}

/// The plugins of pods, which a task does not need.
const OF_PODS: [&str; 3] = ["io.containerd.grpc.v1.cri", "io.containerd.cri.v1.images", "io.containerd.cri.v1.runtime"];
/// Plugins that nothing here needs, and that would reach outside the directory (NRI's socket, /opt) or cost time.
const DISABLED: [&str; 8] = [
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
pub(super) fn write(version: Version, logging: Logging, service: Service<'_>, dir: &Path) -> Result<()> {
    let format = match version.form() {
        Form::One => 2,
        Form::Two => 3,
    };
    let of_pods: &[&str] = if let Service::Pods { .. } = service { &[] } else { &OF_PODS };
    let disabled: Vec<String> = of_pods.iter().chain(&DISABLED).map(|id| format!("{id:?}")).collect();
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
    // Otherwise these tell shims to put their sockets into the node's own directory.
    let sockets = match version {
        Version::V1_6 | Version::V1_7 | Version::V2_1 => String::new(),
        Version::V2_3 | Version::V2_4 => {
            format!("[plugins.\"io.containerd.shim.v1.manager\"]\nsocket_dir = {:?}\n", dir.join("s"))
        }
    };
    let pods = match service {
        Service::Tasks => String::new(),
        Service::Pods { shim, operator_file, pull, others, runcs } => {
            let form = version.form();
            pods::config(form, shim, operator_file, pull, dir)?
                + &pods::handlers(form, others)
                + &pods::handlers_by_runc(form, shim, runcs, dir)
        }
    };
    fs::write(dir.join("config.toml"), config + &sockets + &pods)?;
    // The shim's default, which a Go program exceeds where the processor is emulated.
    let compiling = wait::scaled(Duration::from_secs(120));
    let operator = format!("[cache]\ndir = {:?}\ncompile-timeout = \"{}s\"\n", dir.join("cache"), compiling.as_secs());
    let default = etc(dir).join("containerd-shim-wasm");
    fs::create_dir_all(&default)?;
    fs::write(default.join("config.toml"), &operator)?;
    fs::write(dir.join("operator.toml"), operator)?;
    Ok(())
}
