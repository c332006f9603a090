//! Settings by annotations of a pod: for all of its containers, for one of them, and mistakes in them.

use crate::Cases;
use crate::lifecycle::image;
use crate::sandbox::{get, get_at, service};
use anyhow::{Result, ensure};
use serde_json::json;
use testkit::cri::{Cri, Pod};
use testkit::{Image, Namespace, cases, wait};

pub(crate) const CASES: Cases = cases![
    crate::annotations::a_pod_s_settings_reach_its_containers,
    crate::annotations::a_setting_for_one_container_reaches_that_one,
    crate::annotations::a_wrong_setting_fails_the_pod_by_name,
    crate::annotations::a_setting_that_does_not_fit_fails_the_container,
];

const PREFIX: &str = "io.containerd.wasm.v1/";

/// Where a container of this name in its pod is refused growth, MiB.
fn limit(pod: &Pod<'_>, grow: &Image, name: &str) -> Result<u32> {
    let container = pod.run(grow, &["/app.wasm", "exit", "0"], |config| config["metadata"]["name"] = json!(name))?;
    let said = container.finish(0)?;
    let number = said.trim().strip_prefix("refused at ").and_then(|rest| rest.strip_suffix(" MiB"));
    number.and_then(|number| number.parse().ok()).ok_or_else(|| anyhow::anyhow!("{name}: {said}"))
}

fn a_pod_s_settings_reach_its_containers(node: &Namespace) -> Result<()> {
    let (grow, web) = (image(node, "p1_grow.c")?, service(node)?);
    let cri = Cri::new(node, &[&grow, &web])?;
    let pod = cri.pod(|config| {
        config["annotations"] = json!({
            format!("{PREFIX}limits.memory"): "24Mi", format!("{PREFIX}http.listen"): "[::]:8081",
            "unrelated.example/limits.memory": "1",
        });
    })?;
    for name in ["one", "two"] {
        let mib = limit(&pod, &grow, name)?;
        ensure!([23, 24].contains(&mib), "{name}: {mib} MiB");
    }
    pod.run(&web, &["/app.wasm"], |_| ())?;
    wait::until("the service answers", || Ok(get_at(&pod, "8081", "/").ok()))?;
    pod.remove()
}

fn a_setting_for_one_container_reaches_that_one(node: &Namespace) -> Result<()> {
    let (grow, web) = (image(node, "p1_grow.c")?, service(node)?);
    let cri = Cri::new(node, &[&grow, &web])?;
    let pod = cri.pod(|config| {
        config["annotations"] = json!({
            format!("{PREFIX}limits.memory"): "24Mi", format!("{PREFIX}small_limits.memory"): "12Mi",
            format!("{PREFIX}admin_http.listen"): "[::]:9090",
        });
    })?;
    for (name, wanted) in [("small", [11, 12]), ("other", [23, 24])] {
        let mib = limit(&pod, &grow, name)?;
        ensure!(wanted.contains(&mib), "{name}: {mib} MiB");
    }
    for name in ["app", "admin"] {
        pod.run(&web, &["/app.wasm"], |config| config["metadata"]["name"] = json!(name))?;
    }
    wait::until("the first answers", || Ok(get(&pod, "/").ok()))?;
    wait::until("the second answers", || Ok(get_at(&pod, "9090", "/").ok()))?;
    pod.remove()
}

fn a_wrong_setting_fails_the_pod_by_name(node: &Namespace) -> Result<()> {
    let cri = Cri::new(node, &[])?;
    for (name, value, parts) in [
        ("limits.memroy", "24Mi", ["limits.memroy", "unknown key", "known keys are"]),
        ("limits.memory", "lots", ["limits.memory", "bad value", "lots"]),
        ("app_http.reuse", "0", ["app_http.reuse", "bad value", "a whole number above 0"]),
    ] {
        let name = format!("{PREFIX}{name}");
        let annotation = format!("annotation {name}");
        cri.refused(&[&annotation, parts[0], parts[1], parts[2]], |config| {
            config["annotations"] = json!({ name: value });
        })?;
    }
    Ok(())
}

fn a_setting_that_does_not_fit_fails_the_container(node: &Namespace) -> Result<()> {
    let hello = image(node, "p1_hello.wat")?;
    let cri = Cri::new(node, &[&hello])?;
    let pod = cri.pod(|config| {
        config["annotations"] = json!({ format!("{PREFIX}one_invoke"): "absent" });
    })?;
    let named = |name: &'static str| move |config: &mut serde_json::Value| config["metadata"]["name"] = json!(name);
    pod.create(&hello, &["/app.wasm"], named("one"))?.refused(&["absent"])?;
    let said = pod.run(&hello, &["/app.wasm"], named("two"))?.finish(0)?;
    ensure!(said == "hello from wasm\n", "{said}");
    pod.remove()
}
