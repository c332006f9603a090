//! What happens to clusters: nodes leave the pool, are edited by others, go away or out of reach, pull
//! from a registry, and hold pods to their limits.

use crate::Row;
use crate::rows;
use crate::workloads::{ends, guest, is_ready, on_node, pod};
use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use std::process::Command;
use std::{env, thread};
use testkit::cluster::{APPS, Cluster, KIT, until};
use testkit::kit::{
    GUESTS, INSTALLER, LABEL, RELEASE, install, installed, kept_after_all, nothing_on, pod_on, stands, started, warned,
};
use testkit::registry::Registry;
use testkit::{Image, checkout, guests};

/// Before the end; each leaves the release as [`installed`] has it, or none.
pub(crate) const FAILURES: &[Row] = rows![
    crate::failures::limits_of_the_processor_hold,
    crate::failures::pods_end_by_term_within_their_grace_and_by_kill_after_it,
    crate::failures::images_are_pulled_from_a_registry,
    crate::failures::pods_land_on_verified_workers_only,
    crate::failures::a_deselected_node_is_cleaned,
    crate::failures::accounts_change_no_more_of_nodes_than_they_must,
    crate::failures::uninstall_keeps_what_others_have_edited,
    crate::failures::uninstall_names_a_node_out_of_reach,
    crate::failures::uninstall_skips_a_node_that_is_gone,
    crate::killed::installs_are_killed_after_every_step,
];

/// A label that the rows narrow the pool by.
const POOL: &str = "e2e-pool";
const CONFIG: &str = "/etc/containerd/config.toml";

/// Uninstalls the release, if it is there.
pub(crate) fn uninstall(cluster: &Cluster) -> Result<()> {
    cluster.helm(&["uninstall", RELEASE, "-n", KIT, "--ignore-not-found", "--timeout", "300s"]).map(drop)
}

/// The node is in the pool, or no longer.
fn pooled(cluster: &Cluster, node: &str, change: &str) -> Result<()> {
    cluster.kubectl(&["label", "node", node, &format!("{POOL}{change}"), "--overwrite"]).map(drop)
}

/// The first status of the pod's containers.
fn status_of(cluster: &Cluster, pod: &str) -> Result<Value> {
    Ok(cluster.get(&["pod", pod, "-n", APPS])?["status"]["containerStatuses"][0].clone())
}

fn node_of(cluster: &Cluster, pod: &str) -> Result<String> {
    let pod = cluster.get(&["pod", pod, "-n", APPS])?;
    Ok(pod["spec"]["nodeName"].as_str().context("the pod has no node")?.to_owned())
}

fn limits_of_the_processor_hold(cluster: &Cluster) -> Result<()> {
    installed(cluster)?;
    let mut spinning = guest("spinning", &["/spin.wasm"]);
    spinning["spec"]["containers"][0]["resources"] = json!({ "limits": { "cpu": "200m", "memory": "64Mi" } });
    cluster.apply(std::slice::from_ref(&spinning))?;
    is_ready(cluster, "spinning")?;
    let (node, status) = (node_of(cluster, "spinning")?, status_of(cluster, "spinning")?);
    let id = status["containerID"].as_str().and_then(|id| id.strip_prefix("containerd://")).context("no container")?;
    // Where its processes are: of cgroup v2, or of v1, where the time is in a file of its own.
    let script = format!(
        "for stat in $(find /sys/fs/cgroup/ -path '*{id}*/cpu.stat' | xargs grep -l nr_periods); do \
         ! grep -q . $(dirname $stat)/cgroup.procs || cat $stat; done; \
         usage=$(find /sys/fs/cgroup/ -path '*{id}*/cpuacct.usage' | xargs -r cat | sort -n | tail -n 1); \
         [ -z \"$usage\" ] || echo usage_usec $((usage / 1000))"
    );
    let look = || -> Result<[u64; 3]> {
        let said = cluster.on(&node, &script)?;
        let number = |name: &str| {
            let line = said.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
            line.and_then(|line| line.trim().parse().ok()).with_context(|| format!("no {name} in {said:?}"))
        };
        Ok([number("nr_periods")?, number("nr_throttled")?, number("usage_usec")?])
    };
    let first = look()?;
    // Where others want the processors too, there are periods in which it does not get what it may have.
    let last = until("it was throttled in 50 periods of the processor's quota", || {
        let now = look()?;
        Ok((now[1] >= first[1] + 50).then_some(now))
    })?;
    let [periods, throttled, usage_us] = [0, 1, 2].map(|at| last[at] - first[at]);
    println!("      in {periods} periods: throttled in {throttled}, {usage_us} us of {} us", periods * 20_000);
    // A period has 100 ms and the quota 20 ms of them; one more period may have begun, and slices are handed out ahead.
    ensure!(usage_us < (periods + 1) * 20_000 * 5 / 4, "{usage_us} us in {periods} periods");
    cluster.delete(&[spinning])
}

fn pods_end_by_term_within_their_grace_and_by_kill_after_it(cluster: &Cluster) -> Result<()> {
    installed(cluster)?;
    // A service that finishes a request goes on until it is killed.
    let cases =
        [("term-spin", "/spin.wasm", 60, 143), ("term-sleep", "/sleep.wasm", 60, 143), ("kill", "/http.wasm", 4, 137)];
    let pods = cases.map(|(name, command, grace, _)| {
        let mut pod = guest(name, &[command]);
        pod["spec"]["terminationGracePeriodSeconds"] = json!(grace);
        // It stays to be looked at.
        pod["metadata"]["finalizers"] = json!(["e2e.test/seen"]);
        pod
    });
    cluster.apply(&pods)?;
    for (name, ..) in cases {
        is_ready(cluster, name)?;
    }
    thread::scope(|scope| {
        scope.spawn(|| cluster.ask("kill", 8080, "/slow?ms=50000&say=in-flight"));
        until("the request is in flight", || {
            Ok(cluster.kubectl(&["logs", "-n", APPS, "kill"])?.contains("in-flight").then_some(()))
        })?;
        for (name, _, _, code) in cases {
            cluster.kubectl(&["delete", "pod", name, "-n", APPS, "--wait=false"])?;
            // Before it ends: then the kubelet sets the time anew.
            let pod = cluster.get(&["pod", name, "-n", APPS])?;
            let ended = ends(cluster, name, code)?;
            // Both are times in UTC, of whole seconds; the second one is when the grace is over.
            let (at, over) = (ended["finishedAt"].as_str(), pod["metadata"]["deletionTimestamp"].as_str());
            ensure!(at.is_some() && over.is_some(), "{pod}");
            ensure!((at >= over) == (code == 137), "{name} ended at {at:?}, its grace is over at {over:?}");
            cluster.let_go(name)?;
        }
        cluster.delete(&pods)
    })
}

fn images_are_pulled_from_a_registry(cluster: &Cluster) -> Result<()> {
    installed(cluster)?;
    let address = env::var("E2E_REGISTRY").context("E2E_REGISTRY is not set: use `make test-kind`")?;
    let registry = Registry::at(&address);
    let tag = format!("pulled:{}", std::process::id());
    let digest = registry.push(&Image::with_file(&registry.reference(&tag), &guests::module("p1_hello.wat")?))?;
    let digest = digest.split_once('@').context("no digest")?.1;
    // The workers pull in two ways: with containerd's transfer service, and without.
    for (at, node) in cluster.workers().iter().enumerate() {
        for (form, reference) in [("tag", tag.clone()), ("digest", format!("pulled@{digest}"))] {
            let (name, image) = (format!("pulled-{form}-{at}"), format!("registry.test/{reference}"));
            let mut pulled = on_node(guest(&name, &["/app.wasm"]), node);
            pulled["spec"]["containers"][0]["image"] = json!(image);
            pulled["spec"]["containers"][0]["imagePullPolicy"] = json!("Always");
            cluster.apply(std::slice::from_ref(&pulled))?;
            ends(cluster, &name, 0)?;
            ensure!(!cluster.kubectl(&["logs", "-n", APPS, &name])?.is_empty(), "it has said nothing");
            let events = cluster.get(&["events", "-n", APPS, "--field-selector", "reason=Pulled"])?;
            let is_told = events["items"].as_array().into_iter().flatten().any(|event| {
                event["involvedObject"]["name"] == name
                    && event["message"].as_str().is_some_and(|said| said.starts_with("Successfully pulled image"))
            });
            ensure!(is_told, "{name} was not pulled: {events}");
            cluster.delete(&[pulled])?;
        }
        cluster.on(node, &format!("crictl rmi registry.test/{tag}"))?;
    }
    Ok(())
}

fn pods_land_on_verified_workers_only(cluster: &Cluster) -> Result<()> {
    installed(cluster)?;
    let [node, other] = cluster.workers();
    pooled(cluster, &other, "=yes")?;
    install(cluster, &[&format!("nodeSelector.{POOL}=yes")])?;
    stands(cluster, &node, None)?;
    stands(cluster, &other, Some("verified"))?;
    let template = pod("many", json!([{ "name": "http", "image": GUESTS, "command": ["/http.wasm"] }]));
    let many = json!({ "apiVersion": "apps/v1", "kind": "Deployment", "metadata": { "name": "many", "namespace": APPS },
        "spec": { "replicas": 10, "selector": { "matchLabels": { "app": "many" } },
            "template": { "metadata": { "labels": { "app": "many" } }, "spec": template["spec"] } } });
    cluster.apply(std::slice::from_ref(&many))?;
    cluster.kubectl(&["rollout", "status", "deployment/many", "-n", APPS, "--timeout", "180s"])?;
    let pods = cluster.get(&["pods", "-n", APPS, "-l", "app=many"])?;
    let nodes: Vec<_> =
        pods["items"].as_array().into_iter().flatten().map(|pod| pod["spec"]["nodeName"].clone()).collect();
    ensure!(nodes.len() == 10 && nodes.iter().all(|node| *node == other), "they are on {nodes:?}");
    cluster.kubectl(&["delete", "deployment", "many", "-n", APPS, "--cascade=foreground"])?;
    installed(cluster)?;
    pooled(cluster, &other, "-")
}

fn a_deselected_node_is_cleaned(cluster: &Cluster) -> Result<()> {
    installed(cluster)?;
    let [node, other] = cluster.workers();
    let original = cluster.on(&node, "sha256sum </opt/wasm/state/config.before")?;
    let before = started(cluster, &other)?;
    pooled(cluster, &other, "=yes")?;
    install(cluster, &[&format!("nodeSelector.{POOL}=yes")])?;
    stands(cluster, &node, None)?;
    until("its installer is gone", || Ok(pod_on(cluster, &node)?.is_none().then_some(())))?;
    ensure!(testkit::kit::standing_of(cluster, &node)?.is_none(), "it is labelled again");
    until("nothing is left on it", || nothing_on(cluster, &node).map(Some))?;
    ensure!(cluster.on(&node, &format!("sha256sum <{CONFIG}"))? == original, "its configuration is not what it was");
    // Selected again.
    pooled(cluster, &node, "=yes")?;
    stands(cluster, &node, Some("verified"))?;
    // Deselected under a pod.
    let sleeper = on_node(guest("stays", &["/sleep.wasm"]), &node);
    cluster.apply(std::slice::from_ref(&sleeper))?;
    is_ready(cluster, "stays")?;
    let running = status_of(cluster, "stays")?;
    pooled(cluster, &node, "-")?;
    stands(cluster, &node, Some("pending"))?;
    warned(cluster, &node, &format!("Wasm pods are on this node: {APPS}/stays"))?;
    until("its installer is gone", || Ok(pod_on(cluster, &node)?.is_none().then_some(())))?;
    ensure!(status_of(cluster, "stays")? == running, "the pod does not run as before");
    ensure!(started(cluster, &other)? == before, "containerd of {other} was restarted");
    stands(cluster, &other, Some("verified"))?;
    cluster.delete(&[sleeper])?;
    installed(cluster)?;
    pooled(cluster, &other, "-")
}

fn accounts_change_no_more_of_nodes_than_they_must(cluster: &Cluster) -> Result<()> {
    installed(cluster)?;
    let said = Command::new(checkout::of_crate("testkit").join("../../test/e2e/policy.sh")).arg(KIT).output()?;
    let (out, error) = (String::from_utf8_lossy(&said.stdout), String::from_utf8_lossy(&said.stderr));
    ensure!(said.status.success(), "{out}{error}");
    println!("      policy.sh: {}", out.trim());
    Ok(())
}

fn uninstall_keeps_what_others_have_edited(cluster: &Cluster) -> Result<()> {
    installed(cluster)?;
    let [node, other] = cluster.workers();
    let kept = "/root/config.e2e";
    let original = cluster.on(&node, &format!("cp /opt/wasm/state/config.before {kept} && cat {kept}"))?;
    // A copy of all of it, from which nobody takes our table.
    let theirs = "/etc/containerd/e2e/theirs.toml";
    let above = format!("# set by others\nimports = [\"{theirs}\"]\n");
    let below = "\n[debug]\n  level = \"warn\" # less of it\n";
    let edit = format!(
        "mkdir -p $(dirname {theirs}) && cp {CONFIG} {theirs} && {{ printf '{above}'; cat {CONFIG}; printf '{below}'; }} \
         >{kept}.new && cat {kept}.new >{CONFIG} && rm {kept}.new && systemctl restart containerd"
    );
    cluster.on(&node, &edit)?;
    until("the node is verified with the import", || {
        cluster.on(&node, &format!("grep -q {theirs} /opt/wasm/state/state.json")).map(Some)
    })?;
    // One that breaks is seen; put back as it was, it is known, though it is newer than containerd's start.
    cluster.on(&node, &format!("cp {theirs} {kept}.theirs && echo '[' >>{theirs}"))?;
    warned(cluster, &node, &format!("{theirs} would not load"))?;
    stands(cluster, &node, Some("failed"))?;
    cluster.on(&node, &format!("cat {kept}.theirs >{theirs} && rm {kept}.theirs"))?;
    stands(cluster, &node, Some("verified"))?;
    let said = cluster.helm_aloud(&["uninstall", RELEASE, "-n", KIT, "--timeout", "300s"])?;
    ensure!(said.contains(&format!("node {node}: {theirs} defines the runtime `wasm` too")), "{said}");
    let text = cluster.on(&node, &format!("cat {CONFIG}"))?;
    ensure!(text == format!("{above}{original}{below}"), "{text}");
    cluster.on(&node, &format!("rm -r $(dirname {theirs})"))?;
    nothing_on(cluster, &node)?;
    nothing_on(cluster, &other)?;
    let restore =
        format!("crictl info >/dev/null && cat {kept} >{CONFIG} && rm {kept} && systemctl restart containerd");
    cluster.on(&node, &restore)?;
    installed(cluster)
}

/// A node that is off, until this is dropped.
struct Stopped<'a>(&'a Cluster, &'a str);

impl Drop for Stopped<'_> {
    fn drop(&mut self) {
        let _ = self.0.docker(&["start", self.1]);
    }
}

fn ready(cluster: &Cluster, node: &str, status: &str) -> Result<()> {
    let condition = format!("condition=Ready={status}");
    cluster.kubectl(&["wait", "--for", &condition, &format!("node/{node}"), "--timeout", "180s"]).map(drop)
}

fn uninstall_names_a_node_out_of_reach(cluster: &Cluster) -> Result<()> {
    installed(cluster)?;
    let [node, other] = cluster.workers();
    let stopped = Stopped(cluster, &node);
    cluster.docker(&["stop", &node])?;
    ready(cluster, &node, "Unknown")?;
    ensure!(uninstall(cluster).is_err(), "the uninstall went through");
    let log = cluster.kubectl(&["logs", "-n", KIT, "-l", "app.kubernetes.io/component=uninstaller", "--tail", "5"])?;
    let remedy = format!("--skip-node NODE (the chart's uninstall.skipNodes), or kubectl label node {node} {LABEL}-");
    ensure!(log.contains(&format!("node {node} is not ready")) && log.contains(&remedy), "{log}");
    // The others are done, and nothing goes to this one.
    stands(cluster, &other, None)?;
    nothing_on(cluster, &other)?;
    stands(cluster, &node, Some("pending"))?;
    // Who thinks better of it gets the installers back, also where all was done.
    kept_after_all(cluster)?;
    stands(cluster, &other, Some("verified"))?;
    let daemons = cluster.get(&["daemonset", INSTALLER, "-n", KIT])?;
    let goes = &daemons["metadata"]["annotations"]["io.containerd.wasm.v1/uninstalling"];
    ensure!(goes == "false", "its pods would not clean a node that is deselected: {goes}");
    // What nobody can reach is left as it is.
    install(cluster, &[&format!("uninstall.skipNodes={{{node}}}")])?;
    uninstall(cluster)?;
    cluster.workers().iter().try_for_each(|node| stands(cluster, node, None))?;
    nothing_on(cluster, &other)?;
    drop(stopped);
    ready(cluster, &node, "True")?;
    // It is as it was left, and a later install finds it so.
    cluster.on(&node, &format!("grep -q runtimes.wasm {CONFIG}"))?;
    installed(cluster)
}

fn uninstall_skips_a_node_that_is_gone(cluster: &Cluster) -> Result<()> {
    installed(cluster)?;
    let [node, other] = cluster.workers();
    cluster.kubectl(&["delete", "node", &node])?;
    uninstall(cluster)?;
    stands(cluster, &other, None)?;
    nothing_on(cluster, &other)?;
    cluster.on(&node, "systemctl restart kubelet")?;
    until("the node is registered again", || ready(cluster, &node, "True").map(Some))?;
    installed(cluster)
}
