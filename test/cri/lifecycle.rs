//! Containers of pods from create to removal: ends with their reasons, drains, failures, volumes.

use crate::Cases;
use crate::sandbox::{get, reference, service};
use anyhow::{Result, ensure};
use serde_json::json;
use std::fs;
use testkit::cri::Cri;
use testkit::{Image, Namespace, cases, guests, wait};

pub(crate) const CASES: Cases = cases![
    crate::lifecycle::ends_have_codes_and_reasons,
    crate::lifecycle::a_service_drains_within_its_grace,
    crate::lifecycle::failures_are_told,
    crate::lifecycle::volumes_and_settings_of_the_pod,
];

pub(crate) fn image(node: &Namespace, guest: &str) -> Result<Image> {
    Ok(Image::with_file(&reference(node), &guests::module(guest)?))
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
