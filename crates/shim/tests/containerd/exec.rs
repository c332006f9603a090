//! exec in the container of a guest: another wasm of its files, or another export, in the same sandbox.

use crate::Cases;
use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use serde_json::json;
use std::fs;
use testkit::api::Terminal;
use testkit::image::Rootfs;
use testkit::{Image, Namespace, cases, guests, process, wait};

pub(crate) const CASES: Cases = cases![
    crate::exec::another_wasm_of_the_files_runs,
    crate::exec::it_is_in_the_same_sandbox,
    crate::exec::it_is_who_its_spec_says,
    crate::exec::an_export_is_called,
    crate::exec::what_is_no_wasm_is_refused,
    crate::exec::it_ends_with_its_container,
    crate::exec::it_is_ended_by_signals_and_traps,
    crate::exec::events_name_it,
    crate::exec::linux_containers_have_it_too,
];

/// A guest that sleeps, with tools beside it.
fn image(node: &Namespace) -> Result<Image> {
    let mut rootfs = Rootfs::new().file("app.wasm", &guests::module("p1_sleep.wat")?).directory("bin");
    for (name, guest) in [
        ("show", "p1_show.c"),
        ("exit", "p1_exit.c"),
        ("cat", "p1_cat.c"),
        ("trap", "p1_trap.wat"),
        ("file", "p1_file.c"),
        ("sleep", "p1_sleep.wat"),
        ("reactor", "p1_reactor.wat"),
    ] {
        rootfs = rootfs.file(&format!("bin/{name}.wasm"), &guests::module(guest)?);
    }
    let rootfs = rootfs.file("bin/text", b"just text");
    let image = Image::new(&format!("test.local/{}:1", node.fresh("i"))).rootfs(rootfs).entrypoint(["/app.wasm"]);
    node.import(&image)?;
    Ok(image)
}

fn another_wasm_of_the_files_runs(node: &Namespace) -> Result<()> {
    let task = node.task(&image(node)?).create()?;
    task.start_until("sleeping\n")?;
    let show = task.exec(node, &["/bin/show.wasm", "a", "b c"], Terminal::None, |process| {
        process["env"] = json!(["K=v"]);
        process["cwd"] = json!("/bin");
    })?;
    show.start()?;
    let (code, stdout, stderr) = show.finish()?;
    let wanted = "arg 0 [/bin/show.wasm]\narg 1 [a]\narg 2 [b c]\nenv [K=v]\nenv [PWD=/bin]\n";
    ensure!(code == 0 && stdout.starts_with(wanted), "{code} {stdout} {stderr}");
    for wanted in [0, 7, 255] {
        // By PATH, as a shell would.
        let exit = task.exec(node, &["exit.wasm", &wanted.to_string()], Terminal::None, |_| ())?;
        exit.start()?;
        let (code, ..) = exit.finish()?;
        ensure!(code == wanted, "{code}, not {wanted}");
    }
    let cat = task.exec(node, &["/bin/cat.wasm", "3"], Terminal::None, |_| ())?;
    cat.start()?;
    let input = cat.stdio.write_end()?;
    testkit::fifo::write_all(input, b"through exec")?;
    cat.close_stdin()?;
    let (code, stdout, stderr) = cat.finish()?;
    ensure!((code, stdout.as_str()) == (3, "through exec"), "{code} {stdout}");
    ensure!(stderr == "end of input after 12 bytes\n", "{stderr}");
    ensure!(task.api.state(&task.id)?.status == "RUNNING", "the container goes on");
    task.remove()
}

fn it_is_in_the_same_sandbox(node: &Namespace) -> Result<()> {
    let volume = node.directory("volume")?;
    fs::write(volume.join("note"), "read by exec")?;
    let task = node.task(&image(node)?).bind(&volume, "/data", &["rbind", "ro"]).create()?;
    task.start_until("sleeping\n")?;
    let sleep = task.exec(node, &["/bin/sleep.wasm"], Terminal::None, |_| ())?;
    let pid = sleep.start()?;
    sleep.stdio.stdout.wait_for("sleeping\n")?;
    for name in ["cgroup", "ipc", "mnt", "net", "pid", "user", "uts"] {
        let of = |pid: i32| fs::read_link(format!("/proc/{pid}/ns/{name}"));
        ensure!(of(pid)? == of(task.pid)?, "namespace {name}");
    }
    let groups = |pid: i32| fs::read_to_string(format!("/proc/{pid}/cgroup"));
    ensure!(groups(pid)? == groups(task.pid)?, "{} and {}", groups(pid)?, groups(task.pid)?);
    ensure!(fs::read_link(format!("/proc/{pid}/root"))? == fs::read_link(format!("/proc/{}/root", task.pid))?, "root");
    let (own, first) = (process::status(pid)?, process::status(task.pid)?);
    for field in ["NoNewPrivs", "Seccomp", "Seccomp_filters", "CapEff", "CapBnd", "CapPrm", "Threads"] {
        ensure!(own[field] == first[field], "{field}: {} and {}", own[field], first[field]);
    }
    let pids = task.api.pids(&task.id)?;
    ensure!(pids.len() == 2 && pids.contains(&pid) && pids.contains(&task.pid), "{pids:?}");
    let reading = task.exec(node, &["/bin/file.wasm", "read", "/data/note"], Terminal::None, |_| ())?;
    reading.start()?;
    let (code, stdout, stderr) = reading.finish()?;
    ensure!(code == 0 && stdout.contains("read by exec"), "{code} {stdout} {stderr}");
    sleep.kill(Signal::SIGKILL as i32)?;
    ensure!(sleep.finish()?.0 == 137, "killed");
    task.remove()
}

fn it_is_who_its_spec_says(node: &Namespace) -> Result<()> {
    let task = node.task(&image(node)?).create()?;
    task.start_until("sleeping\n")?;
    let sleep = task.exec(node, &["/bin/sleep.wasm"], Terminal::None, |process| {
        process["user"] = json!({ "uid": 1000, "gid": 1001, "additionalGids": [1002] });
        process["rlimits"] = json!([{ "type": "RLIMIT_NOFILE", "soft": 77, "hard": 88 }]);
    })?;
    let pid = sleep.start()?;
    sleep.stdio.stdout.wait_for("sleeping\n")?;
    let status = process::status(pid)?;
    ensure!(status["Uid"].starts_with("1000") && status["Gid"].starts_with("1001"), "{status:?}");
    ensure!(status["Groups"].trim() == "1002", "{status:?}");
    let limits = process::limits(pid)?;
    ensure!(limits["Max open files"] == ("77".to_owned(), "88".to_owned()), "{limits:?}");
    ensure!(process::status(task.pid)?["Uid"].starts_with('0'), "the first process is who it was");
    sleep.kill(Signal::SIGTERM as i32)?;
    ensure!(sleep.finish()?.0 == 143, "ended");
    task.remove()
}

fn an_export_is_called(node: &Namespace) -> Result<()> {
    let image = image(node)?;
    let task = node.task(&image).create()?;
    task.start_until("sleeping\n")?;
    let call = |word: &str| -> Result<(u32, String, String)> {
        let exec = task.exec(node, &[word], Terminal::None, |_| ())?;
        exec.start()?;
        exec.finish()
    };
    let (code, stdout, stderr) = call("/bin/reactor.wasm#greet")?;
    ensure!(code == 0 && stdout == "greeted after initialization\n", "{code} {stdout} {stderr}");
    // The container's own wasm, by the export alone.
    let (code, stdout, stderr) = call("#wake")?;
    ensure!(code == 0 && stdout == "awake\n", "{code} {stdout} {stderr}");
    let absent = task.exec(node, &["#absent"], Terminal::None, |_| ())?;
    let answer = absent.start().err().context("a refusal")?;
    ensure!(answer.message().contains("/app.wasm exports no \"absent\""), "{answer:?}");
    absent.delete()?;
    task.remove()
}

fn what_is_no_wasm_is_refused(node: &Namespace) -> Result<()> {
    let task = node.task(&image(node)?).create()?;
    let early = task.exec(node, &["/bin/show.wasm"], Terminal::None, |_| ()).err();
    let text = format!("{:#}", early.context("exec before start")?);
    ensure!(text.contains("which is created: it has to run"), "{text}");
    task.start_until("sleeping\n")?;
    for word in ["sh", "/bin/text", "/bin/absent.wasm"] {
        let exec = task.exec(node, &[word], Terminal::None, |_| ())?;
        let answer = exec.start().err().context("a refusal")?;
        let wanted = format!("exec needs a .wasm file or #export: {word:?} is not one");
        ensure!(answer.message().contains(&wanted), "wanted {wanted}: {answer:?}");
        exec.delete()?;
    }
    let show = task.exec(node, &["/bin/show.wasm"], Terminal::None, |_| ())?;
    show.start()?;
    let again = format!("{:?}", show.start().err());
    ensure!(again.contains("which does not allow to start"), "{again}");
    show.finish()?;
    ensure!(task.api.state(&task.id)?.status == "RUNNING", "the container goes on");
    task.remove()
}

fn it_ends_with_its_container(node: &Namespace) -> Result<()> {
    let events = node.api()?.events()?;
    let task = node.task(&image(node)?).create()?;
    task.start_until("sleeping\n")?;
    let sleep = task.exec(node, &["/bin/sleep.wasm"], Terminal::None, |_| ())?;
    let pid = sleep.start()?;
    sleep.stdio.stdout.wait_for("sleeping\n")?;
    task.kill(Signal::SIGKILL as i32)?;
    ensure!(sleep.wait()?.code == 137, "it was ended");
    task.wait()?;
    wait::until("its process is gone", || Ok((!process::exists(pid)).then_some(())))?;
    let heard = events.until(&task.id, "exit")?;
    let order: Vec<&str> = heard.iter().map(|event| event.what.as_str()).collect();
    ensure!(order == ["create", "start", "exec-added", "exec-started", "exec-exit", "exit"], "{order:?}");
    sleep.delete()?;
    task.remove()
}

fn it_is_ended_by_signals_and_traps(node: &Namespace) -> Result<()> {
    let task = node.task(&image(node)?).create()?;
    task.start_until("sleeping\n")?;
    let trap = task.exec(node, &["/bin/trap.wasm"], Terminal::None, |_| ())?;
    trap.start()?;
    let (code, _, stderr) = trap.finish()?;
    ensure!(code == 134 && stderr.contains("unreachable"), "{code} {stderr}");
    ensure!(task.api.state(&task.id)?.status == "RUNNING", "the container goes on");
    task.remove()
}

fn events_name_it(node: &Namespace) -> Result<()> {
    let events = node.api()?.events()?;
    let task = node.task(&image(node)?).create()?;
    task.start_until("sleeping\n")?;
    let exit = task.exec(node, &["/bin/exit.wasm", "5"], Terminal::None, |_| ())?;
    let pid = exit.start()?;
    ensure!(exit.finish()?.0 == 5, "its code");
    let heard = events.until(&task.id, "exec-exit")?;
    let of_exec: Vec<_> = heard
        .iter()
        .filter(|event| event.what.starts_with("exec"))
        .map(|event| (event.code, event.pid as i32))
        .collect();
    ensure!(of_exec == [(0, 0), (0, pid), (5, pid)], "{heard:?}");
    task.remove()
}

fn linux_containers_have_it_too(node: &Namespace) -> Result<()> {
    let busybox = fs::read("/bin/busybox").context("read busybox-static")?;
    let rootfs = Rootfs::new().directory("bin").file("bin/busybox", &busybox).symlink("bin/sh", "busybox");
    let image = Image::new(&format!("test.local/{}:1", node.fresh("i"))).rootfs(rootfs).entrypoint(["/bin/sh"]);
    node.import(&image)?;
    let task = node.task(&image).args(["/bin/sh", "-c", "echo up; while true; do sleep 1; done"]).create()?;
    task.start_until("up\n")?;
    let exec =
        task.exec(node, &["/bin/sh", "-c", "cat; echo $K; echo err >&2; exit 9"], Terminal::None, |process| {
            process["env"] = json!(["K=v", "PATH=/bin"]);
        })?;
    exec.start()?;
    testkit::fifo::write_all(exec.stdio.write_end()?, b"typed\n")?;
    exec.close_stdin()?;
    let (code, stdout, stderr) = exec.finish()?;
    ensure!((code, stdout.as_str(), stderr.as_str()) == (9, "typed\nv\n", "err\n"), "{code} {stdout} {stderr}");
    let absent = task.exec(node, &["/bin/absent"], Terminal::None, |_| ())?;
    let text = format!("{:?}", absent.start().err());
    ensure!(text.contains("runc exec") && text.contains("no such file or directory"), "{text}");
    absent.delete()?;
    task.remove()
}
