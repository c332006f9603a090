//! Stopping a container and letting it go on, and what it is said to have used.

use crate::Cases;
use crate::output::image_of;
use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use testkit::api::Api;
use testkit::node::Feature;
use testkit::task::Task;
use testkit::{Namespace, cases, wait};

pub(crate) const CASES: Cases = cases![
    crate::resources::a_paused_guest_does_not_run,
    crate::resources::a_paused_guest_is_killed,
    crate::resources::only_a_running_guest_is_paused,
    crate::resources::use_is_told,
];

fn pause(api: &Api, id: &str) -> Result<()> {
    api.pause(id).context("pause")
}

fn resume(api: &Api, id: &str) -> Result<()> {
    api.resume(id).context("resume")
}

fn spinning(node: &Namespace) -> Result<Task> {
    let image = image_of(node, "p1_spin.wat")?;
    let task = node.task(&image).spec(|spec| {
        spec["linux"]["resources"] = json!({ "memory": { "limit": 64 << 20 }, "pids": { "limit": 7 } });
    });
    let task = task.create()?;
    task.start_until("spinning\n")?;
    Ok(task)
}

/// As `ctr tasks metrics` shows it.
fn metrics(node: &Namespace, task: &Task) -> Result<Value> {
    let output = node.ctr(&["tasks", "metrics", "--format", "json", &task.id])?;
    ensure!(output.code == 0, "{output}");
    serde_json::from_slice(&output.stdout).with_context(|| output.to_string())
}

fn cpu_time(metrics: &Value) -> Result<u64> {
    let time = metrics.pointer("/cpu/usage/total").or_else(|| metrics.pointer("/cpu/usage_usec"));
    time.and_then(Value::as_u64).with_context(|| format!("no processor time in {metrics}"))
}

fn a_paused_guest_does_not_run(node: &Namespace) -> Result<()> {
    let events = node.api()?.events()?;
    let task = spinning(node)?;
    pause(&task.api, &task.id)?;
    ensure!(task.api.state(&task.id)?.status == "PAUSED", "{:?}", task.api.state(&task.id)?);
    let (first, second) = (cpu_time(&metrics(node, &task)?)?, cpu_time(&metrics(node, &task)?)?);
    ensure!(first == second && first > 0, "it ran from {first} to {second} while it was paused");
    resume(&task.api, &task.id)?;
    ensure!(task.api.state(&task.id)?.status == "RUNNING", "{:?}", task.api.state(&task.id)?);
    wait::until("the guest runs again", || Ok((cpu_time(&metrics(node, &task)?)? > second).then_some(())))?;
    let id = task.id.clone();
    task.remove()?;
    let kinds: Vec<String> = events.until(&id, "delete")?.into_iter().map(|event| event.what).collect();
    ensure!(kinds == ["create", "start", "paused", "resumed", "exit", "delete"], "{kinds:?}");
    Ok(())
}

fn a_paused_guest_is_killed(node: &Namespace) -> Result<()> {
    let task = spinning(node)?;
    pause(&task.api, &task.id)?;
    task.kill(9)?;
    let end = task.finish()?;
    ensure!(end.code == 137, "{end:?}");
    node.until_nothing_remains()
}

fn only_a_running_guest_is_paused(node: &Namespace) -> Result<()> {
    let image = image_of(node, "p1_sleep.wat")?;
    let task = node.task(&image).create()?;
    let refused = pause(&task.api, &task.id).expect_err("it is not started");
    ensure!(format!("{refused:#}").contains("is created, which does not allow to pause"), "{refused:#}");
    task.start_until("sleeping\n")?;
    let refused = resume(&task.api, &task.id).expect_err("it is not paused");
    ensure!(format!("{refused:#}").contains("is running, which does not allow to resume"), "{refused:#}");
    pause(&task.api, &task.id)?;
    let refused = pause(&task.api, &task.id).expect_err("it is paused");
    ensure!(format!("{refused:#}").contains("is paused, which does not allow to pause"), "{refused:#}");
    let refused = task.api.delete_task(&task.id).expect_err("it is paused");
    ensure!(refused.message().contains("paused"), "{refused}");
    resume(&task.api, &task.id)?;
    task.remove()
}

fn use_is_told(node: &Namespace) -> Result<()> {
    let task = spinning(node)?;
    // The kernel counts so little memory up within seconds only.
    let metrics = wait::until("the kernel has counted", || {
        let metrics = metrics(node, &task)?;
        let anonymous = metrics.pointer("/memory/rss").or_else(|| metrics.pointer("/memory/anon"));
        Ok(anonymous.and_then(Value::as_u64).is_some_and(|bytes| bytes > 0).then_some(metrics))
    })?;
    let number = |paths: [&str; 2]| {
        let found = paths.into_iter().find_map(|path| metrics.pointer(path)).and_then(Value::as_u64);
        found.with_context(|| format!("no {paths:?} in {metrics}"))
    };
    ensure!(cpu_time(&metrics)? > 0, "{metrics}");
    let of_version_2 = metrics.pointer("/cpu/usage_usec").is_some();
    ensure!(of_version_2 == Feature::CgroupV2.is_here(), "the other version's type: {metrics}");
    ensure!(number(["/memory/usage/limit", "/memory/usage_limit"])? == 64 << 20, "{metrics}");
    let used = number(["/memory/usage/usage", "/memory/usage"])?;
    ensure!((100 << 10..64 << 20).contains(&used), "{used} bytes: {metrics}");
    ensure!(
        number(["/pids/current", "/pids/current"])? == 1 && number(["/pids/limit", "/pids/limit"])? == 7,
        "{metrics}"
    );
    task.remove()
}
