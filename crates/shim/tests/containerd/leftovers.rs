//! Nothing stays: after many cycles, after a failed create, after a shim that was killed.

use crate::Cases;
use crate::output::image_of;
use anyhow::{Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::time::Duration;
use testkit::guests::{self, Work};
use testkit::{Image, Namespace, cases, process, wait};

pub(crate) const CASES: Cases = cases![
    crate::leftovers::nothing_after_two_hundred_cycles,
    crate::leftovers::nothing_after_the_shim_was_killed_before_start,
    crate::leftovers::nothing_after_the_shim_was_killed_while_running,
    crate::leftovers::nothing_after_the_shim_was_killed_after_the_exit,
    crate::leftovers::nothing_after_the_shim_was_killed_while_compiling,
    crate::leftovers::a_deleted_id_can_be_used_again,
];

fn nothing_after_two_hundred_cycles(node: &Namespace) -> Result<()> {
    const CYCLES: usize = 200;
    let image = image_of(node, "p1_exit.c")?;
    let volume = node.directory("v")?;
    for cycle in 0..CYCLES {
        let code = u32::try_from(cycle % 256)?;
        let draft = node.task(&image).args(["/app.wasm".to_owned(), code.to_string()]);
        let task = draft.bind(&volume, "/missing/in/the/image", &["rbind", "ro"]).create()?;
        if cycle % 10 == 9 {
            task.remove()?;
            continue;
        }
        task.start()?;
        let end = task.finish()?;
        ensure!(end.code == code, "cycle {cycle}: {end:?}");
    }
    node.until_nothing_remains()
}

#[derive(Clone, Copy, PartialEq)]
enum Step {
    Created,
    Running,
    Exited,
}

/// containerd finds the connection closed, and runs the delete action of the binary.
fn killed_shim(node: &Namespace, step: Step) -> Result<()> {
    let image = image_of(node, "p1_sleep.wat")?;
    let volume = node.directory("v")?;
    let draft = node.task(&image).bind(&volume, "/missing/in/the/image", &["rbind", "ro"]);
    let task = draft.create()?;
    let shim = process::parent(task.pid)?;
    if step != Step::Created {
        task.start_until("sleeping\n")?;
    }
    if step == Step::Exited {
        task.kill(9)?;
        task.wait()?;
    }
    kill(Pid::from_raw(shim), Signal::SIGKILL)?;
    wait::until("the container process ends with its shim", || Ok((!process::exists(task.pid)).then_some(())))?;
    node.until_nothing_remains()?;
    // The task is gone or stopped for containerd, by version; deleting what it still knows must work.
    let _ = task.api.delete_task(&task.id);
    task.api.delete_container(&task.id)?;
    Ok(())
}

fn nothing_after_the_shim_was_killed_before_start(node: &Namespace) -> Result<()> {
    killed_shim(node, Step::Created)
}

fn nothing_after_the_shim_was_killed_while_running(node: &Namespace) -> Result<()> {
    killed_shim(node, Step::Running)
}

fn nothing_after_the_shim_was_killed_after_the_exit(node: &Namespace) -> Result<()> {
    killed_shim(node, Step::Exited)
}

fn nothing_after_the_shim_was_killed_while_compiling(node: &Namespace) -> Result<()> {
    let seed = std::process::id().rotate_left(8) ^ u32::try_from(node.name().len())?;
    let image = Image::with_file("test.local/slow:1", &guests::many_functions(Work::FIVE_MEGABYTES, seed));
    node.import(&image)?;
    let draft = node.task(&image);
    let id = draft.id().to_owned();
    draft.abandon(wait::scaled(Duration::from_millis(500)))?;
    // The server and its compile child, which are forks of the start action.
    let shims = process::mentioning(&format!("-namespace {}", node.name()));
    ensure!(shims.len() >= 2, "no shim that compiles: {shims:?}");
    for shim in shims {
        // The child may have ended with its parent.
        let _ = kill(Pid::from_raw(shim), Signal::SIGKILL);
    }
    node.until_nothing_remains()?;
    node.api()?.delete_container(&id)?;
    let output = node.run(&image).expect(0)?;
    ensure!(output.text() == "compiled\n", "{output}");
    Ok(())
}

fn a_deleted_id_can_be_used_again(node: &Namespace) -> Result<()> {
    let image = image_of(node, "p1_hello.wat")?;
    for _ in 0..3 {
        let output = node.run(&image).named("again").expect(0)?;
        ensure!(output.text() == "hello from wasm\n", "{output}");
    }
    Ok(())
}
