//! A process of a container killed from outside, at each step: its end is told, and the others go on.

use crate::Cases;
use crate::cache::{artifacts, fresh_image, own_cache, run};
use crate::output::image_of;
use anyhow::{Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs;
use std::thread;
use testkit::guests::{self, Work};
use testkit::task::Task;
use testkit::{Image, Namespace, cases, process, wait};

pub(crate) const CASES: Cases = cases![
    crate::deaths::a_killed_compiler_fails_its_own_create_alone,
    crate::deaths::a_create_after_a_killed_compiler_compiles,
    crate::deaths::a_created_process_killed_is_137,
    crate::deaths::a_running_process_killed_is_137,
    crate::deaths::a_paused_process_killed_is_137,
];

fn slow_image(node: &Namespace) -> Result<(Image, Vec<u8>)> {
    let seed = std::process::id().rotate_left(4) ^ u32::try_from(node.name().len())?;
    let wasm = guests::many_functions(Work::FIVE_MEGABYTES, seed);
    let image = Image::with_file("test.local/slow:1", &wasm);
    node.import(&image)?;
    Ok((image, wasm))
}

/// The compile child of this namespace whose turn it is. Those that wait for it hold no lock.
fn compiling(node: &Namespace) -> Result<i32> {
    wait::until("a compiler works", || {
        let mut children = process::mentioning(&format!("-namespace {}", node.name()));
        children.retain(|pid| process::status(*pid).is_ok_and(|status| status["Name"] == "wasm-compile"));
        Ok(children.into_iter().find(|pid| process::holds_lock(*pid)))
    })
}

fn a_killed_compiler_fails_its_own_create_alone(node: &Namespace) -> Result<()> {
    const COUNT: usize = 3;
    let (image, wasm) = slow_image(node)?;
    let (operator_file, cache) = own_cache(node, "")?;
    let outcomes: Vec<Result<Task>> = thread::scope(|scope| {
        let create = || node.task(&image).operator_file(&operator_file).create();
        let threads: Vec<_> = (0..COUNT).map(|_| scope.spawn(create)).collect();
        let killed = compiling(node).and_then(|pid| Ok(kill(Pid::from_raw(pid), Signal::SIGKILL)?));
        let outcomes = threads.into_iter().map(|thread| thread.join().expect("it returns errors")).collect();
        killed.map(|()| outcomes)
    })?;
    let (tasks, refusals): (Vec<_>, Vec<_>) = outcomes.into_iter().partition(Result::is_ok);
    ensure!(refusals.len() == 1, "{} were refused: {refusals:?}", refusals.len());
    for refusal in refusals {
        let text = format!("{:#}", refusal.expect_err("only errors are here"));
        ensure!(text.contains("/app.wasm: the compiler was killed"), "{text}");
    }
    for task in tasks {
        let task = task?;
        task.start()?;
        let end = task.finish()?;
        ensure!(end.stdout == "compiled\n", "{end:?}");
    }
    ensure!(node.compilations(&wasm) == 1, "{} compilations", node.compilations(&wasm));
    ensure!(artifacts(&cache)?.len() == 1, "{:?}", artifacts(&cache)?);
    ensure!(fs::read_dir(cache.join("tmp"))?.next().is_none(), "a file stays in tmp");
    node.until_nothing_remains()
}

fn a_create_after_a_killed_compiler_compiles(node: &Namespace) -> Result<()> {
    let (image, wasm) = slow_image(node)?;
    let (operator_file, cache) = own_cache(node, "")?;
    let parts = ["/app.wasm: the compiler was killed", "free some, try again"];
    thread::scope(|scope| {
        let creating = scope.spawn(|| node.task(&image).operator_file(&operator_file).refused(&parts));
        let killed = compiling(node).and_then(|pid| Ok(kill(Pid::from_raw(pid), Signal::SIGKILL)?));
        let refused = creating.join().expect("it returns errors");
        killed.and(refused)
    })?;
    node.until_nothing_remains()?;
    ensure!(artifacts(&cache)?.is_empty(), "half of an artifact stays");
    ensure!(fs::read_dir(cache.join("tmp"))?.next().is_none(), "a file stays in tmp");
    run(node, &image, &operator_file)?;
    ensure!(node.compilations(&wasm) == 1, "{} compilations", node.compilations(&wasm));
    // And so for others.
    let (other, _) = fresh_image(node, "other")?;
    run(node, &other, &operator_file)
}

#[derive(Clone, Copy, PartialEq)]
enum Step {
    Created,
    Running,
    Paused,
}

fn killed_process(node: &Namespace, step: Step) -> Result<()> {
    let events = node.api()?.events()?;
    let image = image_of(node, "p1_sleep.wat")?;
    let volume = node.directory("v")?;
    let task = node.task(&image).bind(&volume, "/missing/in/the/image", &["rbind", "ro"]).create()?;
    if step != Step::Created {
        task.start_until("sleeping\n")?;
    }
    if step == Step::Paused {
        task.api.pause(&task.id)?;
    }
    kill(Pid::from_raw(task.pid), Signal::SIGKILL)?;
    if step == Step::Paused {
        // Under cgroup version 1 a frozen process dies when it goes on; under version 2 it is dead by now.
        let _ = task.kill(9);
    }
    let ended = task.wait()?;
    ensure!(ended.code == 137, "{ended:?}");
    let state = task.api.until_status(&task.id, "STOPPED")?;
    ensure!(state.code == 137, "{state:?}");
    let refused = task.api.start(&task.id).expect_err("it has ended");
    ensure!(refused.message().contains("is stopped, which does not allow to start"), "{refused}");
    let id = task.id.clone();
    let end = task.finish()?;
    ensure!(end.code == 137, "{end:?}");
    let exits: Vec<u32> =
        events.until(&id, "delete")?.iter().filter(|event| event.what == "exit").map(|event| event.code).collect();
    ensure!(exits == [137], "{exits:?}");
    node.until_nothing_remains()
}

fn a_created_process_killed_is_137(node: &Namespace) -> Result<()> {
    killed_process(node, Step::Created)
}

fn a_running_process_killed_is_137(node: &Namespace) -> Result<()> {
    killed_process(node, Step::Running)
}

fn a_paused_process_killed_is_137(node: &Namespace) -> Result<()> {
    killed_process(node, Step::Paused)
}
