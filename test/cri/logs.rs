//! Logs of containers in the form that the kubelet reads.

use crate::Cases;
use crate::lifecycle::image;
use crate::sandbox::{get, service};
use anyhow::{Result, ensure};
use serde_json::json;
use std::fs;
use testkit::cri::Cri;
use testkit::cri::log::{Entry, Tag, entries};
use testkit::{Namespace, cases, wait};

pub(crate) const CASES: Cases = cases![
    crate::logs::logs_have_the_form_of_cri,
    crate::logs::a_line_of_a_megabyte_arrives_whole,
    crate::logs::stdout_and_stderr_are_apart,
    crate::logs::a_log_that_was_rotated_goes_on,
];

fn logs_have_the_form_of_cri(node: &Namespace) -> Result<()> {
    let hello = image(node, "p1_hello.wat")?;
    let cri = Cri::new(node, &[&hello])?;
    let pod = cri.pod(|_| ())?;
    let container = pod.run(&hello, &["/app.wasm"], |_| ())?;
    container.finish(0)?;
    let log = container.log();
    let line = log.trim_end();
    ensure!(line.ends_with(" stdout F hello from wasm") && log.lines().count() == 1, "{log:?}");
    ensure!(cri.ask(&["logs", &container.id])? == "hello from wasm", "crictl reads it");
    pod.remove()
}

/// In parts, as the kubelet expects it of long lines.
fn a_line_of_a_megabyte_arrives_whole(node: &Namespace) -> Result<()> {
    const LONGEST: usize = 16 << 10;
    let files = image(node, "p1_file.c")?;
    let cri = Cri::new(node, &[&files])?;
    let pod = cri.pod(|_| ())?;
    let volume = node.directory("v")?;
    let line: String = (0..1 << 20).map(|at| char::from(b'a' + (at % 23) as u8)).collect();
    fs::write(volume.join("long"), &line)?;
    let container = pod.run(&files, &["/app.wasm", "read", "/data/long"], |config| {
        config["mounts"] = json!([{ "container_path": "/data", "host_path": volume }]);
    })?;
    let said = container.finish(0)?;
    ensure!(
        said.lines().next() == Some(&line),
        "the line came as {} bytes",
        said.lines().next().unwrap_or_default().len()
    );
    ensure!(said.lines().nth(1) == Some("read /data/long: ok"), "the line after it");
    let entries = entries(&container.log())?;
    ensure!(entries.iter().all(|entry| entry.text.len() <= LONGEST), "an entry is too long");
    let tags: Vec<Tag> = entries.iter().map(|entry| entry.tag).collect();
    ensure!(tags.iter().filter(|tag| **tag == Tag::Full).count() == 2, "{tags:?}");
    ensure!(tags.iter().filter(|tag| **tag == Tag::Partial).count() >= (1 << 20) / LONGEST - 1, "{tags:?}");
    pod.remove()
}

fn stdout_and_stderr_are_apart(node: &Namespace) -> Result<()> {
    let web = service(node)?;
    let cri = Cri::new(node, &[&web])?;
    let pod = cri.pod(|_| ())?;
    let container = pod.run(&web, &["/app.wasm"], |_| ())?;
    wait::until("the service answers", || Ok(get(&pod, "/stdout").ok()))?;
    get(&pod, "/stdout")?;
    let own = |entry: &Entry| entry.text.starts_with("said on");
    let said = wait::until("both are written twice", || {
        let said: Vec<Entry> = entries(&container.log())?.into_iter().filter(own).collect();
        Ok((said.len() == 4).then_some(said))
    })?;
    for entry in said {
        ensure!(entry.text == format!("said on {}", entry.stream) && entry.tag == Tag::Full, "{entry:?}");
    }
    pod.remove()
}

/// As the kubelet does with a large one: it renames the file, and has containerd open another.
fn a_log_that_was_rotated_goes_on(node: &Namespace) -> Result<()> {
    let web = service(node)?;
    let cri = Cri::new(node, &[&web])?;
    let pod = cri.pod(|_| ())?;
    let container = pod.run(&web, &["/app.wasm"], |_| ())?;
    wait::until("the service answers", || Ok(get(&pod, "/stdout").ok()))?;
    wait::until("the log is written", || Ok(container.log().contains("said on stdout").then_some(())))?;
    let status = container.inspect()?;
    let path = status["status"]["logPath"].as_str().unwrap_or_default().to_owned();
    fs::rename(&path, format!("{path}.1"))?;
    cri.ask(&["logs", "--reopen", &container.id])?;
    ensure!(container.log().is_empty(), "the new file is not empty");
    get(&pod, "/stdout")?;
    wait::until("the new file is written", || Ok(container.log().contains("said on stdout").then_some(())))?;
    pod.remove()
}
