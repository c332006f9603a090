//! containerd killed and started again while tasks run: what runs is not touched, and nothing that happened is lost.
//! On a containerd of their own, since other cases would lose theirs.

use crate::Cases;
use crate::output::image_of;
use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs::{self, File};
use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;
use testkit::task::Task;
use testkit::{Containerd, Image, Namespace, cases, process, wait};

pub(crate) const CASES: Cases = cases![
    crate::restarts::tasks_outlive_a_killed_containerd,
    crate::restarts::the_address_file_leads_back_to_the_shim,
    crate::restarts::a_pod_grows_after_containerd_was_killed,
    crate::restarts::a_shim_that_was_killed_meanwhile_is_cleaned_up,
];

pub(crate) fn own_containerd(node: &Namespace, name: &str) -> Result<(Arc<Containerd>, Namespace)> {
    let containerd = Containerd::start(node.containerd().version(), node.containerd().shim())?;
    let own = containerd.namespace(name);
    Ok((containerd, own))
}

/// A guest that repeats what it is told, and what tells it.
struct Talk {
    task: Task,
    input: File,
}

impl Talk {
    fn begin(task: Task) -> Result<Talk> {
        let input = task.stdio.write_end()?;
        task.start()?;
        let mut talk = Talk { task, input };
        talk.say("before\n")?;
        Ok(talk)
    }

    fn tell(&mut self, line: &str) -> Result<()> {
        Ok(self.input.write_all(line.as_bytes())?)
    }

    fn say(&mut self, line: &str) -> Result<()> {
        self.tell(line)?;
        self.task.stdio.stdout.wait_for(line)
    }

    fn finish(self) -> Result<()> {
        self.task.api.close_stdin(&self.task.id)?;
        drop(self.input);
        let id = self.task.id.clone();
        let end = self.task.finish()?;
        let said = end.stdout.lines().collect::<Vec<_>>();
        ensure!(end.code == 0 && said[..3] == ["before", "during", "after"], "{id}: {end:?}");
        Ok(())
    }
}

fn check(task: &Task, status: &str) -> Result<()> {
    let state = task.api.state(&task.id)?;
    ensure!(state.status == status && state.pid == task.pid, "{} was {}: {state:?}", task.id, task.pid);
    ensure!(task.api.pids(&task.id)? == [task.pid], "{}: {:?}", task.id, task.api.pids(&task.id)?);
    ensure!(process::exists(task.pid), "process {} is gone", task.pid);
    Ok(())
}

fn tasks_outlive_a_killed_containerd(node: &Namespace) -> Result<()> {
    let (containerd, own) = own_containerd(node, "outlive")?;
    let image = image_of(&own, "p1_cat.c")?;
    let log = own.directory("log")?.join("out.log");
    let mut fifo = Talk::begin(own.task(&image).stdin().create()?)?;
    let mut file = Talk::begin(own.task(&image).stdin().log_file(&log).create()?)?;
    let mut paused = Talk::begin(own.task(&image).stdin().create()?)?;
    paused.task.api.pause(&paused.task.id)?;
    let mut created = own.task(&image).args(["/app.wasm", "3"]).create()?;
    let leaving = own.task(&image).stdin().args(["/app.wasm", "7"]).create()?;
    let Talk { task: mut ended, input } = Talk::begin(leaving)?;
    ended.api.close_stdin(&ended.id)?;
    containerd.restart(Signal::SIGKILL, || {
        fifo.say("during\n")?;
        file.say("during\n")?;
        paused.tell("during\n")?;
        drop(input);
        wait::until("the guest has ended", || Ok((!process::exists(ended.pid)).then_some(())))
    })?;
    for task in [&mut fifo.task, &mut file.task, &mut paused.task, &mut created, &mut ended] {
        // Those from before ended with that containerd.
        task.api = own.api()?;
    }
    check(&fifo.task, "RUNNING")?;
    check(&file.task, "RUNNING")?;
    check(&paused.task, "PAUSED")?;
    check(&created, "CREATED")?;
    ensure!(ended.wait()?.code == 7, "{:?}", ended.wait()?);
    let end = ended.finish()?;
    ensure!(end.code == 7 && end.stdout == "before\n", "{end:?}");
    ensure!(paused.task.stdio.stdout.text() == "before\n", "it went on while it was paused");
    paused.task.api.resume(&paused.task.id)?;
    for talk in [&mut fifo, &mut file, &mut paused] {
        talk.say("after\n")?;
    }
    created.start()?;
    let end = created.finish()?;
    ensure!(end.code == 3, "{end:?}");
    for talk in [fifo, file, paused] {
        talk.finish()?;
    }
    let text = fs::read_to_string(&log)?;
    ensure!(text == "before\nduring\nafter\nend of input after 20 bytes\n", "{text:?}");
    let output = own.run(&image_of(&own, "p1_hello.wat")?).expect(0)?;
    ensure!(output.text() == "hello from wasm\n", "{output}");
    own.until_nothing_remains()?;
    containerd.stop()
}

/// The socket that the bundle's file names, as containerd 1.6 and 1.7 read it.
fn socket_of(node: &Namespace, task: &Task) -> Result<PathBuf> {
    let file = node.containerd().bundle(node.name(), &task.id).join("address");
    let address = fs::read_to_string(&file).with_context(|| format!("read {}", file.display()))?;
    let socket = address.strip_prefix("unix://").with_context(|| format!("{}: {address:?}", file.display()))?;
    ensure!(!socket.ends_with('\n'), "{address:?}");
    Ok(PathBuf::from(socket))
}

fn the_address_file_leads_back_to_the_shim(node: &Namespace) -> Result<()> {
    let (containerd, own) = own_containerd(node, "address")?;
    let image = image_of(&own, "p1_sleep.wat")?;
    let pod = own.fresh("pod");
    let in_pod = || own.task(&image).annotation(SANDBOX, &pod).create();
    let mut tasks = [own.task(&image).create()?, in_pod()?, in_pod()?];
    let mut sockets = Vec::new();
    for task in &tasks {
        task.start_until("sleeping\n")?;
        let socket = socket_of(&own, task)?;
        ensure!(process::server_of(&socket)? == process::parent(task.pid)?, "{}: another's socket", task.id);
        sockets.push(socket);
    }
    ensure!(sockets[0] != sockets[1] && sockets[1] == sockets[2], "{sockets:?}");
    containerd.restart(Signal::SIGKILL, || Ok(()))?;
    for (task, socket) in tasks.iter_mut().zip(&sockets) {
        task.api = own.api()?;
        check(task, "RUNNING")?;
        ensure!(socket_of(&own, task)? == *socket, "the file of {} changed", task.id);
    }
    for task in tasks {
        task.remove()?;
    }
    own.until_nothing_remains()?;
    containerd.stop()
}

const SANDBOX: &str = "io.kubernetes.cri.sandbox-id";

/// The next container of a pod finds the pod's shim, which the containerd that is asked did not start.
fn a_pod_grows_after_containerd_was_killed(node: &Namespace) -> Result<()> {
    let (containerd, own) = own_containerd(node, "grows")?;
    let image = image_of(&own, "p1_sleep.wat")?;
    let pod = own.fresh("pod");
    let mut first = own.task(&image).annotation(SANDBOX, &pod).create()?;
    first.start_until("sleeping\n")?;
    containerd.restart(Signal::SIGKILL, || Ok(()))?;
    first.api = own.api()?;
    let second = own.task(&image).annotation(SANDBOX, &pod).create()?;
    second.start_until("sleeping\n")?;
    ensure!(process::parent(first.pid)? == process::parent(second.pid)?, "the pod has two shims");
    first.remove()?;
    check(&second, "RUNNING")?;
    second.remove()?;
    own.until_nothing_remains()?;
    containerd.stop()
}

/// Nobody saw the connection close: the next containerd finds nobody there.
fn a_shim_that_was_killed_meanwhile_is_cleaned_up(node: &Namespace) -> Result<()> {
    let (containerd, own) = own_containerd(node, "dead")?;
    let image: Image = image_of(&own, "p1_sleep.wat")?;
    let volume = own.directory("v")?;
    let task = own.task(&image).bind(&volume, "/missing/in/the/image", &["rbind", "ro"]).create()?;
    task.start_until("sleeping\n")?;
    let shim = process::parent(task.pid)?;
    containerd.restart(Signal::SIGKILL, || {
        kill(Pid::from_raw(shim), Signal::SIGKILL)?;
        wait::until("the container process ends with its shim", || Ok((!process::exists(task.pid)).then_some(())))
    })?;
    own.until_nothing_remains()?;
    let api = own.api()?;
    let _ = api.delete_task(&task.id);
    api.delete_container(&task.id)?;
    drop(task);
    let output = own.run(&image_of(&own, "p1_hello.wat")?).expect(0)?;
    ensure!(output.text() == "hello from wasm\n", "{output}");
    containerd.stop()
}
