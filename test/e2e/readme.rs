//! The README's first path on a cluster, word for word.

use crate::failures::uninstall;
use anyhow::{Context, Result, ensure};
use std::fs;
use std::process::Command;
use testkit::checkout;
use testkit::cluster::{Cluster, KIT};
use testkit::kit::nothing_on;

/// Where it begins in the README.
const MARK: &str = "<!-- first path -->\n```sh\n";

pub(crate) fn the_first_path_leads_to_an_answer(cluster: &Cluster) -> Result<()> {
    let readme = fs::read_to_string(checkout::root().join("README.md"))?;
    let path = readme.split_once(MARK).and_then(|(_, rest)| rest.split_once("```"));
    let path = path.with_context(|| format!("the README has no {MARK:?}"))?.0;
    // The rows have made it before.
    cluster.kubectl(&["delete", "namespace", KIT, "--timeout", "120s"])?;
    let mut shell = Command::new("bash");
    // Each job is a group of its own, as in a user's shell.
    shell.args(["-emc", path]).current_dir(checkout::root()).env("KIND_CLUSTER_NAME", cluster.name());
    let said = shell.output().context("run bash")?;
    let (out, errors) = (String::from_utf8_lossy(&said.stdout), String::from_utf8_lossy(&said.stderr));
    ensure!(said.status.success(), "{}\n{out}{errors}", said.status);
    ensure!(out.ends_with("hello from rust: /\n"), "{out}{errors}");
    cluster.kubectl(&["delete", "namespace", "wasm-samples", "--timeout", "120s"])?;
    uninstall(cluster)?;
    cluster.workers().iter().try_for_each(|node| nothing_on(cluster, node))
}
