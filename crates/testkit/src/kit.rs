//! The kit on the cluster: its images, the chart's release, and how each node stands.

use crate::cluster::{APPS, Cluster, KIT, until};
use crate::image::Rootfs;
use crate::{Image, checkout, guests};
use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use std::fs;

/// The release.
pub const RELEASE: &str = "wasm";
/// The DaemonSet.
pub const INSTALLER: &str = "containerd-shim-wasm";
/// Where the images would be pulled from; they are loaded.
pub const REGISTRY: &str = "e2e.test/wasm";
/// The image of all guests.
pub const GUESTS: &str = "e2e.test/guests:1";
/// The image of Linux programs.
pub const BUSYBOX: &str = "e2e.test/busybox:1";
/// The node's label.
pub const LABEL: &str = "io.containerd.wasm.v1/node";
/// The node's annotation, there while it is verified.
pub const VERSION: &str = "io.containerd.wasm.v1/version";
const CONFIG: &str = "/etc/containerd/config.toml";

/// Puts the images on the nodes, and makes the namespaces.
pub fn prepare(cluster: &Cluster) -> Result<()> {
    cluster.load(&installer(cluster, env!("CARGO_PKG_VERSION"), "")?)?;
    let mut rootfs = Rootfs::new().file("http.wasm", &guests::rust("http_service")?);
    for guest in
        ["p1_hello.wat", "p1_exit.c", "p1_file.c", "p1_grow.c", "p1_show.c", "p1_sleep.wat", "p1_spin.wat", "p1_tick.c"]
    {
        let stem = guest.trim_start_matches("p1_").split('.').next().unwrap_or(guest);
        rootfs = rootfs.file(&format!("{stem}.wasm"), &guests::module(guest)?);
    }
    cluster.load(&Image::new(GUESTS).rootfs(rootfs).entrypoint(["/http.wasm"]))?;
    cluster.load(&busybox(BUSYBOX)?)?;
    cluster.apply(&[namespace(KIT, "privileged"), namespace(APPS, "restricted")])?;
    // A cluster that was kept has another build's, under the same name.
    cluster.kubectl(&["delete", "pods", "-n", KIT, "-l", "app.kubernetes.io/component=installer"]).map(drop)
}

/// The image of Linux programs under this reference.
pub fn busybox(reference: &str) -> Result<Image> {
    let busybox = fs::read("/bin/busybox").context("read busybox-static")?;
    let mut rootfs = Rootfs::new().directory("bin").file("bin/busybox", &busybox).directory("tmp").mode(0o1777);
    for applet in ["cat", "echo", "ls", "nc", "sh", "sleep", "true", "wget"] {
        rootfs = rootfs.symlink(&format!("bin/{applet}"), "busybox");
    }
    Ok(Image::new(reference).rootfs(rootfs).entrypoint(["/bin/sh"]))
}

/// A namespace of this level of Pod Security.
pub fn namespace(name: &str, level: &str) -> Value {
    json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": {
        "name": name, "labels": { "pod-security.kubernetes.io/enforce": level },
    }})
}

/// Takes away what a row that failed has left: its workloads, and an uninstall that was refused.
pub fn tidy(cluster: &Cluster) -> Result<()> {
    let pods = cluster.get(&["pods", "-n", APPS])?;
    let held = pods["items"].as_array().into_iter().flatten().filter(|pod| !pod["metadata"]["finalizers"].is_null());
    for pod in held {
        cluster.let_go(pod["metadata"]["name"].as_str().unwrap_or_default())?;
    }
    cluster.kubectl(&["delete", "deployments,jobs,pods,services", "-n", APPS, "--all"])?;
    // What is waited for is said by this row.
    cluster.kubectl(&["delete", "events", "-n", "default", "--all"])?;
    let releases = cluster.helm(&["list", "-n", KIT, "--uninstalling", "-q"])?;
    if releases.lines().any(|release| release == RELEASE) {
        cluster.helm(&["uninstall", RELEASE, "-n", KIT, "--timeout", "300s"])?;
    }
    Ok(())
}

/// The installer of a version; `more` is added to the shim, which does not look at its end.
pub fn installer(cluster: &Cluster, version: &str, more: &str) -> Result<Image> {
    installer_of(cluster, version, [cluster.program("containerd-shim-wasm-v1")?, more.as_bytes().to_vec()].concat())
}

/// The installer of a version that brings this shim.
pub fn installer_of(cluster: &Cluster, version: &str, shim: Vec<u8>) -> Result<Image> {
    let verify = wat::parse_file(checkout::of_crate("testkit").join("../../images/node/verify.wat"))?;
    let rootfs = Rootfs::new()
        .file("wasm-node", &cluster.program("wasm-node")?)
        .file("containerd-shim-wasm-v1", &shim)
        .file("verify.wasm", &verify);
    Ok(Image::new(&format!("{REGISTRY}/containerd-shim-wasm-node:{version}")).rootfs(rootfs).entrypoint(["/wasm-node"]))
}

/// Installs or upgrades the release with these values.
pub fn install(cluster: &Cluster, values: &[&str]) -> Result<()> {
    let chart = checkout::of_crate("testkit").join("../../charts/containerd-shim-wasm").display().to_string();
    let registry = format!("image.registry={REGISTRY}");
    let mut args = vec!["upgrade", "--install", RELEASE, &chart, "-n", KIT, "--set", &registry];
    values.iter().for_each(|value| args.extend(["--set", value]));
    cluster.helm(&args).map(drop)
}

/// Takes an uninstall back that did not go through.
pub fn kept_after_all(cluster: &Cluster) -> Result<()> {
    let history = serde_json::from_str(&cluster.helm(&["history", RELEASE, "-n", KIT, "-o", "json"])?)?;
    let revision = |history: &Value| history.as_array()?.last()?["revision"].as_u64();
    let revision = revision(&history).with_context(|| format!("no revision: {history}"))?.to_string();
    cluster.helm(&["rollback", RELEASE, &revision, "-n", KIT]).map(drop)
}

/// The release as a user has it, on both workers, verified.
pub fn installed(cluster: &Cluster) -> Result<()> {
    install(cluster, &[])?;
    cluster.workers().iter().try_for_each(|node| stands(cluster, node, Some("verified")))?;
    until("the installers are ready", || {
        let daemons = cluster.get(&["daemonset", INSTALLER, "-n", KIT])?;
        let status = &daemons["status"];
        let is_ready = status["numberReady"] == 2 && status["updatedNumberScheduled"] == 2;
        Ok(is_ready.then_some(()))
    })
}

/// Waits until the node's label says so; the version is there with the last one only.
pub fn stands(cluster: &Cluster, node: &str, standing: Option<&str>) -> Result<()> {
    until(&format!("node {node} is {standing:?}"), || {
        let metadata = cluster.get(&["node", node])?["metadata"].clone();
        let has_version = !metadata["annotations"][VERSION].is_null();
        let is_so = metadata["labels"][LABEL].as_str() == standing && has_version == (standing == Some("verified"));
        Ok(is_so.then_some(()))
    })
}

/// What the node's label says.
pub fn standing_of(cluster: &Cluster, node: &str) -> Result<Option<String>> {
    Ok(cluster.get(&["node", node])?["metadata"]["labels"][LABEL].as_str().map(str::to_owned))
}

/// The DaemonSet, and which its pods are: to be compared.
pub fn installers(cluster: &Cluster) -> Result<Value> {
    let daemons = cluster.get(&["daemonset", INSTALLER, "-n", KIT])?;
    let uid =
        |node: &str| Ok::<_, anyhow::Error>(pod_on(cluster, node)?.context("no installer")?["metadata"]["uid"].clone());
    let [one, other] = cluster.workers();
    Ok(json!([daemons["spec"], daemons["metadata"]["annotations"], uid(&one)?, uid(&other)?]))
}

/// The installer's pod on a node.
pub fn pod_on(cluster: &Cluster, node: &str) -> Result<Option<Value>> {
    let field = format!("spec.nodeName={node}");
    let pods =
        cluster.get(&["pods", "-n", KIT, "-l", "app.kubernetes.io/component=installer", "--field-selector", &field])?;
    Ok(pods["items"].as_array().and_then(|pods| pods.first().cloned()))
}

/// What the installer on the node said, with times.
pub fn log_of(cluster: &Cluster, node: &str) -> Result<String> {
    let pod = pod_on(cluster, node)?.with_context(|| format!("no installer on {node}"))?;
    let name = pod["metadata"]["name"].as_str().unwrap_or_default();
    cluster.kubectl(&["logs", "-n", KIT, name, "--timestamps"])
}

/// Waits for a warning about the node that has this text.
pub fn warned(cluster: &Cluster, node: &str, text: &str) -> Result<()> {
    until(&format!("an event of {node} that says {text:?}"), || {
        let events = cluster.get(&["events", "-n", "default"])?;
        let said = events["items"].as_array().into_iter().flatten().any(|event| {
            event["involvedObject"]["name"] == node
                && event["type"] == "Warning"
                && event["message"].as_str().is_some_and(|message| message.contains(text))
        });
        Ok(said.then_some(()))
    })
}

/// containerd's configuration on the node, by its hash.
pub fn config_hash(cluster: &Cluster, node: &str) -> Result<String> {
    cluster.on(
        node,
        &format!("cat $(find /etc/containerd -type f | sort) | sha256sum; ls -R /etc/containerd; test -s {CONFIG}"),
    )
}

/// When containerd was started, as systemd says it; it changes with every start.
pub fn started(cluster: &Cluster, node: &str) -> Result<String> {
    cluster.on(node, "systemctl show containerd -p ExecMainStartTimestampMonotonic -p NRestarts")
}

/// How often systemd has begun to start containerd since the node is up.
pub fn starts(cluster: &Cluster, node: &str) -> Result<usize> {
    let log =
        cluster.on(node, "journalctl -u containerd -o cat --no-pager | grep -c '^Starting containerd' || true")?;
    Ok(log.trim().parse()?)
}

/// Fails if the node has anything of ours.
pub fn nothing_on(cluster: &Cluster, node: &str) -> Result<()> {
    let left = cluster.on(
        node,
        "ls -d /opt/wasm /etc/containerd-shim-wasm /var/lib/containerd-shim-wasm 2>/dev/null; \
         grep -rl containerd-shim-wasm /etc/containerd; pgrep -af '[/]containerd-shim-wasm-v1'; \
         find /sys/fs/cgroup -maxdepth 4 -name '*wasm-verify*'; ctr ns ls -q | grep wasm; true",
    )?;
    ensure!(left.trim().is_empty(), "left on {node}:\n{left}");
    Ok(())
}
