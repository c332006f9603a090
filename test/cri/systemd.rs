//! Pods in slices of systemd, as the kubelet asks for them: on nodes that have it.

use crate::Cases;
use crate::linux::busybox;
use crate::sandbox::{get, service};
use anyhow::{Result, ensure};
use serde_json::json;
use std::fs;
use std::path::Path;
use std::process::Command;
use testkit::cri::{Cri, PodContainer};
use testkit::{Namespace, cases, wait};

pub(crate) const CASES: Cases = cases![crate::systemd::containers_of_a_pod_have_scopes];

const MI: u64 = 1 << 20;

/// A guest and a Linux container.
fn containers_of_a_pod_have_scopes(node: &Namespace) -> Result<()> {
    let (web, linux) = (service(node)?, busybox(node)?);
    let cri = Cri::new(node, &[&web, &linux])?;
    // A hyphen would ask for a slice within a slice.
    let slice = format!("{}.slice", node.name().replace('-', "_"));
    let pod = cri.pod(|config| config["linux"]["cgroup_parent"] = json!(format!("/{slice}")))?;
    let limits = json!({ "memory_limit_in_bytes": 64 * MI, "cpu_period": 100_000, "cpu_quota": 50_000 });
    let guest = pod.run(&web, &["/app.wasm"], |config| config["linux"]["resources"] = limits.clone())?;
    let sidecar =
        pod.run(&linux, &["/bin/sleep", "1000000"], |config| config["linux"]["resources"] = limits.clone())?;
    wait::until("the service answers", || Ok(get(&pod, "/").ok()))?;
    let scopes = [scope(&guest, &slice)?, scope(&sidecar, &slice)?];
    for scope in &scopes {
        let has = |file: &str| Ok::<_, anyhow::Error>(fs::read_to_string(Path::new(scope).join(file))?);
        ensure!(has("memory.max")?.trim() == (64 * MI).to_string(), "{scope}: {}", has("memory.max")?);
        ensure!(has("cpu.max")?.trim() == "50000 100000", "{scope}: {}", has("cpu.max")?);
    }
    let said = get(&pod, "/grow?mib=80")?;
    ensure!(said.contains("no memory for"), "{said}");
    pod.remove()?;
    for scope in &scopes {
        ensure!(!Path::new(scope).exists(), "{scope} stays");
    }
    // The kubelet's part.
    let stopped = Command::new("systemctl").args(["stop", &slice]).status()?;
    ensure!(stopped.success(), "stop {slice}: {stopped}");
    Ok(())
}

/// The cgroup of the container's process, which must be its scope.
fn scope(container: &PodContainer<'_>, slice: &str) -> Result<String> {
    let text = fs::read_to_string(format!("/proc/{}/cgroup", container.pid()?))?;
    let path = text.trim().strip_prefix("0::").unwrap_or_default().to_owned();
    let wanted = format!("/{slice}/cri-containerd-{}.scope", container.id);
    ensure!(path == wanted, "it is in {path}, not in {wanted}");
    Ok(format!("/sys/fs/cgroup{path}"))
}
