//! What application teams see: pods of the RuntimeClass `wasm`, under Pod Security `restricted`.

use crate::Row;
use crate::forward::Forward;
use crate::load::Load;
use crate::rows;
use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use testkit::cluster::{APPS, Cluster, until};
use testkit::kit::{BUSYBOX, GUESTS, installed, started};

pub(crate) const ROWS: &[Row] = rows![
    crate::workloads::a_service_with_sidecar_and_init_container,
    crate::workloads::probes_fail_and_recover,
    crate::workloads::volumes_are_seen_and_read_only_ones_kept,
    crate::workloads::ends_are_told,
    crate::workloads::out_of_memory_beside_a_sidecar,
    crate::workloads::logs_stats_exec_and_port_forward,
    crate::workloads::a_rolling_update_fails_no_request,
    crate::workloads::containerd_restarts_under_pods,
];

/// A pod that `restricted` admits.
pub(crate) fn pod(name: &str, containers: Value) -> Value {
    let containers: Vec<Value> = containers.as_array().into_iter().flatten().cloned().map(confined).collect();
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": { "name": name, "namespace": APPS, "labels": { "app": name } },
        "spec": {
            "runtimeClassName": "wasm",
            "terminationGracePeriodSeconds": 5,
            "securityContext": {
                "runAsNonRoot": true, "runAsUser": 1000, "seccompProfile": { "type": "RuntimeDefault" },
            },
            "containers": containers,
        },
    })
}

/// A pod of one guest, which runs once.
pub(crate) fn guest(name: &str, command: &[&str]) -> Value {
    let mut pod = pod(name, json!([{ "name": "guest", "image": GUESTS, "command": command }]));
    pod["spec"]["restartPolicy"] = json!("Never");
    pod
}

pub(crate) fn on_node(mut pod: Value, node: &str) -> Value {
    pod["spec"]["nodeSelector"] = json!({ "kubernetes.io/hostname": node });
    pod
}

pub(crate) fn is_ready(cluster: &Cluster, pod: &str) -> Result<()> {
    cluster
        .kubectl(&["wait", "--for", "condition=Ready", "-n", APPS, &format!("pod/{pod}"), "--timeout", "120s"])
        .map(drop)
}

/// Waits until the pod's guest has ended with this code; its status.
pub(crate) fn ends(cluster: &Cluster, pod: &str, code: i64) -> Result<Value> {
    let ended = until(&format!("pod {pod} ends"), || {
        let pod = cluster.get(&["pod", pod, "-n", APPS])?;
        let ended = &pod["status"]["containerStatuses"][0]["state"]["terminated"];
        Ok((!ended.is_null()).then(|| ended.clone()))
    })?;
    ensure!(ended["exitCode"] == code, "pod {pod} ended with {ended}");
    Ok(ended)
}

/// The container's security as `restricted` wants it.
fn confined(mut container: Value) -> Value {
    container["securityContext"] = json!({ "allowPrivilegeEscalation": false, "capabilities": { "drop": ["ALL"] } });
    container["imagePullPolicy"] = json!("IfNotPresent");
    container
}

fn a_service_with_sidecar_and_init_container(cluster: &Cluster) -> Result<()> {
    installed(cluster)?;
    let shared = json!([{ "name": "shared", "mountPath": "/shared" }]);
    let mut mixed = pod(
        "mixed",
        json!([
            { "name": "http", "image": GUESTS, "command": ["/http.wasm"], "volumeMounts": shared },
            { "name": "side", "image": BUSYBOX, "volumeMounts": shared, "command": ["/bin/sh", "-c",
              "until wget -q -O /shared/heard http://127.0.0.1:8080/; do sleep 1; done; \
               while true; do echo served by the sidecar | nc -l -p 9090; done"] },
        ]),
    );
    mixed["spec"]["initContainers"] = json!([confined(json!({
        "name": "first", "image": BUSYBOX, "volumeMounts": shared,
        "command": ["/bin/sh", "-c", "echo written first > /shared/first"],
    }))]);
    mixed["spec"]["volumes"] = json!([{ "name": "shared", "emptyDir": {} }]);
    cluster.apply(std::slice::from_ref(&mixed))?;
    is_ready(cluster, "mixed")?;
    ensure!(cluster.ask("mixed", 8080, "/")? == "hello from wasm\n", "it does not answer");
    ensure!(
        cluster.ask("mixed", 8080, "/file?path=/shared/first")? == "written first\n",
        "no file of the init container"
    );
    until("the sidecar has heard the service", || {
        Ok((cluster.ask("mixed", 8080, "/file?path=/shared/heard")? == "hello from wasm\n").then_some(()))
    })?;
    // Loopback the other way.
    until("the service reaches the sidecar", || {
        let answer = cluster.ask("mixed", 8080, "/tcp?host=127.0.0.1&port=9090");
        Ok(answer.is_ok_and(|answer| answer.contains("served by the sidecar")).then_some(()))
    })?;
    cluster.delete(&[mixed])
}

fn probes_fail_and_recover(cluster: &Cluster) -> Result<()> {
    installed(cluster)?;
    let mut probed = pod(
        "probed",
        json!([{
            "name": "http", "image": GUESTS, "command": ["/http.wasm"],
            "readinessProbe": { "httpGet": { "path": "/file?path=/state/ready", "port": 8080 }, "periodSeconds": 1, "failureThreshold": 1 },
            "livenessProbe": { "exec": { "command": ["/file.wasm", "stat", "/state/live"] }, "periodSeconds": 1, "failureThreshold": 2,
                "initialDelaySeconds": 3 },
            "volumeMounts": [{ "name": "state", "mountPath": "/state" }],
        }]),
    );
    probed["spec"]["volumes"] = json!([{ "name": "state", "emptyDir": {} }]);
    probed["spec"]["securityContext"]["fsGroup"] = json!(1000);
    let service = json!({ "apiVersion": "v1", "kind": "Service", "metadata": { "name": "probed", "namespace": APPS },
        "spec": { "selector": { "app": "probed" }, "ports": [{ "port": 80, "targetPort": 8080 }] } });
    cluster.apply(&[probed.clone(), service.clone()])?;
    let write = |file: &str| cluster.ask("probed", 8080, &format!("/write?path=/state/{file}&text=x"));
    until("it answers", || write("live").map(Some))?;
    let endpoints = || -> Result<usize> {
        let slices = cluster.get(&["endpointslices", "-n", APPS, "-l", "kubernetes.io/service-name=probed"])?;
        let endpoints = slices["items"][0]["endpoints"].as_array().cloned().unwrap_or_default();
        Ok(endpoints.iter().filter(|endpoint| endpoint["conditions"]["ready"] == true).count())
    };
    ensure!(endpoints()? == 0, "it has an endpoint before it is ready");
    write("ready")?;
    until("it has an endpoint", || Ok((endpoints()? == 1).then_some(())))?;
    cluster.kubectl(&["exec", "-n", APPS, "probed", "--", "/file.wasm", "unlink", "/state/ready"])?;
    until("it has none", || Ok((endpoints()? == 0).then_some(())))?;
    write("ready")?;
    until("it has one again", || Ok((endpoints()? == 1).then_some(())))?;
    let restarts = || {
        Ok::<_, anyhow::Error>(
            cluster.get(&["pod", "probed", "-n", APPS])?["status"]["containerStatuses"][0]["restartCount"].as_u64(),
        )
    };
    let before = restarts()?;
    ensure!(before.is_some(), "it has no count of restarts");
    cluster.kubectl(&["exec", "-n", APPS, "probed", "--", "/file.wasm", "unlink", "/state/live"])?;
    until("a failed liveness probe restarts it", || Ok((restarts()? > before).then_some(())))?;
    until("it answers again", || write("live").map(Some))?;
    cluster.delete(&[probed, service])
}

fn volumes_are_seen_and_read_only_ones_kept(cluster: &Cluster) -> Result<()> {
    installed(cluster)?;
    let map = |text: &str| {
        json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "settings", "namespace": APPS },
            "data": { "greeting": text } })
    };
    let secret = json!({ "apiVersion": "v1", "kind": "Secret", "metadata": { "name": "keys", "namespace": APPS },
        "stringData": { "key": "secret text" } });
    let mut reader = pod(
        "reader",
        json!([{
            "name": "http", "image": GUESTS, "command": ["/http.wasm"],
            "volumeMounts": [
                { "name": "settings", "mountPath": "/settings" }, { "name": "keys", "mountPath": "/keys", "readOnly": true },
                { "name": "token", "mountPath": "/token" }, { "name": "scratch", "mountPath": "/scratch" },
                { "name": "scratch", "mountPath": "/kept", "readOnly": true },
            ],
        }]),
    );
    reader["spec"]["volumes"] = json!([
        { "name": "settings", "configMap": { "name": "settings" } }, { "name": "keys", "secret": { "secretName": "keys" } },
        { "name": "token", "projected": { "sources": [{ "serviceAccountToken": { "path": "token", "expirationSeconds": 600 } }] } },
        { "name": "scratch", "emptyDir": {} },
    ]);
    reader["spec"]["securityContext"]["fsGroup"] = json!(1000);
    cluster.apply(&[map("hello"), secret.clone(), reader.clone()])?;
    is_ready(cluster, "reader")?;
    let read = |path: &str| cluster.ask("reader", 8080, &format!("/file?path={path}"));
    ensure!(read("/settings/greeting")? == "hello" && read("/keys/key")? == "secret text", "volumes are not seen");
    ensure!(read("/token/token")?.matches('.').count() == 2, "no token");
    cluster.ask("reader", 8080, "/write?path=/scratch/file&text=x")?;
    ensure!(read("/kept/file")? == "x", "the volume is not the same");
    let refused = cluster.ask("reader", 8080, "/write?path=/kept/file&text=y");
    ensure!(refused.is_err() && read("/scratch/file")? == "x", "a read-only mount was written: {refused:?}");
    cluster.apply(&[map("changed")])?;
    // The kubelet writes it within its period of a minute; a changed annotation hurries it.
    cluster.kubectl(&["annotate", "pod", "reader", "-n", APPS, "e2e=now"])?;
    until("the running guest sees the change", || Ok((read("/settings/greeting")? == "changed").then_some(())))?;
    cluster.delete(&[map(""), secret, reader])
}

fn ends_are_told(cluster: &Cluster) -> Result<()> {
    installed(cluster)?;
    let fallback = |mut pod: Value| {
        pod["spec"]["containers"][0]["terminationMessagePolicy"] = json!("FallbackToLogsOnError");
        pod
    };
    let pods = [
        guest("zero", &["/exit.wasm", "0"]),
        fallback(guest("seven", &["/exit.wasm", "7"])),
        guest("trapped", &["/grow.wasm", "trap"]),
        guest("nothing", &["/absent.wasm"]),
    ];
    cluster.apply(&pods)?;
    ends(cluster, "zero", 0)?;
    let seven = ends(cluster, "seven", 7)?;
    ensure!(seven["message"].as_str().is_some_and(|said| said.contains("leaving with 7")), "{seven}");
    let trapped = ends(cluster, "trapped", 134)?;
    ensure!(trapped["message"].as_str().is_some_and(|said| said.contains("wasm trap")), "{trapped}");
    until("kubectl describe says what is missing", || {
        let described = cluster.kubectl(&["describe", "pod", "nothing", "-n", APPS])?;
        Ok(described.contains("absent.wasm").then_some(()))
    })?;
    let mut again = guest("again", &["/exit.wasm", "3"]);
    again["spec"]["restartPolicy"] = json!("Always");
    cluster.apply(std::slice::from_ref(&again))?;
    // Not by `CrashLoopBackOff`, which the kubelet does not always tell the API server while it lasts.
    until("it is restarted with a pause", || {
        let field = "reason=BackOff,involvedObject.name=again";
        let events = cluster.get(&["events", "-n", APPS, "--field-selector", field])?;
        let pauses = events["items"].as_array().is_some_and(|events| !events.is_empty());
        let pod = cluster.get(&["pod", "again", "-n", APPS])?;
        let restarts = pod["status"]["containerStatuses"][0]["restartCount"].as_u64();
        Ok((pauses && restarts > Some(0)).then_some(()))
    })?;
    // While the next one comes, the one before may be on its way out.
    until("the log of the one before is told", || {
        let previous = cluster.kubectl(&["logs", "-n", APPS, "again", "--previous"])?;
        Ok((previous == "leaving with 3\n").then_some(()))
    })?;
    cluster.delete(&pods)?;
    cluster.delete(&[again])
}

fn out_of_memory_beside_a_sidecar(cluster: &Cluster) -> Result<()> {
    installed(cluster)?;
    let mut greedy = pod(
        "greedy",
        json!([
            { "name": "greedy", "image": GUESTS, "command": ["/grow.wasm", "trap"], "resources": { "limits": { "memory": "32Mi" } } },
            { "name": "side", "image": BUSYBOX, "command": ["/bin/sleep", "1000"] },
        ]),
    );
    greedy["spec"]["restartPolicy"] = json!("Never");
    cluster.apply(std::slice::from_ref(&greedy))?;
    let (ended, beside) = until("the guest is out of memory", || {
        let pod = cluster.get(&["pod", "greedy", "-n", APPS])?;
        let of = |name: &str| {
            let statuses = pod["status"]["containerStatuses"].as_array().cloned().unwrap_or_default();
            statuses.iter().find(|status| status["name"] == name).map(|status| status["state"].clone())
        };
        let ended = of("greedy").filter(|state| !state["terminated"].is_null());
        Ok(ended.zip(of("side")))
    })?;
    ensure!(ended["terminated"]["reason"] == "OOMKilled", "{ended}");
    ensure!(ended["terminated"]["exitCode"] == 137, "{ended}");
    ensure!(!beside["running"].is_null(), "the sidecar: {beside}");
    cluster.delete(&[greedy])
}

fn logs_stats_exec_and_port_forward(cluster: &Cluster) -> Result<()> {
    installed(cluster)?;
    let seen = pod(
        "seen",
        json!([
            { "name": "http", "image": GUESTS, "command": ["/http.wasm"] },
            { "name": "tick", "image": GUESTS, "command": ["/tick.wasm"] },
        ]),
    );
    cluster.apply(std::slice::from_ref(&seen))?;
    is_ready(cluster, "seen")?;
    let followed = cluster.kubectl(&["logs", "-n", APPS, "seen", "-c", "tick", "-f", "--limit-bytes", "2000"])?;
    ensure!(followed.starts_with("line 0\nline 1\n"), "logs -f: {followed}");
    let said = cluster.kubectl(&["exec", "-n", APPS, "seen", "-c", "http", "--", "/show.wasm", "word"])?;
    ensure!(said.contains("arg 1 [word]"), "exec: {said}");
    let error = cluster.kubectl(&["exec", "-n", APPS, "seen", "-c", "http", "--", "sh"]).err().context("sh ran")?;
    ensure!(format!("{error:#}").contains("exec needs a .wasm file"), "{error:#}");
    let node = cluster.get(&["pod", "seen", "-n", APPS])?["spec"]["nodeName"].as_str().unwrap_or_default().to_owned();
    until("the kubelet's summary has the pod", || {
        let summary: Value = serde_json::from_str(&cluster.kubectl(&[
            "get",
            "--raw",
            &format!("/api/v1/nodes/{node}/proxy/stats/summary"),
        ])?)?;
        let pods = summary["pods"].as_array().cloned().unwrap_or_default();
        let Some(pod) = pods.iter().find(|pod| pod["podRef"]["name"] == "seen") else { return Ok(None) };
        let used = |stats: &Value| {
            stats["memory"]["workingSetBytes"].as_u64() > Some(0)
                && stats["cpu"]["usageCoreNanoSeconds"].as_u64() > Some(0)
        };
        let containers = pod["containers"].as_array().cloned().unwrap_or_default();
        Ok((used(pod) && containers.len() == 2 && containers.iter().all(used)).then_some(()))
    })?;
    let forward = Forward::start("seen", 8080)?;
    let answer = until("the forwarded port answers", || forward.get("/").map(Some))?;
    ensure!(answer.contains("hello from wasm\n"), "{answer}");
    cluster.delete(&[seen])
}

fn a_rolling_update_fails_no_request(cluster: &Cluster) -> Result<()> {
    installed(cluster)?;
    let template = |version: &str| {
        let mut pod = pod(
            "web",
            json!([{
                "name": "http", "image": GUESTS, "command": ["/http.wasm"], "env": [{ "name": "VERSION", "value": version }],
                "readinessProbe": { "httpGet": { "path": "/", "port": 8080 }, "periodSeconds": 1 },
            }]),
        );
        pod["spec"]["terminationGracePeriodSeconds"] = json!(30);
        json!({ "apiVersion": "apps/v1", "kind": "Deployment", "metadata": { "name": "web", "namespace": APPS },
            "spec": { "replicas": 3, "selector": { "matchLabels": { "app": "web" } },
                "strategy": { "rollingUpdate": { "maxUnavailable": 0, "maxSurge": 1 } },
                "template": { "metadata": { "labels": { "app": "web" } }, "spec": pod["spec"] } } })
    };
    let service = json!({ "apiVersion": "v1", "kind": "Service", "metadata": { "name": "web", "namespace": APPS },
        "spec": { "selector": { "app": "web" }, "ports": [{ "port": 80, "targetPort": 8080 }] } });
    cluster.apply(&[template("one"), service.clone()])?;
    let rolled_out = || cluster.kubectl(&["rollout", "status", "deployment/web", "-n", APPS, "--timeout", "120s"]);
    rolled_out()?;
    let load = Load::start(cluster, "web")?;
    cluster.apply(&[template("two")])?;
    rolled_out()?;
    // The last old pod may still be draining.
    until("the old pods are gone", || {
        let pods = cluster.get(&["pods", "-n", APPS, "-l", "app=web"])?;
        Ok((pods["items"].as_array().map_or(0, Vec::len) == 3).then_some(()))
    })?;
    load.stop("the update")?;
    cluster.delete(&[template("two"), service])
}

fn containerd_restarts_under_pods(cluster: &Cluster) -> Result<()> {
    installed(cluster)?;
    let lasting = pod(
        "lasting",
        json!([
            { "name": "http", "image": GUESTS, "command": ["/http.wasm"] },
            { "name": "side", "image": BUSYBOX, "command": ["/bin/sleep", "1000"] },
        ]),
    );
    cluster.apply(std::slice::from_ref(&lasting))?;
    is_ready(cluster, "lasting")?;
    let look = || -> Result<(Value, Vec<Value>)> {
        let pod = cluster.get(&["pod", "lasting", "-n", APPS])?;
        let statuses = pod["status"]["containerStatuses"].as_array().cloned().unwrap_or_default();
        Ok((pod["metadata"]["uid"].clone(), statuses.iter().map(|status| status["containerID"].clone()).collect()))
    };
    let before = look()?;
    let node =
        cluster.get(&["pod", "lasting", "-n", APPS])?["spec"]["nodeName"].as_str().unwrap_or_default().to_owned();
    let first = started(cluster, &node)?;
    cluster.on(&node, "systemctl restart containerd")?;
    ensure!(started(cluster, &node)? != first, "containerd was not restarted");
    until("the node is verified again", || {
        Ok((cluster.ask("lasting", 8080, "/")? == "hello from wasm\n").then_some(()))
    })?;
    installed(cluster)?;
    ensure!(look()? == before, "other containers: {before:?} {:?}", look()?);
    let pod = cluster.get(&["pod", "lasting", "-n", APPS])?;
    ensure!(pod["status"]["containerStatuses"][0]["restartCount"] == 0, "{}", pod["status"]);
    cluster.delete(&[lasting])
}
