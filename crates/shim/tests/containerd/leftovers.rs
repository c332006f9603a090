//! Nothing stays: after many cycles, after a failed create, after a shim that was killed.

use crate::Cases;
use crate::limits::{limit, update};
use crate::output::image_of;
use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::sys::stat::Mode;
use nix::unistd::{Pid, mkfifo};
use serde_json::json;
use std::fs;
use std::io::{self, ErrorKind};
use std::path::PathBuf;
use std::process::Command;
use std::thread;
use std::time::Duration;
use testkit::guests::{self, Work};
use testkit::node::{Feature, cgroup};
use testkit::{Image, Namespace, cases, process, wait};

pub(crate) const CASES: Cases = cases![
    crate::leftovers::nothing_after_two_hundred_cycles,
    crate::leftovers::nothing_after_the_shim_was_killed_before_start,
    crate::leftovers::nothing_after_the_shim_was_killed_while_running,
    crate::leftovers::nothing_after_the_shim_was_killed_while_paused,
    crate::leftovers::nothing_after_the_shim_was_killed_after_the_exit,
    crate::leftovers::nothing_after_the_shim_was_killed_while_creating,
    crate::leftovers::nothing_after_the_shim_was_killed_while_a_hook_ran,
    crate::leftovers::nothing_after_the_shim_was_killed_after_an_update,
    crate::leftovers::nothing_after_the_shim_was_killed_while_updating,
    crate::leftovers::nothing_after_the_shim_was_killed_while_deleting,
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
    Paused,
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
    if step == Step::Paused {
        task.api.pause(&task.id)?;
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

fn nothing_after_the_shim_was_killed_while_paused(node: &Namespace) -> Result<()> {
    killed_shim(node, Step::Paused)
}

fn nothing_after_the_shim_was_killed_after_the_exit(node: &Namespace) -> Result<()> {
    killed_shim(node, Step::Exited)
}

/// A cgroup above those of the namespace's containers that stops whatever enters it: what a shim waits for then never
/// comes.
struct Gate {
    dir: PathBuf,
}

impl Gate {
    fn shut(namespace: &str) -> Result<Gate> {
        let gate = Gate { dir: cgroup("freezer", namespace) };
        match fs::create_dir(&gate.dir) {
            Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(error.into()),
            _ => {}
        }
        gate.write("FROZEN", "1")?;
        Ok(gate)
    }

    fn open(&self) -> Result<()> {
        match self.write("THAWED", "0") {
            // A delete that went through took it along, perhaps between the open and the write.
            Err(error) if error.kind() == ErrorKind::NotFound || error.raw_os_error() == Some(libc::ENODEV) => Ok(()),
            done => Ok(done?),
        }
    }

    fn write(&self, version_1: &str, version_2: &str) -> io::Result<()> {
        let (file, word) = match Feature::CgroupV2.is_here() {
            true => ("cgroup.freeze", version_2),
            false => ("freezer.state", version_1),
        };
        fs::write(self.dir.join(file), word)
    }

    /// The processes of a container behind it.
    fn held(&self, id: &str) -> Vec<i32> {
        let text = fs::read_to_string(self.dir.join(id).join("cgroup.procs")).unwrap_or_default();
        text.lines().filter_map(|line| line.parse().ok()).collect()
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        // The shim removes it if it was there first.
        let _ = self.open();
        let _ = fs::remove_dir(&self.dir);
    }
}

/// Between fork and ready: the container process stops when it joins its cgroup.
fn nothing_after_the_shim_was_killed_while_creating(node: &Namespace) -> Result<()> {
    let image = image_of(node, "p1_sleep.wat")?;
    let volume = node.directory("v")?;
    let draft = || node.task(&image).bind(&volume, "/missing/in/the/image", &["rbind", "ro"]);
    // Compiled already, so that nothing else takes time.
    draft().create()?.remove()?;
    node.until_nothing_remains()?;
    let gate = Gate::shut(node.name())?;
    let draft = draft();
    let id = draft.id().to_owned();
    let created = thread::scope(|scope| {
        let creating = scope.spawn(|| draft.create());
        let held = wait::until("the container process is forked", || Ok(gate.held(&id).first().copied()));
        let killed = held.and_then(|pid| Ok(kill(Pid::from_raw(process::parent(pid)?), Signal::SIGKILL)?));
        gate.open()?;
        killed.map(|()| creating.join().expect("it returns errors"))
    })?;
    let refused = created.err().context("created without a shim")?;
    drop(gate);
    node.until_nothing_remains().with_context(|| format!("{refused:#}"))?;
    Ok(())
}

/// Between the mounts and ready. The hook waits for a writer that never comes, and would for ever.
fn nothing_after_the_shim_was_killed_while_a_hook_ran(node: &Namespace) -> Result<()> {
    let image = image_of(node, "p1_sleep.wat")?;
    let volume = node.directory("v")?;
    for kind in ["createRuntime", "createContainer"] {
        let fifo = node.directory("hook")?.join("fifo");
        mkfifo(&fifo, Mode::S_IRUSR | Mode::S_IWUSR)?;
        let hook = json!({ "path": "/bin/sh", "args": ["sh", "-c", format!("read -r word <{}", fifo.display())] });
        let draft = node.task(&image).bind(&volume, "/missing/in/the/image", &["rbind", "ro"]);
        let draft = draft.spec(|spec| spec["hooks"][kind] = json!([hook]));
        let (hook, created) = thread::scope(|scope| {
            let creating = scope.spawn(|| draft.create());
            let runs = || Ok(process::mentioning(&fifo.display().to_string()).first().copied());
            let hook = wait::until("the hook runs", runs);
            let killed = hook.and_then(|hook| {
                kill(Pid::from_raw(process::parent(hook)?), Signal::SIGKILL)?;
                Ok(hook)
            });
            let created = creating.join().expect("it returns errors");
            killed.map(|hook| (hook, created))
        })?;
        let refused = created.err().context("created without a shim")?;
        wait::until("the hook ends with the shim", || Ok((!process::exists(hook)).then_some(())))?;
        node.until_nothing_remains().with_context(|| format!("{kind}: {refused:#}"))?;
    }
    Ok(())
}

#[derive(Clone, Copy, PartialEq)]
enum Update {
    Answered,
    /// One after the other, so that the shim is in the middle of one, or between two.
    GoingOn,
}

/// Under version 1 an update may make cgroups that the container had no need of before.
fn killed_updater(node: &Namespace, step: Update) -> Result<()> {
    const MI: u64 = 1 << 20;
    let image = image_of(node, "p1_sleep.wat")?;
    let volume = node.directory("v")?;
    let task = node.task(&image).bind(&volume, "/missing/in/the/image", &["rbind", "ro"]).create()?;
    task.start_until("sleeping\n")?;
    let shim = process::parent(task.pid)?;
    let limits = |mib: u64| {
        let cpu = json!({ "cpus": "0", "shares": 512 });
        json!({ "memory": { "limit": mib * MI }, "cpu": cpu, "pids": { "limit": mib } })
    };
    let kill_shim = || Ok(kill(Pid::from_raw(shim), Signal::SIGKILL)?);
    update(&task, &limits(64))?;
    if step == Update::Answered {
        kill_shim()?;
    } else {
        let (refused, changed) = thread::scope(|scope| {
            // Ended by the shim's end, which comes whatever happens.
            let updating = scope.spawn(|| (65..).find_map(|turn| update(&task, &limits(turn)).err()));
            let changed = wait::until("some updates are through", || {
                let has: u64 = limit(&task, ("pids", "pids.max"), "pids.max")?.parse()?;
                Ok((has > 70).then_some(()))
            });
            let killed = kill_shim();
            (updating.join().expect("it returns errors"), changed.and(killed))
        });
        changed.with_context(|| format!("{refused:?}"))?;
    }
    wait::until("the container process ends with its shim", || Ok((!process::exists(task.pid)).then_some(())))?;
    node.until_nothing_remains()?;
    let _ = task.api.delete_task(&task.id);
    task.api.delete_container(&task.id)?;
    Ok(())
}

fn nothing_after_the_shim_was_killed_after_an_update(node: &Namespace) -> Result<()> {
    killed_updater(node, Update::Answered)
}

fn nothing_after_the_shim_was_killed_while_updating(node: &Namespace) -> Result<()> {
    (0..5).try_for_each(|_| killed_updater(node, Update::GoingOn))
}

/// The shim waits for a process in the container's cgroup that does not end.
fn nothing_after_the_shim_was_killed_while_deleting(node: &Namespace) -> Result<()> {
    const KILLED: u64 = 1 << (Signal::SIGKILL as u64 - 1);
    let image = image_of(node, "p1_sleep.wat")?;
    let task = node.task(&image).create()?;
    let shim = process::parent(task.pid)?;
    task.start_until("sleeping\n")?;
    task.kill(9)?;
    task.wait()?;
    let mut member = Command::new("sleep").arg("3600").spawn()?;
    let pid = member.id().cast_signed();
    fs::write(cgroup("freezer", &format!("{}/{}", node.name(), task.id)).join("cgroup.procs"), pid.to_string())?;
    let gate = Gate::shut(node.name())?;
    let outcome = thread::scope(|scope| {
        let deleting = scope.spawn(|| node.api()?.delete_task(&task.id).map_err(anyhow::Error::from));
        let reached = wait::until("the shim ends what is in the cgroup", || {
            let Ok(status) = process::status(pid) else { return Ok(Some(())) };
            let pending = u64::from_str_radix(&status["ShdPnd"], 16)?;
            // Under version 2 it dies frozen as it is, and the delete may be through.
            Ok((pending & KILLED != 0 || status["State"].starts_with('Z')).then_some(()))
        });
        let _ = kill(Pid::from_raw(shim), Signal::SIGKILL);
        gate.open()?;
        // It may fail, by version; what counts is what is left.
        let _ = deleting.join().expect("it returns errors");
        reached
    });
    member.kill()?;
    member.wait()?;
    outcome?;
    drop(gate);
    node.until_nothing_remains()?;
    let _ = task.api.delete_task(&task.id);
    task.api.delete_container(&task.id)?;
    Ok(())
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
