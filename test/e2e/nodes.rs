//! What may be the matter with a node's files.

use crate::Row;
use crate::failures::uninstall;
use crate::rows;
use crate::workloads::{ends, guest};
use anyhow::{Result, ensure};
use testkit::cluster::{Cluster, until};
use testkit::kit::{install, installed, nothing_on, stands, started, warned};

/// Each leaves the release as [`installed`] has it.
pub(crate) const NODES: &[Row] = rows![
    crate::nodes::the_operator_s_file_comes_and_goes,
    crate::nodes::a_record_that_cannot_be_read_stays,
    crate::nodes::uninstall_without_its_backup_takes_only_our_table,
    crate::plain::a_containerd_of_1_7_without_kubernetes_is_served,
    crate::plain::a_containerd_of_2_4_with_imports_is_served,
];

const CONFIG: &str = "/etc/containerd/config.toml";
const STATE: &str = "/opt/wasm/state";

fn the_operator_s_file_comes_and_goes(cluster: &Cluster) -> Result<()> {
    installed(cluster)?;
    let path = "/etc/containerd-shim-wasm/config.toml";
    let before: Vec<String> = cluster.workers().iter().map(|node| started(cluster, node)).collect::<Result<_>>()?;
    install(cluster, &["operatorConfig=defaults.\"limits.timeout\" = \"1s\""])?;
    for node in cluster.workers() {
        until("the node has the file", || cluster.on(&node, &format!("grep -q limits.timeout {path}")).map(Some))?;
        stands(cluster, &node, Some("verified"))?;
    }
    let sleeper = guest("out-of-time", &["/sleep.wasm"]);
    cluster.apply(std::slice::from_ref(&sleeper))?;
    let ended = ends(cluster, "out-of-time", 124)?;
    ensure!(ended["message"].as_str().is_some_and(|said| said.contains("time limit 1s reached")), "{ended}");
    cluster.delete(&[sleeper])?;
    installed(cluster)?;
    for node in cluster.workers() {
        until("the file is gone", || cluster.on(&node, &format!("test ! -e {path}")).map(Some))?;
    }
    let after: Vec<String> = cluster.workers().iter().map(|node| started(cluster, node)).collect::<Result<_>>()?;
    ensure!(before == after, "containerd was restarted for an operator file: {before:?} {after:?}");
    Ok(())
}

fn a_record_that_cannot_be_read_stays(cluster: &Cluster) -> Result<()> {
    installed(cluster)?;
    let [node, other] = cluster.workers();
    let config = cluster.on(&node, &format!("cat {CONFIG}"))?;
    let before = started(cluster, &node)?;
    cluster.on(&node, &format!("cp {STATE}/state.json /root/state.json && echo '{{' >{STATE}/state.json"))?;
    warned(cluster, &node, "state.json is not what wasm-node wrote")?;
    stands(cluster, &node, Some("failed"))?;
    stands(cluster, &other, Some("verified"))?;
    ensure!(cluster.on(&node, &format!("cat {STATE}/state.json"))? == "{\n", "it was written over");
    ensure!(cluster.on(&node, &format!("cat {CONFIG}"))? == config, "the configuration was touched");
    cluster.on(&node, &format!("mv /root/state.json {STATE}/state.json"))?;
    stands(cluster, &node, Some("verified"))?;
    ensure!(started(cluster, &node)? == before, "containerd was restarted");
    Ok(())
}

fn uninstall_without_its_backup_takes_only_our_table(cluster: &Cluster) -> Result<()> {
    installed(cluster)?;
    let [node, other] = cluster.workers();
    let original = cluster.on(&node, &format!("cat {STATE}/config.before"))?;
    ensure!(!original.is_empty() && !original.contains("runtimes.wasm"), "{original}");
    cluster.on(&node, &format!("rm {STATE}/config.before"))?;
    uninstall(cluster)?;
    ensure!(cluster.on(&node, &format!("cat {CONFIG}"))? == original, "more than our table is gone");
    nothing_on(cluster, &node)?;
    nothing_on(cluster, &other)?;
    installed(cluster)
}
