//! Out of memory: refused by the guest's limit, or killed by the kernel.

use crate::Cases;
use crate::output::{component_image_of, image_of};
use anyhow::{Result, ensure};
use serde_json::json;
use std::fs;
use testkit::task::Finished;
use testkit::{Image, Namespace, cases, guests, wait};

pub(crate) const CASES: Cases = cases![
    crate::memory::a_refused_growth_and_a_trap_are_out_of_memory,
    crate::memory::a_refused_growth_and_a_failure_are_out_of_memory,
    crate::memory::a_refused_growth_that_is_coped_with_is_none,
    crate::memory::the_kernel_kills_at_the_cgroup_limit,
    crate::memory::the_annotation_limits_below_the_cgroup,
    crate::memory::a_garbage_collected_heap_is_counted,
];

const MI: u64 = 1 << 20;

/// Runs a guest in a cgroup of this size; gives its end, the kinds of its events, its termination message.
fn run(node: &Namespace, image: &Image, words: &[&str], limit: u64) -> Result<(Finished, Vec<String>, String)> {
    let file = node.directory("t")?.join("termination-log");
    fs::write(&file, "")?;
    let draft = node.task(image).args(words).bind(&file, "/dev/termination-log", &["rbind", "rw"]);
    let draft = draft.spec(|spec| spec["linux"]["resources"] = json!({ "memory": { "limit": limit } }));
    let events = node.api()?.events()?;
    let task = draft.create()?;
    task.start()?;
    let id = task.id.clone();
    let end = task.finish()?;
    let kinds = events.until(&id, "delete")?.into_iter().map(|event| event.what).collect();
    Ok((end, kinds, fs::read_to_string(&file)?))
}

fn a_refused_growth_and_a_trap_are_out_of_memory(node: &Namespace) -> Result<()> {
    for image in [image_of(node, "p1_grow.c")?, component_image_of(node, "p1_grow.c")?] {
        let (end, events, message) = run(node, &image, &["/app.wasm", "trap"], 64 * MI)?;
        ensure!(end.code == 137, "{end:?}");
        ensure!(events == ["create", "start", "oom", "exit", "delete"], "{events:?}");
        for place in [&end.stderr, &message] {
            ensure!(place.starts_with("memory limit 60Mi reached: raise limits.memory\n"), "{place}");
            ensure!(place.contains("unreachable"), "{place}");
        }
    }
    Ok(())
}

fn a_refused_growth_and_a_failure_are_out_of_memory(node: &Namespace) -> Result<()> {
    let image = image_of(node, "p1_grow.c")?;
    let (end, events, message) = run(node, &image, &["/app.wasm", "exit", "3"], 64 * MI)?;
    ensure!(end.code == 137 && end.stdout.starts_with("refused at "), "{end:?}");
    ensure!(events == ["create", "start", "oom", "exit", "delete"], "{events:?}");
    ensure!(message.starts_with("memory limit 60Mi reached"), "{message}");
    Ok(())
}

fn a_refused_growth_that_is_coped_with_is_none(node: &Namespace) -> Result<()> {
    for image in [image_of(node, "p1_grow.c")?, component_image_of(node, "p1_grow.c")?] {
        let (end, events, message) = run(node, &image, &["/app.wasm", "exit", "0"], 72 * MI)?;
        ensure!(end.code == 0 && end.stderr.is_empty() && message.is_empty(), "{end:?} {message}");
        ensure!(events == ["create", "start", "exit", "delete"], "{events:?}");
    }
    // By a limit that no other case has: the log is the node's.
    let refusal = |line: &&str| line.contains("growth of the guest's memory was refused") && line.contains("70778880");
    let refusals = || node.log().lines().filter(refusal).count();
    wait::until("a line about the refusal in each of two containers", || Ok((refusals() >= 2).then_some(())))?;
    ensure!(refusals() == 2, "{} lines about a refusal in two containers", refusals());
    Ok(())
}

/// Pages of a tmpfs are charged to the cgroup, and no limit of the guest's own memory sees them.
fn the_kernel_kills_at_the_cgroup_limit(node: &Namespace) -> Result<()> {
    let image = image_of(node, "p1_file.c")?;
    let (end, events, message) = run(node, &image, &["/app.wasm", "fill", "/run/big", "40"], 24 * MI)?;
    ensure!(end.code == 137, "{end:?}");
    ensure!(events == ["create", "start", "oom", "exit", "delete"], "{events:?}");
    for place in [&end.stderr, &message] {
        ensure!(place.contains("memory limit 24Mi reached: raise limits.memory"), "{place}");
    }
    Ok(())
}

fn the_annotation_limits_below_the_cgroup(node: &Namespace) -> Result<()> {
    let image = image_of(node, "p1_grow.c")?;
    let run = node.run(&image).annotation("io.containerd.wasm.v1/limits.memory", "32Mi");
    let output = run.args(["/app.wasm", "exit", "0"]).expect(0)?;
    ensure!(output.text() == "refused at 32 MiB\n" || output.text() == "refused at 31 MiB\n", "{output}");
    Ok(())
}

fn a_garbage_collected_heap_is_counted(node: &Namespace) -> Result<()> {
    let image = Image::with_file(&format!("test.local/{}:1", node.fresh("i")), &guests::wat(include_str!("gc.wat"))?);
    node.import(&image)?;
    let limited = || node.run(&image).annotation("io.containerd.wasm.v1/limits.memory", "8Mi");
    // What it makes would not fit if it were kept.
    let output = limited().expect(0)?;
    ensure!(output.text() == "collected\n" && output.errors().is_empty(), "{output}");
    let output = limited().args(["/app.wasm#keep"]).expect(137)?;
    ensure!(output.errors().starts_with("memory limit 8Mi reached: raise limits.memory\n"), "{output}");
    Ok(())
}
