//! The sandbox of a pod: a process of the shim's own, which holds what the containers share.

use crate::Cases;
use crate::linux::busybox;
use anyhow::{Context, Result, ensure};
use serde_json::json;
use std::fs;
use std::process::Command;
use testkit::cri::{Cri, Pod};
use testkit::node::cgroup_of;
use testkit::{Image, Namespace, cases, guests, process, wait};

pub(crate) const CASES: Cases = cases![
    crate::sandbox::containers_share_the_pod_s_network_and_shim,
    crate::sandbox::the_pause_container_is_the_shim_s_own,
    crate::sandbox::the_pause_container_ends_last,
    crate::sandbox::a_shared_process_namespace_is_the_sandbox_s,
    crate::sandbox::a_pod_on_the_node_s_network,
];

/// A name for an image of this test alone: all pods of a containerd are in one namespace.
pub(crate) fn reference(node: &Namespace) -> String {
    format!("test.local/{}-{}:1", node.name(), node.fresh("image"))
}

/// The Rust guest that serves.
pub(crate) fn service(node: &Namespace) -> Result<Image> {
    Ok(Image::with_file(&reference(node), &guests::rust("http_service")?))
}

/// What the pod's service answers.
pub(crate) fn get(pod: &Pod<'_>, path: &str) -> Result<String> {
    get_at(pod, "8080", path)
}

/// As [`get`], of the service at another port.
pub(crate) fn get_at(pod: &Pod<'_>, port: &str, path: &str) -> Result<String> {
    fetch(&format!("http://{}:{port}{path}", pod.ip()?))
}

fn fetch(url: &str) -> Result<String> {
    let output = Command::new("curl").args(["--silent", "--show-error", "--max-time", "10", url]).output()?;
    ensure!(output.status.success(), "curl {url}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8(output.stdout)?)
}

fn containers_share_the_pod_s_network_and_shim(node: &Namespace) -> Result<()> {
    let image = service(node)?;
    let cri = Cri::new(node, &[&image])?;
    let pod = cri.pod(|_| ())?;
    let first = pod.run(&image, &["/app.wasm"], |_| ())?;
    let second = pod.run(&image, &["/app.wasm"], |config| {
        config["envs"] = json!([{ "key": "PORT", "value": "8081" }]);
    })?;
    wait::until("the service answers", || Ok(get(&pod, "/").ok()))?;
    let other = get(&pod, "/fetch?url=http://127.0.0.1:8081/env?name=PORT")?;
    ensure!(other == "8081\n", "the other container of the pod answers on loopback: {other:?}");
    let shims = [pod.pid()?, first.pid()?, second.pid()?].map(process::parent);
    let [sandbox, first, second] = shims;
    let (sandbox, first, second) = (sandbox?, first?, second?);
    ensure!(sandbox == first && sandbox == second, "one shim: {sandbox} {first} {second}");
    pod.remove()
}

fn the_pause_container_is_the_shim_s_own(node: &Namespace) -> Result<()> {
    let image = service(node)?;
    let cri = Cri::new(node, &[&image])?;
    let pod = cri.pod(|config| {
        config["hostname"] = json!("of-the-pod");
        // For the containers, which may need a capability for it.
        config["annotations"] = json!({ "io.containerd.wasm.v1/http.listen": "[::]:80" });
    })?;
    let pid = pod.pid()?;
    let program = fs::read_link(format!("/proc/{pid}/exe"))?;
    ensure!(program == node.containerd().shim(), "{}", program.display());
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    for line in ["CapEff:\t0000000000000000", "NoNewPrivs:\t1", "Seccomp:\t2", "Threads:\t1"] {
        ensure!(status.lines().any(|has| has == line), "{line} is not in {status}");
    }
    // The pod pays for its sandbox, the node for the shim.
    let (own, of_shim) = (cgroup_of(pid, "pids")?, cgroup_of(process::parent(pid)?, "pids")?);
    ensure!(own.to_string_lossy().contains(node.name()), "{}", own.display());
    ensure!(!of_shim.to_string_lossy().contains(node.name()), "{}", of_shim.display());
    let container = pod.run(&image, &["/app.wasm"], |_| ())?;
    pod.stop()?;
    ensure!(!fs::exists(format!("/proc/{pid}"))?, "the sandbox's process is there");
    let status = container.ended()?;
    ensure!(status["state"] == "CONTAINER_EXITED", "{status}");
    pod.remove()
}

fn the_pause_container_ends_last(node: &Namespace) -> Result<()> {
    const ENDED: &str = "the container ended";
    let (web, linux) = (service(node)?, busybox(node)?);
    let cri = Cri::new(node, &[&web, &linux])?;
    let pod = cri.pod(|_| ())?;
    let wasm = pod.run(&web, &["/app.wasm"], |_| ())?;
    let sidecar = pod.run(&linux, &["/bin/sleep", "1000"], |_| ())?;
    pod.stop()?;
    // The shim of all of them tells each end when it sees it.
    let last = node.until_logged(&[ENDED, &pod.id])?;
    let log = node.log();
    let (before, _) = log.split_once(&last).context("a line of the log")?;
    for id in [&wasm.id, &sidecar.id] {
        let has_ended = before.lines().any(|line| line.contains(ENDED) && line.contains(id));
        ensure!(has_ended, "{id} outlived the sandbox: {last}\n{}", node.log_tail());
    }
    pod.remove()
}

fn a_shared_process_namespace_is_the_sandbox_s(node: &Namespace) -> Result<()> {
    let image = service(node)?;
    let cri = Cri::new(node, &[&image])?;
    // POD of NamespaceMode, for processes.
    let shared = json!({ "namespace_options": { "pid": 0 } });
    let pod = cri.pod(|config| config["linux"]["security_context"] = shared.clone())?;
    let container = pod.run(&image, &["/app.wasm"], |config| config["linux"]["security_context"] = shared)?;
    let namespace = |pid: i32| fs::read_link(format!("/proc/{pid}/ns/pid"));
    ensure!(namespace(container.pid()?)? == namespace(pod.pid()?)?, "they share it");
    // An orphan of the namespace is buried when it ends.
    let (pid, wait) = (pod.pid()?.to_string(), "(sleep 0.2 &) ; exit 0");
    let entered = Command::new("nsenter").args(["--target", &pid, "--pid", "sh", "-c", wait]).status()?;
    ensure!(entered.success(), "enter the pod's process namespace");
    wait::until("no process of the namespace is a zombie", || Ok(zombies(pod.pid()?)?.is_empty().then_some(())))?;
    pod.remove()
}

/// Children of the process that have ended.
fn zombies(pid: i32) -> Result<Vec<String>> {
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"))?;
    Ok(children.split_whitespace().map(str::to_owned).collect())
}

fn a_pod_on_the_node_s_network(node: &Namespace) -> Result<()> {
    let image = service(node)?;
    let cri = Cri::new(node, &[&image])?;
    // NODE of NamespaceMode.
    let host = json!({ "namespace_options": { "network": 2 } });
    let pod = cri.pod(|config| config["linux"]["security_context"] = host.clone())?;
    let port = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    let container = pod.run(&image, &["/app.wasm"], |config| {
        config["linux"]["security_context"] = host;
        config["envs"] = json!([{ "key": "PORT", "value": port.to_string() }]);
    })?;
    let own = fs::read_link("/proc/self/ns/net")?;
    ensure!(fs::read_link(format!("/proc/{}/ns/net", container.pid()?))? == own, "the node's network");
    let answer = wait::until("the service answers", || Ok(fetch(&format!("http://127.0.0.1:{port}/")).ok()))?;
    ensure!(answer == "hello from wasm\n", "{answer:?}");
    pod.remove()
}
