//! Containers of pods from create to removal: logs, ends with their reasons, drains, restarts of containerd.

use crate::Cases;
use crate::sandbox::{get, reference, service};
use anyhow::{Result, ensure};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use std::fs;
use testkit::cri::Cri;
use testkit::{Image, Namespace, cases, guests, leftovers, process, wait};

pub(crate) const CASES: Cases = cases![
    crate::lifecycle::logs_have_the_form_of_cri,
    crate::lifecycle::ends_have_codes_and_reasons,
    crate::lifecycle::a_service_drains_within_its_grace,
    crate::lifecycle::failures_are_told,
    crate::lifecycle::volumes_and_settings_of_the_pod,
    crate::lifecycle::use_is_told_of_pod_and_container,
    crate::lifecycle::pods_outlive_a_killed_containerd,
    crate::lifecycle::nothing_stays_of_many_pods,
];

pub(crate) fn image(node: &Namespace, guest: &str) -> Result<Image> {
    Ok(Image::with_file(&reference(node), &guests::module(guest)?))
}

fn logs_have_the_form_of_cri(node: &Namespace) -> Result<()> {
    let hello = image(node, "p1_hello.wat")?;
    let cri = Cri::new(node, &[&hello])?;
    let pod = cri.pod(|_| ())?;
    let container = pod.run(&hello, &["/app.wasm"], |_| ())?;
    container.ended()?;
    let log = wait::until("the log is written", || Ok(Some(container.log()).filter(|log| log.ends_with('\n'))))?;
    let line = log.trim_end();
    ensure!(line.ends_with(" stdout F hello from wasm") && log.lines().count() == 1, "{log:?}");
    pod.remove()
}

fn ends_have_codes_and_reasons(node: &Namespace) -> Result<()> {
    let (exit, trap, spin) = (image(node, "p1_exit.c")?, image(node, "p1_trap.wat")?, image(node, "p1_spin.wat")?);
    let cri = Cri::new(node, &[&exit, &trap, &spin])?;
    let pod = cri.pod(|_| ())?;
    for (code, reason) in [(0, "Completed"), (7, "Error"), (255, "Error")] {
        let status = pod.run(&exit, &["/app.wasm", &code.to_string()], |_| ())?.ended()?;
        ensure!(status["exitCode"] == json!(code) && status["reason"] == json!(reason), "{status}");
    }
    let file = node.directory("t")?.join("termination-log");
    fs::write(&file, "")?;
    let trapped = pod.run(&trap, &["/app.wasm"], |config| {
        config["mounts"] = json!([{ "container_path": "/dev/termination-log", "host_path": file }]);
        config["annotations"] = json!({ "io.kubernetes.container.terminationMessagePath": "/dev/termination-log" });
    })?;
    let status = trapped.ended()?;
    ensure!(status["exitCode"] == json!(134), "{status}");
    let message = fs::read_to_string(&file)?;
    ensure!(message.contains("unreachable") && message.contains("deepest_of_all"), "{message:?}");
    let spinning = pod.run(&spin, &["/app.wasm"], |_| ())?;
    spinning.stop(5)?;
    ensure!(spinning.ended()?["exitCode"] == json!(143), "SIGTERM ends a guest that spins");
    pod.remove()
}

fn a_service_drains_within_its_grace(node: &Namespace) -> Result<()> {
    let image = service(node)?;
    let cri = Cri::new(node, &[&image])?;
    let pod = cri.pod(|_| ())?;
    let container = pod.run(&image, &["/app.wasm"], |_| ())?;
    wait::until("the service answers", || Ok(get(&pod, "/").ok()))?;
    container.stop(20)?;
    let status = container.ended()?;
    ensure!(status["exitCode"] == json!(0) && status["reason"] == "Completed", "{status}");
    pod.remove()
}

fn failures_are_told(node: &Namespace) -> Result<()> {
    let (unknown, native) = (image(node, "p1_unknown_import.wat")?, image(node, "p1_no_start.wat")?);
    let cri = Cri::new(node, &[&unknown, &native])?;
    let pod = cri.pod(|_| ())?;
    let container = pod.create(&unknown, &["/app.wasm"], |_| ())?;
    container.refused(&["/app.wasm imports", "which this runtime does not provide"])?;
    let status = container.ended()?;
    ensure!(
        status["message"].as_str().is_some_and(|text| text.contains("which this runtime does not provide")),
        "{status}"
    );
    pod.create(&native, &["/app.wasm"], |_| ())?.refused(&["exports no _start"])?;
    pod.create(&native, &["/nothing.wasm"], |_| ())?.refused(&["no file /nothing.wasm"])?;
    pod.remove()
}

fn volumes_and_settings_of_the_pod(node: &Namespace) -> Result<()> {
    let image = service(node)?;
    let cri = Cri::new(node, &[&image])?;
    let pod = cri.pod(|config| {
        config["annotations"] = json!({ "io.containerd.wasm.v1/network.allow": "none" });
        config["hostname"] = json!("of-the-pod");
    })?;
    let volume = node.directory("v")?;
    fs::write(volume.join("note"), "a note\n")?;
    pod.run(&image, &["/app.wasm"], |config| {
        config["mounts"] = json!([{ "container_path": "/data", "host_path": volume, "readonly": true }]);
    })?;
    wait::until("the service answers", || Ok(get(&pod, "/").ok()))?;
    let note = get(&pod, "/file?path=/data/note")?;
    ensure!(note == "a note\n", "{note:?}");
    let refused = get(&pod, "/write?path=/data/new&text=x")?;
    ensure!(refused.contains("Read-only") && !volume.join("new").exists(), "{refused:?}");
    let refused = get(&pod, "/fetch?url=http://127.0.0.1:8080/")?;
    ensure!(refused.contains("HttpRequestDenied"), "the pod's annotation holds: {refused:?}");
    pod.remove()
}

fn use_is_told_of_pod_and_container(node: &Namespace) -> Result<()> {
    let image = service(node)?;
    let cri = Cri::new(node, &[&image])?;
    let pod = cri.pod(|_| ())?;
    let container = pod.run(&image, &["/app.wasm"], |config| {
        config["linux"]["resources"] = json!({ "memory_limit_in_bytes": 64 << 20 });
    })?;
    wait::until("the service answers", || Ok(get(&pod, "/").ok()))?;
    let number = |value: &Value| value["value"].as_str().and_then(|text| text.parse::<u64>().ok()).unwrap_or_default();
    let told = wait::until("the use of memory and processor is told", || {
        let stats: Value = serde_json::from_str(&cri.ask(&["stats", "--output", "json", "--id", &container.id])?)?;
        let stats = stats["stats"][0].clone();
        let memory = number(&stats["memory"]["workingSetBytes"]);
        let cpu = number(&stats["cpu"]["usageCoreNanoSeconds"]);
        Ok((memory > 0 && cpu > 0).then_some((memory, cpu)))
    })?;
    ensure!(told.0 < 64 << 20, "{told:?}");
    pod.remove()
}

fn pods_outlive_a_killed_containerd(node: &Namespace) -> Result<()> {
    let (web, spin) = (service(node)?, image(node, "p1_spin.wat")?);
    // Its own containerd: the others' would be gone meanwhile.
    let containerd = testkit::Containerd::start_for_pods(node.containerd().version(), node.containerd().shim())?;
    let inner = containerd.namespace(&format!("{}-inner", node.name()));
    {
        let cri = Cri::new(&inner, &[&web, &spin])?;
        let pod = cri.pod(|_| ())?;
        let container = pod.run(&web, &["/app.wasm"], |_| ())?;
        let ending = pod.run(&spin, &["/app.wasm"], |_| ())?;
        wait::until("the service answers", || Ok(get(&pod, "/").ok()))?;
        let (pid, sandbox, ip) = (container.pid()?, pod.pid()?, pod.ip()?);
        let spinning = ending.pid()?;
        containerd.restart(Signal::SIGKILL, || {
            // One ends while nobody looks.
            nix::sys::signal::kill(nix::unistd::Pid::from_raw(spinning), Signal::SIGTERM)?;
            Ok(())
        })?;
        wait::until("CRI answers", || Ok((cri.crictl(&["version"])?.code == 0).then_some(())))?;
        ensure!((container.pid()?, pod.pid()?, pod.ip()?) == (pid, sandbox, ip), "the same processes");
        ensure!(ending.ended()?["exitCode"] == json!(143), "the end that nobody saw is told");
        let said = get(&pod, "/stdout")?;
        ensure!(said == "said\n", "{said:?}");
        wait::until("the log goes on", || Ok(container.log().contains("stdout F said on stdout").then_some(())))?;
        pod.remove()?;
    }
    containerd.stop()
}

fn nothing_stays_of_many_pods(node: &Namespace) -> Result<()> {
    const PODS: usize = 20;
    let hello = image(node, "p1_hello.wat")?;
    let cri = Cri::new(node, &[&hello])?;
    let before = interfaces()?;
    let mut pids = Vec::new();
    for _ in 0..PODS {
        let pod = cri.pod(|_| ())?;
        let sandbox = pod.pid()?;
        pids.extend([sandbox, process::parent(sandbox)?]);
        let container = pod.run(&hello, &["/app.wasm"], |_| ())?;
        container.ended()?;
        pod.remove()?;
    }
    wait::until("no process of the pods is there, and no shim", || {
        Ok(pids.iter().all(|pid| !fs::exists(format!("/proc/{pid}")).unwrap_or(true)).then_some(()))
    })?;
    let groups = leftovers::cgroups(&[node.name().to_owned()]);
    ensure!(groups.is_empty(), "{groups:?}");
    wait::until("the pods' devices are gone", || Ok((interfaces()? <= before).then_some(())))?;
    Ok(())
}

/// Network devices of the node.
fn interfaces() -> Result<usize> {
    Ok(fs::read_dir("/sys/class/net")?.count())
}
