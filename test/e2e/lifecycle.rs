//! What becomes of nodes: installed one at a time, refused, repaired, upgraded, cleaned.

use crate::Row;
use crate::load::Load;
use crate::rows;
use crate::workloads::{guest, pod};
use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::sync::{Mutex, OnceLock};
use testkit::cluster::{APPS, Cluster, KIT, until};
use testkit::kit::{
    INSTALLER, LABEL, RELEASE, VERSION, config_hash, install, installed, installer, installer_of, installers,
    kept_after_all, log_of, nothing_on, pod_on, stands, started, starts, warned,
};

/// On nodes that have never had it.
pub(crate) const BEFORE: &[Row] = rows![
    crate::lifecycle::pods_wait_with_a_reason_while_no_node_is_verified,
    crate::lifecycle::a_broken_configuration_is_refused_and_not_touched,
    crate::lifecycle::workers_take_turns_and_are_verified,
];

/// Between workloads and the end.
pub(crate) const MEANWHILE: &[Row] = rows![
    crate::lifecycle::a_second_install_restarts_nothing,
    crate::lifecycle::a_deleted_shim_comes_back,
    crate::lifecycle::a_replaced_configuration_is_repaired,
    crate::lifecycle::a_restarted_node_is_verified_again,
    crate::lifecycle::a_new_version_goes_in_and_out_under_running_pods,
    crate::lifecycle::a_shim_that_does_not_work_stays_on_one_node,
    crate::lifecycle::a_configuration_that_breaks_is_taken_back,
    crate::lifecycle::a_token_labels_its_own_node_only,
];

/// The end.
pub(crate) const AFTER: &[Row] = rows![
    crate::lifecycle::uninstall_is_refused_while_pods_run,
    crate::lifecycle::uninstall_leaves_every_byte_as_it_was,
    crate::readme::the_first_path_leads_to_an_answer,
    crate::readme::manifests_and_samples_do_without_helm,
    crate::lifecycle::pods_are_rejected_without_the_runtime_class,
];

/// Hashes of the nodes' configurations as they were first.
static FIRST: OnceLock<Mutex<BTreeMap<String, String>>> = OnceLock::new();

fn first() -> &'static Mutex<BTreeMap<String, String>> {
    FIRST.get_or_init(Mutex::default)
}

fn pods_wait_with_a_reason_while_no_node_is_verified(cluster: &Cluster) -> Result<()> {
    for node in cluster.workers() {
        let hash = config_hash(cluster, &node)?;
        first().lock().expect("no row panics with it").insert(node, hash);
    }
    install(cluster, &["nodeSelector.e2e=nowhere"])?;
    // Of a cluster that was kept.
    cluster.workers().iter().try_for_each(|node| stands(cluster, node, None))?;
    let waiting = guest("waiting", &["/hello.wasm"]);
    cluster.apply(std::slice::from_ref(&waiting))?;
    until("the scheduler says why the pod waits", || {
        let pod = cluster.get(&["pod", "waiting", "-n", APPS])?;
        let conditions = pod["status"]["conditions"].as_array().cloned().unwrap_or_default();
        let said = conditions.iter().any(|condition| {
            condition["reason"] == "Unschedulable"
                && condition["message"].as_str().is_some_and(|message| message.contains("node affinity/selector"))
        });
        Ok(said.then_some(()))
    })?;
    cluster.delete(&[waiting])
}

fn a_broken_configuration_is_refused_and_not_touched(cluster: &Cluster) -> Result<()> {
    let [node, other] = cluster.workers();
    let path = "/etc/containerd/config.toml";
    cluster.on(&node, &format!("cp -p {path} /root/config.toml && echo '[plugins' >> {path}"))?;
    let (broken, before) = (config_hash(cluster, &node)?, started(cluster, &node)?);
    install(cluster, &[])?;
    warned(cluster, &node, "would not load")?;
    stands(cluster, &node, Some("failed"))?;
    stands(cluster, &other, Some("verified"))?;
    ensure!(config_hash(cluster, &node)? == broken, "the configuration was touched");
    ensure!(started(cluster, &node)? == before, "containerd was restarted");
    cluster.on(&node, "test ! -e /opt/wasm/bin")?;
    // Mended, but not loaded: nobody knows what it does.
    cluster.on(&node, &format!("mv /root/config.toml {path}"))?;
    warned(cluster, &node, "was changed after containerd started")?;
    ensure!(started(cluster, &node)? == before, "containerd was restarted");
    cluster.on(&node, "systemctl restart containerd")?;
    stands(cluster, &node, Some("verified"))
}

fn workers_take_turns_and_are_verified(cluster: &Cluster) -> Result<()> {
    // From the start, so that both want to restart at once.
    cluster.helm(&["uninstall", RELEASE, "-n", KIT, "--timeout", "300s"])?;
    installed(cluster)?;
    let mut windows = Vec::new();
    for node in cluster.workers() {
        let log = log_of(cluster, &node)?;
        let at = |text: &str| {
            let line = log.lines().find(|line| line.contains(text));
            line.and_then(|line| line.split(' ').next())
                .map(str::to_owned)
                .with_context(|| format!("no {text:?} in\n{log}"))
        };
        windows.push((at("it is this node's turn")?, at("restarts; containers go on")?, at("=verified")?));
        let versions = cluster.get(&["node", &node])?["metadata"]["annotations"][VERSION].clone();
        ensure!(versions == env!("CARGO_PKG_VERSION"), "{node} has version {versions}");
    }
    windows.sort();
    let [(_, _, first), (turn, restart, _)] = &windows[..] else { anyhow::bail!("two workers: {windows:?}") };
    ensure!(first < restart && turn <= restart, "restarts overlap: {windows:?}");
    for node in cluster.workers() {
        // The kubelet tells it with the node's next status, some 10 s later.
        until(&format!("the kubelet of {node} lists the handler"), || {
            let handlers = cluster.get(&["node", &node])?["status"]["runtimeHandlers"].clone();
            Ok(handlers.as_array().into_iter().flatten().any(|handler| handler["name"] == "wasm").then_some(()))
        })?;
    }
    cluster.helm(&["test", RELEASE, "-n", KIT]).map(drop)
}

fn a_second_install_restarts_nothing(cluster: &Cluster) -> Result<()> {
    installed(cluster)?;
    let before: Vec<String> = cluster.workers().iter().map(|node| started(cluster, node)).collect::<Result<_>>()?;
    cluster.kubectl(&["rollout", "restart", &format!("daemonset/{INSTALLER}"), "-n", KIT])?;
    cluster.kubectl(&["rollout", "status", &format!("daemonset/{INSTALLER}"), "-n", KIT, "--timeout", "180s"])?;
    installed(cluster)?;
    let after: Vec<String> = cluster.workers().iter().map(|node| started(cluster, node)).collect::<Result<_>>()?;
    ensure!(before == after, "containerd was restarted: {before:?} {after:?}");
    Ok(())
}

/// Waits until the installer on the node has verified it once more.
fn verified_again(cluster: &Cluster, node: &str, hurt: impl FnOnce() -> Result<()>) -> Result<()> {
    let before = log_of(cluster, node)?;
    hurt()?;
    let log = until(&format!("{node} is verified once more"), || {
        let log = log_of(cluster, node)?;
        let since = log.strip_prefix(&before).with_context(|| format!("another log:\n{log}"))?;
        Ok(since.contains("=verified").then(|| since.to_owned()))
    })?;
    ensure!(log.find("=pending").is_some_and(|at| Some(at) < log.find("=verified")), "it was not unlabelled:\n{log}");
    stands(cluster, node, Some("verified"))
}

fn a_deleted_shim_comes_back(cluster: &Cluster) -> Result<()> {
    installed(cluster)?;
    let [node, _] = cluster.workers();
    let shim = "/opt/wasm/bin/containerd-shim-wasm-v1";
    verified_again(cluster, &node, || cluster.on(&node, &format!("rm {shim}")).map(drop))?;
    cluster.on(&node, &format!("test -x {shim}")).map(drop)
}

fn a_replaced_configuration_is_repaired(cluster: &Cluster) -> Result<()> {
    installed(cluster)?;
    let [node, _] = cluster.workers();
    let replace = "grep -v . /dev/null; cp /opt/wasm/state/config.before /etc/containerd/config.toml; \
                   ! grep -q wasm /etc/containerd/config.toml; systemctl restart containerd";
    verified_again(cluster, &node, || cluster.on(&node, replace).map(drop))?;
    cluster.on(&node, "grep -q runtimes.wasm /etc/containerd/config.toml").map(drop)
}

fn a_restarted_node_is_verified_again(cluster: &Cluster) -> Result<()> {
    installed(cluster)?;
    let [_, node] = cluster.workers();
    let container = || -> Result<Value> {
        Ok(pod_on(cluster, &node)?.context("no installer")?["status"]["containerStatuses"][0]["containerID"].clone())
    };
    let (before, installer) = (started(cluster, &node)?, container()?);
    cluster.docker(&["restart", &node])?;
    until("the node is back", || {
        cluster.on(&node, "systemctl is-active containerd")?;
        Ok((started(cluster, &node)? != before).then_some(()))
    })?;
    // Not before the installer is back: until then the node is as it was.
    until("the installer runs again", || {
        let now = container()?;
        Ok((!now.is_null() && now != installer).then_some(()))
    })?;
    let log = until("the node is verified again", || {
        let log = log_of(cluster, &node)?;
        Ok(log.contains("=verified").then_some(log))
    })?;
    ensure!(log.find("=pending") < log.find("=verified"), "it was not unlabelled before:\n{log}");
    ensure!(log.contains("=pending"), "it was not unlabelled:\n{log}");
    installed(cluster)?;
    cluster.kubectl(&["wait", "--for", "condition=Ready", &format!("node/{node}"), "--timeout", "120s"])?;
    let hello = guest("after-restart", &["/hello.wasm"]);
    let hello = crate::workloads::on_node(hello, &node);
    cluster.apply(std::slice::from_ref(&hello))?;
    crate::workloads::ends(cluster, "after-restart", 0)?;
    cluster.delete(&[hello])
}

fn a_new_version_goes_in_and_out_under_running_pods(cluster: &Cluster) -> Result<()> {
    installed(cluster)?;
    let other = "0.0.9";
    cluster.load(&installer(cluster, other, "another build")?)?;
    // It answers, and its command ends and starts again in the same sandbox.
    let running = pod(
        "upgraded",
        json!([
            { "name": "http", "image": testkit::kit::GUESTS, "command": ["/http.wasm"] },
            { "name": "again", "image": testkit::kit::GUESTS, "command": ["/sleep.wasm"] },
        ]),
    );
    let loaded = pod("loaded", json!([{ "name": "http", "image": testkit::kit::GUESTS, "command": ["/http.wasm"] }]));
    let service = json!({ "apiVersion": "v1", "kind": "Service", "metadata": { "name": "loaded", "namespace": APPS },
        "spec": { "selector": { "app": "loaded" }, "ports": [{ "port": 80, "targetPort": 8080 }] } });
    cluster.apply(&[running.clone(), loaded.clone(), service.clone()])?;
    crate::workloads::is_ready(cluster, "upgraded")?;
    let load = Load::start(cluster, "loaded")?;
    let before: Vec<String> = cluster.workers().iter().map(|node| started(cluster, node)).collect::<Result<_>>()?;
    for tag in [other, env!("CARGO_PKG_VERSION")] {
        install(cluster, &[&format!("image.tag={tag}")])?;
        cluster.kubectl(&["rollout", "status", &format!("daemonset/{INSTALLER}"), "-n", KIT, "--timeout", "180s"])?;
        cluster.workers().iter().try_for_each(|node| stands(cluster, node, Some("verified")))?;
        for node in cluster.workers() {
            let end = cluster.on(&node, "tail -c 13 /opt/wasm/bin/containerd-shim-wasm-v1 | base64")?;
            ensure!(
                (end.trim() == "YW5vdGhlciBidWlsZA==") == (tag == other),
                "{node} has another shim than {tag}'s: {end}"
            );
        }
        ensure!(cluster.ask("upgraded", 8080, "/")? == "hello from wasm\n", "the old pod does not answer");
        let restarts = |pod: &Value| {
            let statuses = pod["status"]["containerStatuses"].as_array().cloned().unwrap_or_default();
            statuses.iter().find(|status| status["name"] == "again").and_then(|status| status["restartCount"].as_u64())
        };
        let count = restarts(&cluster.get(&["pod", "upgraded", "-n", APPS])?);
        let node =
            cluster.get(&["pod", "upgraded", "-n", APPS])?["spec"]["nodeName"].as_str().unwrap_or_default().to_owned();
        let end = "crictl ps -q --name '^again$' | xargs crictl --timeout 60s stop -t 0";
        cluster.on(&node, end)?;
        until("its container is started again", || {
            let pod = cluster.get(&["pod", "upgraded", "-n", APPS])?;
            Ok((restarts(&pod) > count).then_some(()))
        })?;
        crate::workloads::is_ready(cluster, "upgraded")?;
    }
    let after: Vec<String> = cluster.workers().iter().map(|node| started(cluster, node)).collect::<Result<_>>()?;
    ensure!(before == after, "containerd was restarted for a new shim: {before:?} {after:?}");
    load.stop("two upgrades of the shim")?;
    cluster.delete(&[running, loaded, service])
}

fn a_shim_that_does_not_work_stays_on_one_node(cluster: &Cluster) -> Result<()> {
    installed(cluster)?;
    let broken = "0.0.8";
    cluster.load(&installer_of(cluster, broken, b"\x7fELF of no machine".to_vec())?)?;
    let before: Vec<String> = cluster.workers().iter().map(|node| started(cluster, node)).collect::<Result<_>>()?;
    install(cluster, &[&format!("image.tag={broken}")])?;
    let standing = |node: &String| testkit::kit::standing_of(cluster, node);
    let has_failed = |node: &&String| standing(node).is_ok_and(|standing| standing.as_deref() == Some("failed"));
    let workers = cluster.workers();
    let node = until("a node has failed", || Ok(workers.iter().find(has_failed).cloned()))?;
    warned(cluster, &node, "failed, and was taken back")?;
    // The one before runs there again; Wasm pods do not come to it until it is verified.
    cluster.on(&node, "/opt/wasm/bin/containerd-shim-wasm-v1 -v")?;
    let other = workers.iter().find(|other| **other != node).context("two workers")?;
    let image = |pod: &Value| pod["spec"]["containers"][0]["image"].as_str().unwrap_or_default().to_owned();
    let held =
        cluster.kubectl(&["rollout", "status", &format!("daemonset/{INSTALLER}"), "-n", KIT, "--timeout", "25s"]);
    ensure!(held.is_err(), "the rollout went on");
    let pod = pod_on(cluster, other)?.context("no installer")?;
    ensure!(!image(&pod).ends_with(broken), "the other node has the broken one too");
    stands(cluster, other, Some("verified"))?;
    installed(cluster)?;
    let after: Vec<String> = cluster.workers().iter().map(|node| started(cluster, node)).collect::<Result<_>>()?;
    ensure!(before == after, "containerd was restarted for a shim: {before:?} {after:?}");
    Ok(())
}

fn a_configuration_that_breaks_is_taken_back(cluster: &Cluster) -> Result<()> {
    // The node's containerd does not start with our runtime in its configuration.
    cluster.helm(&["uninstall", RELEASE, "-n", KIT, "--timeout", "300s"])?;
    let [node, other] = cluster.workers();
    let unit = "/etc/systemd/system/containerd.service.d/e2e.conf";
    let script = format!(
        "mkdir -p $(dirname {unit}) && printf '[Service]\\nExecStartPre=/bin/sh -c \"! grep -q runtimes.wasm /etc/containerd/config.toml\"\\n' \
         > {unit} && systemctl daemon-reload"
    );
    cluster.on(&node, &script)?;
    let (before, hash) = (starts(cluster, &node)?, config_hash(cluster, &node)?);
    install(cluster, &[])?;
    warned(cluster, &node, "failed, and was taken back")?;
    stands(cluster, &node, Some("failed"))?;
    stands(cluster, &other, Some("verified"))?;
    ensure!(config_hash(cluster, &node)? == hash, "the configuration is not as it was");
    cluster.kubectl(&["wait", "--for", "condition=Ready", &format!("node/{node}"), "--timeout", "60s"])?;
    // A new pod of the installer meets the same inputs, and leaves containerd alone.
    let pod = pod_on(cluster, &node)?.context("no installer")?;
    cluster.kubectl(&["delete", "pod", "-n", KIT, pod["metadata"]["name"].as_str().unwrap_or_default()])?;
    warned(cluster, &node, "not tried again with the same inputs")?;
    let status = pod_on(cluster, &node)?.context("no installer")?["status"]["containerStatuses"][0].clone();
    ensure!(
        status["ready"] == false && status["restartCount"] == 0 && !status["state"]["running"].is_null(),
        "{status}"
    );
    let after = starts(cluster, &node)?;
    ensure!((1..=2).contains(&(after - before)), "containerd was started {} times", after - before);
    cluster.on(&node, &format!("rm {unit} && systemctl daemon-reload && rm /opt/wasm/state/failed.json"))?;
    installed(cluster)
}

fn a_token_labels_its_own_node_only(cluster: &Cluster) -> Result<()> {
    installed(cluster)?;
    let [node, other] = cluster.workers();
    let pod = pod_on(cluster, &node)?.context("no installer")?;
    let (name, uid) =
        (pod["metadata"]["name"].as_str().unwrap_or_default(), pod["metadata"]["uid"].as_str().unwrap_or_default());
    let bound = ["--bound-object-kind", "Pod", "--bound-object-name", name, "--bound-object-uid", uid];
    let token = cluster.kubectl(&[&["create", "token", INSTALLER, "-n", KIT][..], &bound[..]].concat())?;
    let token = format!("--token={}", token.trim());
    // Without the certificate of the administrator, which would go first.
    let view =
        cluster.kubectl(&["config", "view", "--minify", "--raw", "-o", "jsonpath={.clusters[0].cluster.server}"])?;
    let server = format!("--server={view}");
    let nobody = tempfile_kubeconfig()?;
    let as_pod = |args: &[&str]| {
        let config = format!("--kubeconfig={}", nobody.1.display());
        cluster.kubectl(&[&[config.as_str(), &server, "--insecure-skip-tls-verify", &token], args].concat())
    };
    as_pod(&["label", "node", &node, &format!("{LABEL}=pending"), "--overwrite"])?;
    as_pod(&["label", "node", &node, &format!("{LABEL}=verified"), "--overwrite"])?;
    let refused = |args: &[&str], why: &str| {
        let error = as_pod(args).err().with_context(|| format!("{args:?} was allowed"))?.to_string();
        ensure!(error.contains(why), "{error}");
        Ok(())
    };
    refused(&["label", "node", &other, &format!("{LABEL}=pending"), "--overwrite"], "its own node only")?;
    refused(&["label", "node", &node, "e2e=other"], "no label but")?;
    refused(&["annotate", "node", &node, "e2e=other"], "no annotation but")?;
    // Not `kubectl cordon`, which leaves with 0 when it is refused.
    let unschedulable = r#"{"spec":{"unschedulable":true}}"#;
    refused(&["patch", "node", &node, "-p", unschedulable], "does not change what a node is")?;
    let spec = cluster.get(&["node", &node])?["spec"].clone();
    ensure!(spec["unschedulable"] != true, "the node was cordoned: {spec}");
    Ok(())
}

/// A configuration of nobody.
fn tempfile_kubeconfig() -> Result<(tempfile::TempDir, PathBuf)> {
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("kubeconfig");
    fs::write(&path, "apiVersion: v1\nkind: Config\n")?;
    Ok((dir, path))
}

fn uninstall_is_refused_while_pods_run(cluster: &Cluster) -> Result<()> {
    installed(cluster)?;
    let sleeper = guest("sleeper", &["/sleep.wasm"]);
    cluster.apply(std::slice::from_ref(&sleeper))?;
    crate::workloads::is_ready(cluster, "sleeper")?;
    let before = installers(cluster)?;
    let refused = cluster.helm(&["uninstall", RELEASE, "-n", KIT, "--timeout", "120s"]);
    ensure!(refused.is_err(), "the uninstall went through");
    let log = cluster.kubectl(&["logs", "-n", KIT, "-l", "app.kubernetes.io/component=uninstaller", "--tail", "5"])?;
    ensure!(log.contains(&format!("{APPS}/sleeper")), "the pods are not named: {log}");
    ensure!(installers(cluster)? == before, "something was changed before it was refused");
    cluster.workers().iter().try_for_each(|node| stands(cluster, node, Some("verified")))?;
    // Kept after all.
    kept_after_all(cluster)?;
    let deployed = cluster.helm(&["list", "-n", KIT, "--deployed", "-q"])?;
    ensure!(deployed.trim() == RELEASE, "deployed: {deployed:?}");
    installed(cluster)?;
    let refused = cluster.helm(&["uninstall", RELEASE, "-n", KIT, "--timeout", "120s"]);
    ensure!(refused.is_err(), "the second uninstall went through");
    cluster.delete(&[sleeper])?;
    // The same command goes on.
    cluster.helm(&["uninstall", RELEASE, "-n", KIT, "--timeout", "300s"])?;
    cluster.workers().iter().try_for_each(|node| stands(cluster, node, None))
}

fn uninstall_leaves_every_byte_as_it_was(cluster: &Cluster) -> Result<()> {
    installed(cluster)?;
    cluster.helm(&["uninstall", RELEASE, "-n", KIT, "--timeout", "300s"])?;
    for node in cluster.workers() {
        stands(cluster, &node, None)?;
        let hash = config_hash(cluster, &node)?;
        let first = first().lock().expect("no row panics with it").get(&node).cloned();
        ensure!(first.is_none_or(|first| first == hash), "{node}: its configuration is not what it was");
        nothing_on(cluster, &node)?;
    }
    let left = cluster.kubectl(&["get", "all,leases,configmaps,serviceaccounts,roles", "-n", KIT, "-o", "name"])?;
    let left: Vec<_> = left.lines().filter(|line| line.contains(INSTALLER)).collect();
    ensure!(left.is_empty(), "left in {KIT}: {left:?}");
    Ok(())
}

fn pods_are_rejected_without_the_runtime_class(cluster: &Cluster) -> Result<()> {
    let error = cluster.apply(&[guest("rejected", &["/hello.wasm"])]).err().context("the pod was admitted")?;
    ensure!(format!("{error:#}").contains("RuntimeClass \"wasm\" not found"), "{error:#}");
    Ok(())
}
