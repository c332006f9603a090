//! Many pods at once on a cluster of kind (`make bench-kind`): until all of them are ready, and what each costs the machine.
//! The pods spread over both workers. Ready means that the service answers; the floor's pods, which answer nothing, are
//! ready once they are started. Code comes as a file of an image, which the peer compiles in each container.

use crate::bed::Shims;
use crate::contender::{self, FLOOR, OURS, PEER, wanted};
use crate::memory::available_kib;
use crate::report::Report;
use crate::service::hello_component;
use crate::statistics::{Better, Row};
use anyhow::{Context, Result};
use serde_json::{Value, json};
use std::time::Instant;
use testkit::cluster::{Cluster, KIT};
use testkit::image::Rootfs;
use testkit::{Image, kit};

/// Pods at once.
const PODS: usize = 80;
/// Rounds in which each contender has its turn; one before them is not counted.
const ROUNDS: usize = 3;
const PORT: u16 = 8080;
const NAMESPACE: &str = "bench";
const WASM_IMAGE: &str = "bench.local/kind-http:1";
const NATIVE_IMAGE: &str = "bench.local/kind-native:1";
/// What is measured.
pub(crate) const START: &str = "80 pods on kind: until all are ready";
pub(crate) const MEMORY: &str = "80 pods on kind: node (MemAvailable), each";

/// Who runs pods, and what in them.
struct Contender {
    name: &'static str,
    /// None is the cluster's usual one.
    class: Option<&'static str>,
    container: Value,
}

/// What was measured of one of them, a value for each round.
#[derive(Default, Clone)]
struct Samples {
    /// Seconds until all pods were ready.
    times: Vec<f64>,
    /// KiB of each pod.
    sizes: Vec<f64>,
}

/// Measures all contenders on the cluster that `test/e2e/cluster.sh up` made.
pub(crate) fn measured(shims: &Shims) -> Result<Report> {
    let bin = shims.ours.parent().context("the shim is in a folder")?;
    let cluster = Cluster::from_environment(bin)?;
    prepare(&cluster, shims)?;
    let mut contenders = contenders();
    contenders.retain(|contender| wanted(contender.name));
    let mut samples = vec![Samples::default(); contenders.len()];
    for round in 0..=ROUNDS {
        for (contender, samples) in contenders.iter().zip(&mut samples) {
            let (took, each) = at_once(&cluster, contender).with_context(|| cluster.report())?;
            println!("round {round}, {}: {took:.1} s, {each:.0} KiB each", contender.name);
            if round > 0 {
                samples.times.push(took);
                samples.sizes.push(each);
            }
        }
    }
    let mut rows = Vec::new();
    for (contender, samples) in contenders.iter().zip(&samples) {
        rows.push(Row::of(START, contender.name, "s", Better::Lower, samples.times.clone()));
        rows.push(Row::of(MEMORY, contender.name, "KiB", Better::Lower, samples.sizes.clone()));
    }
    let mut report = Report::new(rows);
    let [node, _] = cluster.workers();
    let version = cluster.on(&node, "containerd --version")?;
    report.machine.insert("containerd".to_owned(), version.split(' ').nth(2).unwrap_or_default().to_owned());
    let version = cluster.on(&node, "kubelet --version")?;
    report.machine.insert("kubernetes".to_owned(), version.trim_start_matches("Kubernetes ").trim().to_owned());
    Ok(report)
}

fn contenders() -> Vec<Contender> {
    let container = |image: &str, command: Value| {
        json!({
            "name": "http", "image": image, "imagePullPolicy": "IfNotPresent", "command": command,
            "readinessProbe": { "httpGet": { "path": "/", "port": PORT }, "periodSeconds": 1 },
        })
    };
    let wasm = || container(WASM_IMAGE, json!(["/app.wasm"]));
    let mut of_peer = wasm();
    of_peer["env"] = json!([{ "name": "WASMTIME_HTTP_PROXY_SOCKET_ADDR", "value": format!("0.0.0.0:{PORT}") }]);
    let mut of_floor = wasm();
    of_floor["readinessProbe"] = Value::Null;
    vec![
        Contender { name: OURS, class: Some("wasm"), container: wasm() },
        Contender { name: PEER, class: Some("peer"), container: of_peer },
        Contender { name: "runc", class: None, container: container(NATIVE_IMAGE, json!(["/app", "serve"])) },
        Contender { name: FLOOR, class: Some("floor"), container: of_floor },
    ]
}

/// Registers the others by hand, since ours brings its installer, and loads what they run.
fn prepare(cluster: &Cluster, shims: &Shims) -> Result<()> {
    for node in cluster.workers() {
        for (name, shim) in [(PEER, &shims.peer), (FLOOR, &shims.floor)] {
            let place = format!("/usr/local/bin/containerd-shim-{name}-v1");
            cluster.docker(&["cp", &shim.display().to_string(), &format!("{node}:{place}")])?;
            let script = format!(
                "grep -q runtimes.{name} /etc/containerd/config.toml || printf '%s\\n' \
                 '[plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes.{name}]' '  runtime_type = \"{place}\"' \
                 >>/etc/containerd/config.toml"
            );
            cluster.on(&node, &script)?;
        }
        cluster.on(&node, "systemctl restart containerd")?;
    }
    let class = |name: &str| json!({ "apiVersion": "node.k8s.io/v1", "kind": "RuntimeClass", "metadata": { "name": name }, "handler": name });
    cluster.apply(&[
        kit::namespace(KIT, "privileged"),
        kit::namespace(NAMESPACE, "privileged"),
        class(PEER),
        class(FLOOR),
    ])?;
    let wasm =
        Image::new(WASM_IMAGE).rootfs(Rootfs::new().file("app.wasm", &hello_component()?)).entrypoint(["/app.wasm"]);
    let native = contender::native(include_str!("../guests/native.c"))?;
    let native = Image::new(NATIVE_IMAGE).rootfs(Rootfs::new().file("app", &native)).entrypoint(["/app"]);
    for image in [&kit::installer(cluster, env!("CARGO_PKG_VERSION"), "")?, &wasm, &native] {
        cluster.load(image)?;
    }
    kit::installed(cluster)
}

/// Creates the pods and removes them: the seconds until all were ready, and the KiB that each cost then.
fn at_once(cluster: &Cluster, contender: &Contender) -> Result<(f64, f64)> {
    let pods: Vec<Value> = (0..PODS).map(|number| pod(contender, number)).collect();
    let before = available_kib()? as f64;
    let begun = Instant::now();
    cluster.apply(&pods)?;
    cluster.kubectl(&["wait", "--for", "condition=Ready", "pods", "--all", "-n", NAMESPACE, "--timeout", "300s"])?;
    let took = begun.elapsed().as_secs_f64();
    let meanwhile = available_kib()? as f64;
    cluster.kubectl(&["delete", "pods", "--all", "-n", NAMESPACE, "--timeout", "300s"])?;
    Ok((took, ((before + available_kib()? as f64) / 2.0 - meanwhile) / PODS as f64))
}

fn pod(contender: &Contender, number: usize) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": { "name": format!("{}-{number}", contender.name), "namespace": NAMESPACE },
        "spec": {
            "runtimeClassName": contender.class, "terminationGracePeriodSeconds": 1, "containers": [contender.container],
            "automountServiceAccountToken": false, "enableServiceLinks": false,
        },
    })
}
