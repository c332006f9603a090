//! Cgroups that systemd makes: on nodes that have it.

use crate::Cases;
use crate::limits::update;
use crate::output::image_of;
use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use std::fs;
use std::process::Command;
use testkit::api::{Events, Terminal};
use testkit::image::Rootfs;
use testkit::task::Task;
use testkit::{Image, Namespace, cases, process, wait};

pub(crate) const CASES: Cases = cases![
    crate::systemd::a_scope_has_the_process_and_its_limits,
    crate::systemd::limits_last_through_a_reload,
    crate::systemd::use_is_told_and_a_pause_works,
    crate::systemd::out_of_memory_is_told,
    crate::systemd::the_need_of_a_neighbour_is_not_its_own,
    crate::systemd::a_slice_of_a_pod_is_made,
    crate::systemd::a_scope_that_is_there_is_refused,
    crate::systemd::exec_is_in_the_scope,
    crate::systemd::linux_containers_have_scopes_of_runc_s,
];

const MI: u64 = 1 << 20;

fn systemctl(words: &[&str]) -> Result<String> {
    // By the bus: the answer to a reload gets lost on the private socket.
    let mut systemctl = Command::new("timeout");
    let shown = systemctl.args(["120", "systemctl"]).args(words).env("SYSTEMCTL_FORCE_BUS", "1").output()?;
    ensure!(shown.status.success(), "{words:?}: {shown:?}");
    Ok(String::from_utf8_lossy(&shown.stdout).trim().to_owned())
}

fn property(unit: &str, name: &str) -> Result<String> {
    systemctl(&["show", "--value", "--property", name, unit])
}

/// The unit of a container in this slice, as it is named in the spec, and by systemd.
fn names(node: &Namespace, slice: &str, id: &str) -> (String, String) {
    let prefix = node.name().replace('.', "-");
    (format!("{slice}:{prefix}:{id}"), format!("{prefix}-{id}.scope"))
}

fn sleeping(node: &Namespace, slice: &str, resources: Value) -> Result<(Task, String)> {
    let image = image_of(node, "p1_sleep.wat")?;
    let draft = node.task(&image);
    let (path, unit) = names(node, slice, draft.id());
    let task = draft.spec(|spec| {
        spec["linux"]["cgroupsPath"] = json!(path);
        spec["linux"]["resources"] = resources;
    });
    let task = task.create()?;
    task.start_until("sleeping\n")?;
    Ok((task, unit))
}

/// Deletes the task, and waits until systemd knows nothing of its scope either.
fn remove(node: &Namespace, task: Task, unit: &str) -> Result<()> {
    task.remove()?;
    gone(node, unit)
}

fn gone(node: &Namespace, unit: &str) -> Result<()> {
    forgotten(unit)?;
    node.until_nothing_remains()
}

fn forgotten(unit: &str) -> Result<()> {
    let listed = || systemctl(&["list-units", "--all", "--no-legend", "--plain", unit]);
    wait::until("systemd forgets the scope", || Ok(listed()?.is_empty().then_some(())))
}

fn file(task: &Task, name: &str) -> Result<String> {
    let path = process::cgroup(task.pid, "")?.join(name);
    let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    Ok(text.trim().to_owned())
}

fn a_scope_has_the_process_and_its_limits(node: &Namespace) -> Result<()> {
    let (task, unit) = sleeping(
        node,
        "",
        json!({
            "memory": { "limit": 64 * MI, "swap": 64 * MI, "reservation": 32 * MI },
            "cpu": { "shares": 512, "quota": 50_000, "period": 100_000, "cpus": "0" },
            "pids": { "limit": 7 },
        }),
    )?;
    let groups = fs::read_to_string(format!("/proc/{}/cgroup", task.pid))?;
    ensure!(groups.trim() == format!("0::/system.slice/{unit}"), "{groups}");
    let properties = [
        ("ActiveState", "active"),
        ("MemoryMax", "67108864"),
        ("CPUWeight", "20"),
        ("CPUQuotaPerSecUSec", "500ms"),
        ("TasksMax", "7"),
        ("AllowedCPUs", "0"),
        ("Delegate", "yes"),
    ];
    for (name, value) in properties {
        ensure!(property(&unit, name)? == value, "{name} is {}", property(&unit, name)?);
    }
    let files = [
        ("memory.max", "67108864"),
        ("memory.swap.max", "0"),
        ("memory.low", "33554432"),
        ("cpu.max", "50000 100000"),
        ("cpu.weight", "20"),
        ("cpuset.cpus", "0"),
        ("pids.max", "7"),
        ("cgroup.procs", &task.pid.to_string()),
    ];
    for (name, value) in files {
        ensure!(file(&task, name)? == value, "{name} is {}", file(&task, name)?);
    }
    remove(node, task, &unit)
}

fn limits_last_through_a_reload(node: &Namespace) -> Result<()> {
    let (task, unit) = sleeping(node, "", json!({ "memory": { "limit": 64 * MI } }))?;
    update(
        &task,
        &json!({
            "memory": { "limit": 96 * MI }, "cpu": { "shares": 512, "quota": 20_000, "period": 100_000 }, "pids": { "limit": 9 },
        }),
    )?;
    systemctl(&["daemon-reload"])?;
    // Another unit in the slice has systemd set the limits of all of them again.
    let (other, other_unit) = sleeping(node, "", json!({ "memory": { "limit": 64 * MI } }))?;
    for (name, value) in
        [("memory.max", "100663296"), ("cpu.weight", "20"), ("cpu.max", "20000 100000"), ("pids.max", "9")]
    {
        ensure!(file(&task, name)? == value, "{name} is {}", file(&task, name)?);
    }
    other.remove()?;
    forgotten(&other_unit)?;
    remove(node, task, &unit)
}

fn use_is_told_and_a_pause_works(node: &Namespace) -> Result<()> {
    let (task, unit) = sleeping(node, "", json!({ "memory": { "limit": 64 * MI } }))?;
    let output = node.ctr(&["tasks", "metrics", "--format", "json", &task.id])?;
    let metrics: Value = serde_json::from_slice(&output.stdout).with_context(|| output.to_string())?;
    let number =
        |path: &str| metrics.pointer(path).and_then(Value::as_u64).with_context(|| format!("{path}: {metrics}"));
    ensure!(number("/memory/usage")? > 0 && number("/cpu/usage_usec")? > 0, "{metrics}");
    ensure!(number("/memory/usage_limit")? == 64 * MI && number("/pids/current")? == 1, "{metrics}");
    let ctr = |words: &[&str]| -> Result<()> {
        let output = node.ctr(words)?;
        ensure!(output.code == 0, "{output}");
        Ok(())
    };
    ctr(&["tasks", "pause", &task.id])?;
    ensure!(file(&task, "cgroup.events")?.contains("frozen 1"), "it is not frozen");
    ctr(&["tasks", "resume", &task.id])?;
    ensure!(file(&task, "cgroup.events")?.contains("frozen 0"), "it is still frozen");
    remove(node, task, &unit)
}

/// A container that is given more than its 24 MiB when it starts.
fn filling(node: &Namespace) -> Result<(Task, String)> {
    let image = image_of(node, "p1_file.c")?;
    let draft = node.task(&image).args(["/app.wasm", "fill", "/run/big", "40"]);
    let (path, unit) = names(node, "", draft.id());
    let task = draft.spec(|spec| {
        spec["linux"]["cgroupsPath"] = json!(path);
        spec["linux"]["resources"] = json!({ "memory": { "limit": 24 * MI } });
    });
    Ok((task.create()?, unit))
}

fn kinds_until_delete(events: Events, id: &str) -> Result<Vec<String>> {
    Ok(events.until(id, "delete")?.into_iter().map(|event| event.what).collect())
}

/// systemd may remove the scope before anybody has read what the kernel counted in it.
fn out_of_memory_is_told(node: &Namespace) -> Result<()> {
    for _ in 0..5 {
        let events = node.api()?.events()?;
        let (task, unit) = filling(node)?;
        let id = task.id.clone();
        task.start()?;
        let end = task.finish()?;
        ensure!(end.code == 137 && end.stderr.contains("memory limit 24Mi reached"), "{end:?}");
        let kinds = kinds_until_delete(events, &id)?;
        ensure!(kinds == ["create", "start", "oom", "exit", "delete"], "{kinds:?}");
        gone(node, &unit)?;
    }
    Ok(())
}

fn the_need_of_a_neighbour_is_not_its_own(node: &Namespace) -> Result<()> {
    let events = node.api()?.events()?;
    let (sleeper, unit) = sleeping(node, "", json!({ "memory": { "limit": 24 * MI } }))?;
    let (neighbour, _) = filling(node)?;
    neighbour.start()?;
    ensure!(neighbour.finish()?.code == 137);
    let id = sleeper.id.clone();
    kill(Pid::from_raw(sleeper.pid), Signal::SIGKILL)?;
    let end = sleeper.finish()?;
    ensure!(end.code == 137 && end.stderr.is_empty(), "{end:?}");
    let kinds = kinds_until_delete(events, &id)?;
    ensure!(kinds == ["create", "start", "exit", "delete"], "{kinds:?}");
    gone(node, &unit)
}

fn a_slice_of_a_pod_is_made(node: &Namespace) -> Result<()> {
    let (task, unit) = sleeping(node, "wasmtest-besteffort-pod1.slice", json!({}))?;
    let groups = fs::read_to_string(format!("/proc/{}/cgroup", task.pid))?;
    let slices = "/wasmtest.slice/wasmtest-besteffort.slice/wasmtest-besteffort-pod1.slice";
    ensure!(groups.trim() == format!("0::{slices}/{unit}"), "{groups}");
    remove(node, task, &unit)?;
    systemctl(&["stop", "wasmtest.slice"])?;
    Ok(())
}

fn a_scope_that_is_there_is_refused(node: &Namespace) -> Result<()> {
    let (task, unit) = sleeping(node, "", json!({}))?;
    let (path, _) = names(node, "", &task.id);
    let second = node.task(&image_of(node, "p1_hello.wat")?).spec(|spec| spec["linux"]["cgroupsPath"] = json!(path));
    second.refused(&[&format!("{unit} exists already")])?;
    ensure!(task.api.state(&task.id)?.status == "RUNNING", "the first one was harmed");
    remove(node, task, &unit)
}

fn exec_is_in_the_scope(node: &Namespace) -> Result<()> {
    let (task, unit) = sleeping(node, "system.slice", json!({ "memory": { "limit": 64 * MI } }))?;
    let exec = task.exec(node, &["/app.wasm"], Terminal::None, |_| ())?;
    let pid = exec.start()?;
    exec.stdio.stdout.wait_for("sleeping\n")?;
    let groups = |pid: i32| fs::read_to_string(format!("/proc/{pid}/cgroup"));
    ensure!(groups(pid)? == groups(task.pid)? && groups(pid)?.contains(&unit), "{}", groups(pid)?);
    exec.kill(Signal::SIGKILL as i32)?;
    ensure!(exec.finish()?.0 == 137, "killed");
    remove(node, task, &unit)
}

fn linux_containers_have_scopes_of_runc_s(node: &Namespace) -> Result<()> {
    let busybox = fs::read("/bin/busybox").context("read busybox-static")?;
    let rootfs = Rootfs::new().directory("bin").file("bin/busybox", &busybox).symlink("bin/sh", "busybox");
    let image = Image::new(&format!("test.local/{}:1", node.fresh("i"))).rootfs(rootfs).entrypoint(["/bin/sh"]);
    node.import(&image)?;
    let draft = node.task(&image).args(["/bin/sh", "-c", "echo up; while true; do sleep 1; done"]);
    let (path, unit) = names(node, "system.slice", draft.id());
    let task = draft.spec(|spec| {
        spec["linux"]["cgroupsPath"] = json!(path);
        spec["linux"]["resources"] = json!({ "memory": { "limit": 64 * MI } });
    });
    let task = task.create()?;
    task.start_until("up\n")?;
    ensure!(property(&unit, "MemoryMax")? == (64 * MI).to_string(), "{}", property(&unit, "MemoryMax")?);
    update(&task, &json!({ "memory": { "limit": 96 * MI } }))?;
    ensure!(property(&unit, "MemoryMax")? == (96 * MI).to_string(), "{}", property(&unit, "MemoryMax")?);
    remove(node, task, &unit)
}
