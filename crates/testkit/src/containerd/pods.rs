//! The part of containerd's configuration that is about pods: runtimes by handler, the network, the pause image.

use super::{Form, OperatorFile, Pull};
use anyhow::Result;
use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};

/// Containerd's namespace of pods.
pub(crate) const NAMESPACE: &str = "k8s.io";
/// The image that containerd unpacks for a sandbox. Nothing of it runs.
pub(crate) const PAUSE: &str = "test.local/pause:1";
/// The folder with what is known of registries, `HOST/hosts.toml`.
pub(crate) const REGISTRIES: &str = "registries";
/// Where Debian's package has the plugins of the network.
const PLUGINS: &str = "/usr/lib/cni";

/// The runtime `wasm` is the binary `shim`; the network is one of the node, with addresses of its own.
pub(super) fn config(form: Form, shim: &Path, operator_file: OperatorFile, pull: Pull, dir: &Path) -> Result<String> {
    let net = dir.join("net.d");
    fs::create_dir(&net)?;
    fs::write(net.join("10-pods.conflist"), network(dir))?;
    let discard = match pull {
        Pull::Usual => "",
        Pull::Discarding => "discard_unpacked_layers = true\n",
    };
    let registries = format!("config_path = {:?}\n", dir.join(REGISTRIES));
    let (plugin, images, bin) = match form {
        Form::One => {
            let pause = format!("sandbox_image = {PAUSE:?}\n");
            ("io.containerd.grpc.v1.cri", pause, format!("bin_dir = {PLUGINS:?}\n"))
        }
        Form::Two => ("io.containerd.cri.v1.runtime", String::new(), format!("bin_dirs = [{PLUGINS:?}]\n")),
    };
    let of_images = match form {
        Form::One => format!(
            "[plugins.\"io.containerd.grpc.v1.cri\".containerd]\n{discard}\
             [plugins.\"io.containerd.grpc.v1.cri\".registry]\n{registries}"
        ),
        Form::Two => format!(
            "[plugins.\"io.containerd.cri.v1.images\"]\n{discard}\
             [plugins.\"io.containerd.cri.v1.images\".pinned_images]\nsandbox = {PAUSE:?}\n\
             [plugins.\"io.containerd.cri.v1.images\".registry]\n{registries}"
        ),
    };
    let runtimes = format!("plugins.{plugin:?}.containerd.runtimes");
    let options = match operator_file {
        OperatorFile::ByOption => format!("[{runtimes}.wasm.options]\nConfigFile = {:?}\n", dir.join("operator.toml")),
        OperatorFile::InItsPlace | OperatorFile::OfTheNode => String::new(),
    };
    // Score adjustments below containerd's own need a capability that a node in a container lacks. Network namespaces are
    // kept below the state directory.
    Ok(format!(
        "{of_images}[plugins.{plugin:?}]\nrestrict_oom_score_adj = true\nnetns_mounts_under_state_dir = true\n{images}\
         [plugins.{plugin:?}.cni]\n{bin}conf_dir = {net:?}\n\
         [{runtimes}.wasm]\nruntime_type = {shim:?}\n\
         pod_annotations = [\"io.containerd.wasm.v1/*\"]\n\
         container_annotations = [\"io.kubernetes.container.terminationMessage*\"]\n\
         {options}[{runtimes}.runc]\nruntime_type = \"io.containerd.runc.v2\"\n"
    ))
}

/// Further runtimes, which have no settings.
pub(super) fn handlers(form: Form, others: &[(&str, &Path)]) -> String {
    others.iter().map(|(name, shim)| format!("[{}]\nruntime_type = {shim:?}\n", runtime(form, name))).collect()
}

/// Further handlers of `shim`, each with the runc that runs its Linux containers.
pub(super) fn handlers_by_runc(form: Form, shim: &Path, runcs: &[(&str, &Path)], dir: &Path) -> String {
    let of = |(name, runc): &(&str, &Path)| {
        let (runtime, operator_file) = (runtime(form, name), dir.join("operator.toml"));
        let options = format!("ConfigFile = {operator_file:?}\nBinaryName = {runc:?}\n");
        format!("[{runtime}]\nruntime_type = {shim:?}\n[{runtime}.options]\n{options}")
    };
    runcs.iter().map(of).collect()
}

/// The table of a runtime.
fn runtime(form: Form, name: &str) -> String {
    let plugin = match form {
        Form::One => "io.containerd.grpc.v1.cri",
        Form::Two => "io.containerd.cri.v1.runtime",
    };
    format!("plugins.{plugin:?}.containerd.runtimes.{name}")
}

/// A pair of devices for each pod, in a range for each containerd: those of tests run side by side.
fn network(dir: &Path) -> String {
    const RANGES: u32 = 16 * 256;
    static STARTED: AtomicU32 = AtomicU32::new(0);
    let range = (std::process::id() * 16 + STARTED.fetch_add(1, Ordering::Relaxed)) % RANGES;
    let subnet = format!("10.{}.{}.0/24", 80 + range / 256, range % 256);
    format!(
        r#"{{"cniVersion": "0.4.0", "name": "pods", "plugins": [{{"type": "ptp", "ipam": {{"type": "host-local",
        "dataDir": {:?}, "ranges": [[{{"subnet": {subnet:?}}}]], "routes": [{{"dst": "0.0.0.0/0"}}]}}}}]}}"#,
        dir.join("ipam")
    )
}
