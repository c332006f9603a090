//! The part of containerd's configuration that is about pods: runtimes by handler, the network, the pause image.

use super::{OperatorFile, Version};
use anyhow::Result;
use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicU8, Ordering};

/// The image that containerd unpacks for a sandbox. Nothing of it runs.
pub(crate) const PAUSE: &str = "test.local/pause:1";
/// Where Debian's package has the plugins of the network.
const PLUGINS: &str = "/usr/lib/cni";

/// The runtime `wasm` is the binary `shim`; the network is one of the node, with addresses of `dir`'s own.
pub(super) fn config(version: Version, shim: &Path, dir: &Path, operator_file: OperatorFile) -> Result<String> {
    let net = dir.join("net.d");
    fs::create_dir(&net)?;
    fs::write(net.join("10-pods.conflist"), network(version, dir))?;
    let plugin = match version {
        Version::V1_6 | Version::V1_7 => "io.containerd.grpc.v1.cri",
        Version::V2_4 => "io.containerd.cri.v1.runtime",
    };
    let (shim, options) = (shim.display(), dir.join("operator.toml"));
    let options = match operator_file {
        OperatorFile::ByOption => {
            format!("[plugins.{plugin:?}.containerd.runtimes.wasm.options]\nConfigFile = {options:?}\n")
        }
        OperatorFile::InItsPlace => String::new(),
    };
    // Score adjustments below containerd's own need a capability that a node in a container lacks. Network namespaces are
    // kept below the state directory.
    let common = format!(
        "restrict_oom_score_adj = true\nnetns_mounts_under_state_dir = true\n{}",
        match version {
            Version::V1_6 | Version::V1_7 => format!("sandbox_image = {PAUSE:?}\n"),
            Version::V2_4 => String::new(),
        }
    );
    let cni = match version {
        Version::V1_6 | Version::V1_7 => format!("bin_dir = {PLUGINS:?}\n"),
        Version::V2_4 => format!("bin_dirs = [{PLUGINS:?}]\n"),
    };
    let pinned = match version {
        Version::V1_6 | Version::V1_7 => String::new(),
        Version::V2_4 => format!("[plugins.\"io.containerd.cri.v1.images\".pinned_images]\nsandbox = {PAUSE:?}\n"),
    };
    Ok(format!(
        "{pinned}[plugins.{plugin:?}]\n{common}\
         [plugins.{plugin:?}.cni]\n{cni}conf_dir = {net:?}\n\
         [plugins.{plugin:?}.containerd.runtimes.wasm]\nruntime_type = \"{shim}\"\n\
         pod_annotations = [\"io.containerd.wasm.v1/*\"]\n\
         container_annotations = [\"io.kubernetes.container.terminationMessage*\"]\n\
         {options}\
         [plugins.{plugin:?}.containerd.runtimes.runc]\nruntime_type = \"io.containerd.runc.v2\"\n"
    ))
}

/// A pair of devices for each pod, in a range for each version, whose tests may run side by side, and for each containerd
/// of the version.
fn network(version: Version, dir: &Path) -> String {
    static STARTED: AtomicU8 = AtomicU8::new(0);
    let started = STARTED.fetch_add(1, Ordering::Relaxed);
    let version = match version {
        Version::V1_6 => 16,
        Version::V1_7 => 17,
        Version::V2_4 => 24,
    };
    let subnet = format!("10.{}.{version}.0/24", 99 + started);
    format!(
        r#"{{"cniVersion": "0.4.0", "name": "pods", "plugins": [{{"type": "ptp", "ipam": {{"type": "host-local",
        "dataDir": {:?}, "ranges": [[{{"subnet": {subnet:?}}}]], "routes": [{{"dst": "0.0.0.0/0"}}]}}}}]}}"#,
        dir.join("ipam")
    )
}
