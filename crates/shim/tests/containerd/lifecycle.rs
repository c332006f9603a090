//! Create, start, state, wait, delete: the order of events, several clients, calls out of order, calls not built.

use crate::Cases;
use crate::output::image_of;
use anyhow::{Result, bail, ensure};
use containerd_client::services::v1 as services;
use nix::sys::ptrace::{self, Options};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::Pid;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;
use testkit::api::Event;
use testkit::guests::{self, Work};
use testkit::task::Task;
use testkit::{Containerd, Image, Namespace, cases, process, wait};

pub(crate) const CASES: Cases = cases![
    crate::lifecycle::events_come_in_order,
    crate::lifecycle::states_follow_each_other,
    crate::lifecycle::two_clients_wait,
    crate::lifecycle::a_delete_waits_for_the_process,
    crate::lifecycle::a_delete_says_what_it_waits_for,
    crate::lifecycle::a_second_create_is_refused,
    crate::lifecycle::a_second_start_is_refused,
    crate::lifecycle::a_running_task_is_not_deleted,
    crate::lifecycle::stdin_ends_with_close_io,
    crate::lifecycle::calls_not_built_say_so,
    crate::lifecycle::a_create_given_up_leaves_no_half_state,
    crate::lifecycle::an_exit_while_containerd_is_away_is_known,
];

fn events_come_in_order(node: &Namespace) -> Result<()> {
    let image = image_of(node, "p1_exit.c")?;
    let events = node.api()?.events()?;
    let task = node.task(&image).args(["/app.wasm", "7"]).create()?;
    let (id, pid) = (task.id.clone(), task.pid.unsigned_abs());
    task.start()?;
    task.finish()?;
    let event = |what: &str, code| Event { id: id.clone(), what: what.to_owned(), code, pid };
    let expected = [event("create", 0), event("start", 0), event("exit", 7), event("delete", 7)];
    let heard = events.until(&id, "delete")?;
    ensure!(heard == expected, "{heard:?}");
    Ok(())
}

fn states_follow_each_other(node: &Namespace) -> Result<()> {
    let image = image_of(node, "p1_sleep.wat")?;
    let task = node.task(&image).create()?;
    let state = task.api.state(&task.id)?;
    ensure!(state.status == "CREATED" && state.pid == task.pid, "{state:?}");
    ensure!(task.api.pids(&task.id)? == [task.pid], "pids of a created task");
    ensure!(process::exists(task.pid), "no process {}", task.pid);
    ensure!(task.stdio.stdout.text().is_empty(), "the guest ran before start");
    task.start_until("sleeping\n")?;
    let state = task.api.state(&task.id)?;
    ensure!(state.status == "RUNNING" && state.pid == task.pid, "{state:?}");
    ensure!(task.api.pids(&task.id)? == [task.pid], "pids of a running task");
    task.kill(9)?;
    task.wait()?;
    let state = task.api.until_status(&task.id, "STOPPED")?;
    ensure!(state.code == 137, "{state:?}");
    ensure!(!process::exists(task.pid), "process {} is there", task.pid);
    task.remove()
}

fn two_clients_wait(node: &Namespace) -> Result<()> {
    let image = image_of(node, "p1_exit.c")?;
    let task = node.task(&image).args(["/app.wasm", "7"]).create()?;
    let ends = thread::scope(|scope| {
        let waiters = [(); 2].map(|()| scope.spawn(|| -> Result<_> { Ok(node.api()?.wait(&task.id)?) }));
        let started = task.start();
        let ends: Vec<_> = waiters.into_iter().map(|waiter| waiter.join().expect("it returns errors")).collect();
        started.map(|()| ends)
    })?;
    for end in ends {
        let end = end?;
        ensure!(end.code == 7 && end.at_s > 0, "{end:?}");
    }
    // And one who comes late.
    ensure!(task.wait()?.code == 7, "a late wait differs");
    task.finish()?;
    Ok(())
}

fn a_delete_waits_for_the_process(node: &Namespace) -> Result<()> {
    held_at_its_end(node, |task, reap| {
        let (deleted, hears) = mpsc::channel();
        thread::scope(|scope| {
            scope.spawn(|| deleted.send(node.api().map(|api| api.delete_task(&task.id))));
            let early = hears.recv_timeout(Duration::from_millis(500));
            // Before anything fails: the other thread is waited for.
            reap()?;
            ensure!(early.is_err(), "deleted beside its process: {early:?}");
            let end = hears.recv()???;
            ensure!(end.code == 143, "{end:?}");
            Ok(())
        })
    })
}

fn a_delete_says_what_it_waits_for(node: &Namespace) -> Result<()> {
    held_at_its_end(node, |task, reap| {
        let refused = task.api.delete_task(&task.id).expect_err("its process is there");
        let wanted = format!("container {} has ended, and the kernel still holds it", task.id);
        ensure!(refused.message().contains(&wanted), "{refused}");
        reap()?;
        let end = task.api.delete_task(&task.id)?;
        ensure!(end.code == 143, "{end:?}");
        Ok(())
    })
}

/// Runs `body` with a task that has ended and whose process is there until it is reaped: nobody else reaps a process that is
/// traced before its tracer does.
fn held_at_its_end(
    node: &Namespace,
    body: impl FnOnce(&Task, &dyn Fn() -> Result<()>) -> Result<()> + Send,
) -> Result<()> {
    const TERM: i32 = 15;
    let image = image_of(node, "p1_sleep.wat")?;
    let task = node.task(&image).create()?;
    task.start_until("sleeping\n")?;
    let pid = Pid::from_raw(task.pid);
    let held = || {
        ptrace::seize(pid, Options::empty())?;
        task.kill(TERM)?;
        let stopped = waitpid(pid, None)?;
        let WaitStatus::Stopped(_, signal) = stopped else { bail!("{stopped:?}") };
        ptrace::cont(pid, signal)?;
        let ended = task.wait()?;
        ensure!(ended.code == 143 && process::status(task.pid).is_ok(), "{ended:?}");
        body(&task, &|| Ok(waitpid(pid, None).map(drop)?))
    };
    // A thread lets go of what it traces when it ends, also by a failure.
    thread::scope(|scope| scope.spawn(held).join().expect("it returns errors"))?;
    ensure!(!process::all().contains(&task.pid), "process {} is there", task.pid);
    task.api.delete_container(&task.id)?;
    Ok(())
}

fn a_second_create_is_refused(node: &Namespace) -> Result<()> {
    let image = image_of(node, "p1_sleep.wat")?;
    let task = node.task(&image).create()?;
    let again = task.api.create_task(&task.id, None).expect_err("the id is taken");
    ensure!(again.message().contains("already exists"), "{again}");
    task.start_until("sleeping\n")?;
    let again = task.api.create_task(&task.id, None).expect_err("the id is taken");
    ensure!(again.message().contains("already exists"), "{again}");
    ensure!(task.api.state(&task.id)?.status == "RUNNING", "the first one is gone");
    task.remove()
}

fn a_second_start_is_refused(node: &Namespace) -> Result<()> {
    let image = image_of(node, "p1_sleep.wat")?;
    let task = node.task(&image).create()?;
    task.start_until("sleeping\n")?;
    let again = task.api.start(&task.id).expect_err("it runs");
    ensure!(again.message().contains(&format!("container {} is running", task.id)), "{again}");
    task.remove()
}

fn a_running_task_is_not_deleted(node: &Namespace) -> Result<()> {
    let image = image_of(node, "p1_sleep.wat")?;
    let task = node.task(&image).create()?;
    task.start_until("sleeping\n")?;
    let refused = task.api.delete_task(&task.id).expect_err("it runs");
    ensure!(refused.message().contains("running"), "{refused}");
    ensure!(task.api.state(&task.id)?.status == "RUNNING", "it was deleted");
    task.remove()
}

fn stdin_ends_with_close_io(node: &Namespace) -> Result<()> {
    let image = image_of(node, "p1_cat.c")?;
    let task = node.task(&image).stdin().create()?;
    let mut input = task.stdio.write_end()?;
    task.start()?;
    std::io::Write::write_all(&mut input, b"typed")?;
    drop(input);
    // The writer is gone, yet a client may come back: the guest waits.
    task.stdio.stdout.wait_for("typed")?;
    ensure!(task.api.state(&task.id)?.status == "RUNNING", "the guest saw the end before CloseIO");
    task.api.close_stdin(&task.id)?;
    let end = task.finish()?;
    ensure!(end.code == 0 && end.stderr == "end of input after 5 bytes\n", "{end:?}");
    Ok(())
}

fn calls_not_built_say_so(node: &Namespace) -> Result<()> {
    let image = image_of(node, "p1_sleep.wat")?;
    let task = node.task(&image).create()?;
    task.start_until("sleeping\n")?;
    let request = services::CheckpointTaskRequest { container_id: task.id.clone(), ..Default::default() };
    let answer = task.api.tasks(async |mut tasks, api| tasks.checkpoint(api.request(request)).await).err();
    let text = format!("{answer:?}");
    ensure!(text.contains("checkpoint is not built yet"), "{text}");
    ensure!(task.api.state(&task.id)?.status == "RUNNING", "it was harmed");
    task.remove()
}

/// The client goes while its wasm is compiled: what was begun is undone, and the compilation is not lost.
fn a_create_given_up_leaves_no_half_state(node: &Namespace) -> Result<()> {
    let seed = std::process::id().rotate_left(16) ^ u32::try_from(node.name().len())?;
    let wasm = guests::many_functions(Work::FIVE_MEGABYTES, seed);
    let image = Image::with_file("test.local/slow:1", &wasm);
    node.import(&image)?;
    let draft = node.task(&image);
    let id = draft.id().to_owned();
    draft.abandon(wait::scaled(Duration::from_millis(500)))?;
    // The shim ends when it is through; its log has lost its reader by then.
    node.until_nothing_remains()?;
    node.api()?.delete_container(&id)?;
    let before = node.compilations(&wasm);
    let output = node.run(&image).expect(0)?;
    ensure!(output.text() == "compiled\n", "{output}");
    ensure!(node.compilations(&wasm) == before, "it was compiled a second time");
    Ok(())
}

/// On a containerd of its own, since others would lose theirs.
fn an_exit_while_containerd_is_away_is_known(node: &Namespace) -> Result<()> {
    let containerd = Containerd::start(node.containerd().version(), node.containerd().shim())?;
    let own = containerd.namespace("away");
    let image = image_of(&own, "p1_sleep.wat")?;
    let [ended, running] = [own.task(&image).create()?, own.task(&image).create()?];
    for task in [&ended, &running] {
        task.start_until("sleeping\n")?;
    }
    containerd.restart(Signal::SIGTERM, || {
        kill(Pid::from_raw(ended.pid), Signal::SIGTERM)?;
        wait::until("the guest has ended", || Ok((!process::exists(ended.pid)).then_some(())))
    })?;
    let api = own.api()?;
    let end = api.wait(&ended.id)?;
    ensure!(end.code == 143, "{end:?}");
    let state = api.state(&running.id)?;
    ensure!(state.status == "RUNNING" && state.pid == running.pid, "{state:?}");
    // The connections of the tasks are those of the old containerd.
    for id in [&ended.id, &running.id] {
        if api.state(id)?.status == "RUNNING" {
            api.kill(id, 9)?;
            api.wait(id)?;
        }
        api.delete_task(id)?;
        api.delete_container(id)?;
    }
    drop((ended, running));
    own.until_nothing_remains()?;
    containerd.stop()
}
