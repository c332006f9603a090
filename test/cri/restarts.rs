//! Daemons that are killed under pods: the shim of a pod, and containerd.

use crate::Cases;
use crate::lifecycle::image;
use crate::linux::busybox;
use crate::sandbox::{get, service};
use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use std::fs;
use std::path::PathBuf;
use testkit::cri::{Cri, Pod};
use testkit::{Containerd, Namespace, cases, leftovers, process, wait};

pub(crate) const CASES: Cases = cases![
    crate::restarts::a_pod_whose_shim_was_killed_is_told_and_removed,
    crate::restarts::pods_outlive_a_killed_containerd,
];

/// What pods have on the node.
#[derive(Debug, Default)]
pub(crate) struct Traces {
    /// Pids with the times of their start.
    processes: Vec<(i32, u64)>,
    /// Network namespaces, bundles, sockets of shims.
    paths: Vec<PathBuf>,
}

impl Traces {
    /// Notes what a running pod has.
    pub(crate) fn follow(&mut self, node: &Namespace, pod: &Pod<'_>) -> Result<()> {
        let status = pod.inspect()?;
        let sandbox = i32::try_from(status["info"]["pid"].as_i64().context("the pid of its sandbox")?)?;
        self.follow_processes(&[sandbox, process::parent(sandbox)?])?;
        let namespaces = status["info"]["runtimeSpec"]["linux"]["namespaces"].as_array().context("its namespaces")?;
        let network = namespaces.iter().find(|one| one["type"] == "network").and_then(|one| one["path"].as_str());
        let network = PathBuf::from(network.context("its network namespace")?);
        let bundle = node.containerd().bundle("k8s.io", &pod.id);
        let address = fs::read_to_string(bundle.join("address"))?;
        let socket = PathBuf::from(address.trim().trim_start_matches("unix://"));
        for path in [network, bundle, socket] {
            ensure!(path.exists(), "{} is not there", path.display());
            self.paths.push(path);
        }
        Ok(())
    }

    fn follow_processes(&mut self, pids: &[i32]) -> Result<()> {
        for &pid in pids {
            self.processes.push((pid, process::born(pid)?));
        }
        Ok(())
    }

    /// Nor may there be a cgroup of the test's pods, or a mount of theirs.
    pub(crate) fn until_gone(&self, node: &Namespace) -> Result<()> {
        let left = || -> Vec<String> {
            let mounts = leftovers::mounts_below(node.containerd().dir());
            let processes =
                self.processes.iter().filter(|(pid, born)| process::born(*pid).is_ok_and(|now| now == *born));
            let processes = processes.map(|(pid, _)| format!("process {pid}: {}", process::command_line(*pid)));
            let groups = leftovers::cgroups(&[node.name().to_owned()]);
            let paths = self.paths.iter().filter(|path| path.exists() || mounts.contains(path)).chain(&groups);
            processes.chain(paths.map(|path| path.display().to_string())).collect()
        };
        let gone = wait::until("nothing of the pods is there", || Ok(left().is_empty().then_some(())));
        gone.with_context(|| left().join("\n"))
    }
}

fn state(pod: &Pod<'_>) -> Result<Value> {
    Ok(pod.inspect()?["status"]["state"].clone())
}

fn a_pod_whose_shim_was_killed_is_told_and_removed(node: &Namespace) -> Result<()> {
    let (web, spin, linux) = (service(node)?, image(node, "p1_spin.wat")?, busybox(node)?);
    let cri = Cri::new(node, &[&web, &spin, &linux])?;
    let pod = cri.pod(|_| ())?;
    let volume = node.directory("v")?;
    let mounted = |config: &mut Value| {
        config["mounts"] = json!([{ "container_path": "/missing/in/the/image", "host_path": volume }]);
    };
    let containers = [
        pod.run(&web, &["/app.wasm"], mounted)?,
        pod.run(&spin, &["/app.wasm"], mounted)?,
        pod.run(&linux, &["/bin/sleep", "1000"], mounted)?,
    ];
    wait::until("the service answers", || Ok(get(&pod, "/").ok()))?;
    let mut traces = Traces::default();
    traces.follow(node, &pod)?;
    let shim = process::parent(pod.pid()?)?;
    for container in &containers {
        traces.follow_processes(&[container.pid()?])?;
    }
    kill(Pid::from_raw(shim), Signal::SIGKILL)?;
    for container in &containers {
        let status = container.ended()?;
        ensure!(status["exitCode"] != json!(0), "{status}");
    }
    wait::until("the sandbox is told to be gone", || Ok((state(&pod)? == "SANDBOX_NOTREADY").then_some(())))?;
    // The kubelet makes another pod in its place.
    let next = cri.pod(|_| ())?;
    next.run(&web, &["/app.wasm"], |_| ())?;
    wait::until("the next one answers", || Ok(get(&next, "/").ok()))?;
    next.remove()?;
    pod.remove()?;
    traces.until_gone(node)
}

fn pods_outlive_a_killed_containerd(node: &Namespace) -> Result<()> {
    let (web, spin) = (service(node)?, image(node, "p1_spin.wat")?);
    // Its own containerd: the others' would be gone meanwhile.
    let containerd = Containerd::start_for_pods(node.containerd().version(), node.containerd().shim())?;
    let inner = containerd.namespace(&format!("{}-inner", node.name()));
    {
        let cri = Cri::new(&inner, &[&web, &spin])?;
        let (pod, ended, lost) = (cri.pod(|_| ())?, cri.pod(|_| ())?, cri.pod(|_| ())?);
        let container = pod.run(&web, &["/app.wasm"], |_| ())?;
        let ending = pod.run(&spin, &["/app.wasm"], |_| ())?;
        let orphaned = lost.run(&spin, &["/app.wasm"], |_| ())?;
        wait::until("the service answers", || Ok(get(&pod, "/").ok()))?;
        let (pid, sandbox, ip) = (container.pid()?, pod.pid()?, pod.ip()?);
        // One container, one sandbox and one shim end while nobody looks, and one writes.
        let (spinning, other, shim) = (ending.pid()?, ended.pid()?, process::parent(lost.pid()?)?);
        containerd.restart(Signal::SIGKILL, || {
            for (pid, signal) in [(spinning, Signal::SIGTERM), (other, Signal::SIGKILL), (shim, Signal::SIGKILL)] {
                kill(Pid::from_raw(pid), signal)?;
            }
            Ok(())
        })?;
        wait::until("CRI answers", || Ok((cri.crictl(&["version"])?.code == 0).then_some(())))?;
        ensure!((container.pid()?, pod.pid()?, pod.ip()?) == (pid, sandbox, ip), "the same processes");
        ensure!(state(&pod)? == "SANDBOX_READY", "{}", state(&pod)?);
        ensure!(ending.ended()?["exitCode"] == json!(143), "the end that nobody saw is told");
        for pod in [&ended, &lost] {
            wait::until("the sandbox is told to be gone", || Ok((state(pod)? == "SANDBOX_NOTREADY").then_some(())))?;
        }
        let status = orphaned.ended()?;
        ensure!(status["exitCode"] != json!(0), "{status}");
        let said = get(&pod, "/stdout")?;
        ensure!(said == "said\n", "{said:?}");
        wait::until("the log goes on", || Ok(container.log().contains("stdout F said on stdout").then_some(())))?;
        for pod in [pod, ended, lost] {
            pod.remove()?;
        }
        let left = leftovers::cgroups(&[inner.name().to_owned()]);
        ensure!(left.is_empty(), "{left:?}");
    }
    containerd.stop()
}
