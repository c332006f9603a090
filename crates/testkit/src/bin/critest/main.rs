//! `critest TOOLS STANDIN SHIM REPORT`: runs critest, of the folder TOOLS, with images made of STANDIN, on a private containerd 2.4, once with runc's handler and
//! once with that of the binary SHIM, and writes what differs to the file REPORT. `test/cri/critest.sh` calls it.
//! It only puts things together: images in `images`, results in `report`.

#![forbid(unsafe_code)]

mod images;
mod report;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::Arc;
use testkit::containerd::{Containerd, OperatorFile, Version};
use testkit::registry::Registry;
use testkit::{leftovers, store};

const USAGE: &str = "usage: critest TOOLS STANDIN SHIM REPORT";
/// How long one run may take.
const LIMIT: &str = "20m";
/// The handlers of containerd's configuration, runc's first.
const HANDLERS: [&str; 2] = ["runc", "wasm"];

/// What is not run, each with its reason.
const SKIPPED: [(&str, &str); 2] = [
    ("public image with digest", "its digest is of an image that only its publisher's registry has"),
    ("should support MaskedPaths", "it masks /bin/ls, which the shell of busybox-static has built in"),
];

/// What runs beside containerd.
struct Programs<'a> {
    /// The folder with critest and crictl.
    tools: &'a Path,
    /// In the images.
    standin: &'a Path,
}

fn main() -> ExitCode {
    match run() {
        Ok(code) => code,
        Err(error) => {
            let causes: Vec<String> = error.chain().map(ToString::to_string).collect();
            eprintln!("critest: {}", causes.join(": "));
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<ExitCode> {
    let words: Vec<PathBuf> = std::env::args_os().skip(1).map(PathBuf::from).collect();
    let [tools, standin, shim, place] = words.as_slice() else {
        anyhow::bail!("{USAGE}");
    };
    let chosen = std::env::var("CRITEST_HANDLERS").unwrap_or_else(|_| HANDLERS.join(" "));
    let mut results = Vec::new();
    for handler in chosen.split_whitespace() {
        let containerd = Containerd::start_for_pods_with(Version::V2_4, shim, OperatorFile::OfTheNode)?;
        results.push((handler.to_owned(), critest(&containerd, &Programs { tools, standin }, handler, place)?));
        containerd.stop().or_else(|error| of_runc(handler, error))?;
        for hierarchy in leftovers::hierarchies() {
            // The parent of the pods' cgroups. Errors say that it is not there, or not empty: another's.
            let _ = fs::remove_dir(hierarchy.join("k8s.io"));
        }
    }
    let text = report::table(&results, &SKIPPED);
    fs::write(place, &text).with_context(|| format!("write {}", place.display()))?;
    print!("{text}");
    let worse = report::worse(&results);
    ensure!(worse.is_empty(), "{} cases pass with runc and not with ours", worse.len());
    Ok(ExitCode::SUCCESS)
}

/// runc leaves the parents of cgroups: that is no failure of a comparison.
fn of_runc(handler: &str, error: anyhow::Error) -> Result<()> {
    if handler == "runc" {
        eprintln!("critest: after runc: {error:#}");
        return Ok(());
    }
    Err(error)
}

/// Lets pods have ports of the node, which the tests ask for: containerd reads the file again when it changes.
fn map_ports(containerd: &Containerd) -> Result<()> {
    let path = containerd.dir().join("net.d/10-pods.conflist");
    let mut network: Value = serde_json::from_slice(&fs::read(&path)?)?;
    let plugins = network["plugins"].as_array_mut().context("a list of plugins")?;
    plugins.push(json!({ "type": "portmap", "capabilities": { "portMappings": true } }));
    store::write_whole(&path, network.to_string().as_bytes())
}

/// One run, with a registry that has all images.
fn critest(
    containerd: &Arc<Containerd>,
    programs: &Programs<'_>,
    handler: &str,
    place: &Path,
) -> Result<Vec<report::Case>> {
    let namespace = containerd.namespace(&format!("critest-{handler}"));
    let registry = Registry::start(&namespace.directory("registry")?)?;
    map_ports(containerd)?;
    registry.behind("_default", "", containerd)?;
    images::push(&registry, programs.standin)?;
    let cri = testkit::cri::Cri::with_program(&namespace, &fs::read(programs.standin)?)?;
    let socket = format!("unix://{}", containerd.socket().display());
    let json = namespace.directory("report")?.join("report.json");
    let log = place.with_extension(format!("{handler}.log"));
    let output = File::create(&log).with_context(|| format!("create {}", log.display()))?;
    let mut command = Command::new(programs.tools.join("critest"));
    command.args(["--config", "/nonexistent", "--runtime-handler", handler]);
    command.args(["--runtime-endpoint", &socket, "--image-endpoint", &socket]);
    command.args(["--ginkgo.no-color", "--ginkgo.seed", "1", "--ginkgo.timeout", LIMIT]);
    command.arg("--ginkgo.json-report").arg(&json);
    for (pattern, _) in SKIPPED {
        command.args(["--ginkgo.skip", pattern]);
    }
    if let Ok(focus) = std::env::var("CRITEST_FOCUS") {
        command.args(["--ginkgo.focus", &focus]);
    }
    eprintln!("critest: {handler}: {}", log.display());
    // It fails if a case does: the report says which.
    command.stdout(output.try_clone()?).stderr(output).status().context("run critest")?;
    fs::write(place.with_extension(format!("{handler}.containerd.log")), containerd.log())?;
    let cases = report::read(&json).with_context(|| format!("no result of {handler}: see {}", log.display()))?;
    let left = cri.ask(&["pods", "--quiet"])?;
    for id in left.lines() {
        eprintln!("critest: {handler} left pod {id}");
        cri.ask(&["rmp", "--force", id])?;
    }
    Ok(cases)
}
