//! Kill, before start, while the guest runs and after it has ended.

use crate::Cases;
use crate::output::{component_image_of, image_of};
use anyhow::{Context, Result, ensure};
use serde_json::json;
use testkit::{Image, Namespace, cases, process};

pub(crate) const CASES: Cases = cases![
    crate::signals::kill_before_start,
    crate::signals::kill_in_the_pid_namespace,
    crate::signals::kill_a_guest_that_spins,
    crate::signals::kill_a_guest_that_waits_for_input,
    crate::signals::kill_after_exit,
    crate::signals::kill_all,
    crate::signals::an_unknown_signal_is_refused,
];

const KILL: i32 = 9;
const TERM: i32 = 15;
/// By its exit code.
const ENDS: [(i32, u32); 2] = [(TERM, 143), (KILL, 137)];

fn sleepers(node: &Namespace) -> Result<[Image; 2]> {
    Ok([image_of(node, "p1_sleep.wat")?, component_image_of(node, "p1_sleep.wat")?])
}

fn kill_before_start(node: &Namespace) -> Result<()> {
    let image = image_of(node, "p1_sleep.wat")?;
    for (signal, code) in ENDS {
        let events = node.api()?.events()?;
        let task = node.task(&image).create()?;
        task.kill(signal)?;
        let ended = task.wait()?;
        ensure!(ended.code == code, "{ended:?}");
        task.api.until_status(&task.id, "STOPPED")?;
        let refused = task.api.start(&task.id).expect_err("it has ended");
        ensure!(refused.message().contains("stopped"), "{refused}");
        let id = task.id.clone();
        let end = task.finish()?;
        ensure!(end.stdout.is_empty() && end.stderr.is_empty(), "{end:?}");
        let kinds: Vec<String> = events.until(&id, "delete")?.into_iter().map(|event| event.what).collect();
        ensure!(kinds == ["create", "exit", "delete"], "{kinds:?}");
    }
    Ok(())
}

/// As process 1 of its namespace, which the kernel would let ignore TERM.
pub(crate) fn kill_while_running(node: &Namespace) -> Result<()> {
    for image in sleepers(node)? {
        for (signal, code) in ENDS {
            let task = node.task(&image).create()?;
            task.start_until("sleeping\n")?;
            let inner = process::status(task.pid)?;
            let last = inner["NSpid"].split_whitespace().last().context("a pid")?.to_owned();
            ensure!(last == "1", "not process 1 of its namespace: {last}");
            task.kill(signal)?;
            let end = task.finish()?;
            ensure!(end.code == code && end.stderr.is_empty(), "{end:?}");
        }
    }
    Ok(())
}

fn kill_in_the_pid_namespace(node: &Namespace) -> Result<()> {
    let image = image_of(node, "p1_sleep.wat")?;
    for (signal, code) in ENDS {
        let task = node
            .task(&image)
            .spec(|spec| {
                spec["linux"]["namespaces"] = json!([{ "type": "mount" }, { "type": "ipc" }, { "type": "uts" }]);
            })
            .create()?;
        task.start_until("sleeping\n")?;
        task.kill(signal)?;
        let end = task.finish()?;
        ensure!(end.code == code, "{end:?}");
    }
    Ok(())
}

fn kill_a_guest_that_spins(node: &Namespace) -> Result<()> {
    for image in [image_of(node, "p1_spin.wat")?, component_image_of(node, "p1_spin.wat")?] {
        let task = node.task(&image).create()?;
        task.start_until("spinning\n")?;
        task.kill(TERM)?;
        let end = task.finish()?;
        ensure!(end.code == 143, "{end:?}");
    }
    Ok(())
}

fn kill_a_guest_that_waits_for_input(node: &Namespace) -> Result<()> {
    for image in [image_of(node, "p1_cat.c")?, component_image_of(node, "p1_cat.c")?] {
        let task = node.task(&image).stdin().create()?;
        let mut input = task.stdio.write_end()?;
        task.start()?;
        std::io::Write::write_all(&mut input, b"some")?;
        task.stdio.stdout.wait_for("some")?;
        task.kill(TERM)?;
        let end = task.finish()?;
        ensure!(end.code == 143 && end.stdout == "some", "{end:?}");
    }
    Ok(())
}

fn kill_after_exit(node: &Namespace) -> Result<()> {
    let image = image_of(node, "p1_hello.wat")?;
    let task = node.task(&image).create()?;
    task.start()?;
    task.wait()?;
    task.api.until_status(&task.id, "STOPPED")?;
    for signal in [TERM, KILL] {
        // NotFound is what clients take for "it is over".
        let refused = task.api.kill(&task.id, signal).expect_err("it has ended");
        ensure!(refused.code() as i32 == 5, "{refused:?}");
    }
    let end = task.finish()?;
    ensure!(end.code == 0, "{end:?}");
    Ok(())
}

fn kill_all(node: &Namespace) -> Result<()> {
    let image = image_of(node, "p1_sleep.wat")?;
    let task = node.task(&image).create()?;
    task.start_until("sleeping\n")?;
    task.api.kill_all(&task.id, KILL)?;
    let end = task.finish()?;
    ensure!(end.code == 137, "{end:?}");
    Ok(())
}

fn an_unknown_signal_is_refused(node: &Namespace) -> Result<()> {
    let image = image_of(node, "p1_sleep.wat")?;
    let task = node.task(&image).create()?;
    task.start_until("sleeping\n")?;
    let refused = task.api.kill(&task.id, 200).expect_err("there is no signal 200");
    ensure!(refused.message().contains("200"), "{refused}");
    ensure!(task.api.state(&task.id)?.status == "RUNNING", "it ended");
    task.remove()
}
