//! What may be the matter with a node's files, and what else may be on it.

use crate::Row;
use crate::failures::uninstall;
use crate::rows;
use crate::workloads::{ends, guest};
use anyhow::{Result, ensure};
use testkit::Image;
use testkit::cluster::{Cluster, until};
use testkit::image::Rootfs;
use testkit::kit::{install, installed, nothing_on, stands, started, warned};

/// Each leaves the release as [`installed`] has it.
pub(crate) const NODES: &[Row] = rows![
    crate::nodes::the_operator_s_file_comes_and_goes,
    crate::nodes::a_record_that_cannot_be_read_stays,
    crate::nodes::uninstall_without_its_backup_takes_only_our_table,
    crate::nodes::a_containerd_of_1_7_without_kubernetes_is_served,
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

/// Another containerd of the node, in a unit of its own: 1.7, with a configuration of version 2 and no kubelet.
fn a_containerd_of_1_7_without_kubernetes_is_served(cluster: &Cluster) -> Result<()> {
    let [node, _] = cluster.workers();
    let at = "/root/plain";
    cluster.on(&node, &format!("mkdir -p {at}/bin {at}/etc {at}/payload"))?;
    let copy = |from: &std::path::Path, to: &str| -> Result<()> {
        cluster.docker(&["cp", &from.display().to_string(), &format!("{node}:{at}/{to}")]).map(drop)
    };
    let bin = testkit::Version::V1_7.bin();
    for program in ["containerd", "containerd-shim-runc-v2", "ctr"] {
        copy(&bin.join(program), &format!("bin/{program}"))?;
    }
    let dir = tempfile::tempdir()?;
    let verify = wat::parse_file(testkit::checkout::root().join("images/node/verify.wat"))?;
    let pause = Image::new("registry.k8s.io/pause:3.8").rootfs(Rootfs::new().file("pause", b"")).entrypoint(["/pause"]);
    pause.write(&dir.path().join("pause.tar"))?;
    std::fs::write(dir.path().join("verify.wasm"), &verify)?;
    copy(&dir.path().join("pause.tar"), "pause.tar")?;
    copy(&dir.path().join("verify.wasm"), "payload/verify.wasm")?;
    for program in ["wasm-node", "containerd-shim-wasm-v1"] {
        std::fs::write(dir.path().join(program), cluster.program(program)?)?;
        copy(&dir.path().join(program), &format!("payload/{program}"))?;
    }
    // An overlay needs another file system than the node's own, which is one.
    let root = "/var/lib/plain";
    let config = format!(
        "# of plain containerd\\nversion = 2\\nroot = \"{root}\"\\nstate = \"/run/plain\"\\n[grpc]\\n  address = \"/run/plain/socket\"\\n"
    );
    let unit = format!(
        "[Service]\\nEnvironment=PATH={at}/bin:/usr/sbin:/usr/bin:/sbin:/bin\\nExecStart={at}/bin/containerd -c {at}/etc/config.toml\\n\
         Type=notify\\nDelegate=yes\\nKillMode=process\\n"
    );
    let begin = format!(
        "chmod 755 {at}/bin/* {at}/payload/wasm-node && printf '{config}' >{at}/etc/config.toml && \
         printf '{unit}' >/run/systemd/system/plain.service && systemctl daemon-reload && systemctl start plain && \
         {at}/bin/ctr -a /run/plain/socket -n k8s.io images import {at}/pause.tar"
    );
    cluster.on(&node, &begin)?;
    let places =
        format!("--config {at}/etc/config.toml --socket /run/plain/socket --unit plain.service --install-dir {at}/opt");
    let wasm_node = |words: &str| cluster.on(&node, &format!("{at}/payload/wasm-node {words} {places} 2>&1"));
    let before = cluster.on(&node, &format!("sha256sum {at}/etc/*"))?;
    let said = wasm_node("install")?;
    ensure!(said.contains("containerd 1.7") || said.contains("containerd v1.7"), "{said}");
    ensure!(said.contains("ran over CRI"), "{said}");
    let wasm = Image::with_file("plain.test/hello:1", &testkit::guests::module("p1_hello.wat")?);
    wasm.write(&dir.path().join("hello.tar"))?;
    copy(&dir.path().join("hello.tar"), "hello.tar")?;
    let ctr = format!("{at}/bin/ctr -a /run/plain/socket");
    cluster.on(&node, &format!("{ctr} images import {at}/hello.tar"))?;
    let run =
        format!("{ctr} run --rm --runtime {at}/opt/bin/containerd-shim-wasm-v1 plain.test/hello:1 hello /app.wasm");
    let hello = cluster.on(&node, &run)?;
    ensure!(hello == "hello from wasm\n", "{hello}");
    wasm_node("verify")?;
    wasm_node("uninstall")?;
    let after = cluster.on(&node, &format!("sha256sum {at}/etc/*; test ! -e {at}/opt"))?;
    ensure!(before == after, "{before} is {after}");
    let end = format!(
        "systemctl stop plain; rm -r /run/systemd/system/plain.service {at} {root} /run/plain; systemctl daemon-reload"
    );
    cluster.on(&node, &end)?;
    // Not in one script, whose own words it would find.
    let left = cluster.on(&node, "pgrep -af '[/]root/plain' || true")?;
    ensure!(left.trim().is_empty(), "{left}");
    Ok(())
}
