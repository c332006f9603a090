//! What the kernel says about a guest's process: rights, limits, namespaces, descriptors, cgroup.

use crate::Cases;
use crate::output::{component_image_of, image_of};
use anyhow::{Context, Result, ensure};
use serde_json::json;
use std::fs;
use testkit::node::{self, Feature};
use testkit::task::Task;
use testkit::{Namespace, cases, process};

pub(crate) const CASES: Cases = cases![
    crate::confinement::rights_are_dropped,
    crate::confinement::no_foreign_descriptor_is_open,
    crate::confinement::limits_of_the_process_are_set,
    crate::confinement::namespaces_are_its_own,
    crate::confinement::a_network_namespace_is_joined_by_path,
    crate::confinement::limits_of_the_cgroup_are_set,
    crate::confinement::a_cgroup_of_another_container_is_refused,
    crate::confinement::its_mounts_are_those_of_the_spec,
];

fn sleeping(node: &Namespace, change: impl FnOnce(&mut serde_json::Value)) -> Result<Task> {
    let image = image_of(node, "p1_sleep.wat")?;
    let task = node.task(&image).spec(change).create()?;
    task.start_until("sleeping\n")?;
    Ok(task)
}

fn rights_are_dropped(node: &Namespace) -> Result<()> {
    let task = sleeping(node, |spec| {
        spec["process"]["user"] = json!({ "uid": 1000, "gid": 2000, "additionalGids": [3000, 4000] });
        // A runtime that trusts its guest would honour this.
        spec["process"]["noNewPrivileges"] = json!(false);
    })?;
    let status = process::status(task.pid)?;
    let expected = [
        ("Seccomp", "2"),
        ("NoNewPrivs", "1"),
        ("CapInh", "0000000000000000"),
        ("CapPrm", "0000000000000000"),
        ("CapEff", "0000000000000000"),
        ("CapBnd", "0000000000000000"),
        ("CapAmb", "0000000000000000"),
        ("Uid", "1000\t1000\t1000\t1000"),
        ("Gid", "2000\t2000\t2000\t2000"),
        ("Groups", "3000 4000"),
        ("Name", "app.wasm"),
    ];
    for (name, value) in expected {
        ensure!(status[name].trim() == value, "{name} is {:?}, not {value:?}", status[name]);
    }
    // Root of the container has no right either.
    let root = sleeping(node, |_| {})?;
    let status = process::status(root.pid)?;
    ensure!(status["CapEff"] == "0000000000000000" && status["Seccomp"] == "2", "{status:?}");
    task.remove()?;
    root.remove()
}

/// Before start and while the guest runs: stdio, the channel to the shim, the preopens, the mapped code, its event
/// loop. Nothing of containerd, of the shim's service, of another container.
fn no_foreign_descriptor_is_open(node: &Namespace) -> Result<()> {
    let neighbour = sleeping(node, |_| {})?;
    let volume = node.directory("v")?;
    for image in [image_of(node, "p1_sleep.wat")?, component_image_of(node, "p1_sleep.wat")?] {
        let task = node.task(&image).stdin().bind(&volume, "/data", &["rbind", "ro"]).create()?;
        own_descriptors_only(node, &task)?;
        task.start_until("sleeping\n")?;
        own_descriptors_only(node, &task)?;
        task.remove()?;
    }
    neighbour.remove()
}

fn own_descriptors_only(node: &Namespace, task: &Task) -> Result<()> {
    let files = process::files(task.pid)?;
    let fifos = node.containerd().fifos();
    let own_fifo = format!("{}/{}-{}-", fifos.display(), node.name(), task.id);
    let cache = node.containerd().cache().display().to_string();
    let preopens = ["/", "/data", "/run", "/dev/shm"];
    let mut sockets = 0;
    for (number, target) in &files {
        // With its duplicates.
        let stdio = target.starts_with(&own_fifo);
        let code = target.starts_with(&cache);
        let preopen = preopens.contains(&target.as_str());
        let event_loop = ["anon_inode:[eventpoll]", "anon_inode:[eventfd]"].contains(&target.as_str());
        let signals = target.starts_with("pipe:");
        let channel = target.starts_with("socket:");
        let limit = target.ends_with("/memory.limit_in_bytes") || target.ends_with("/memory.max");
        sockets += usize::from(channel);
        ensure!(
            stdio || code || preopen || event_loop || signals || channel || limit,
            "{number} -> {target}: {files:?}"
        );
    }
    ensure!(sockets <= 1, "more sockets than the channel: {files:?}");
    let channel = files.iter().find(|(_, target)| target.starts_with("socket:")).context("no channel")?;
    ensure!(channel.0 == 3, "the channel is {channel:?}");
    Ok(())
}

fn limits_of_the_process_are_set(node: &Namespace) -> Result<()> {
    let task = sleeping(node, |spec| {
        spec["process"]["rlimits"] = json!([
            { "type": "RLIMIT_NOFILE", "soft": 100, "hard": 200 },
            { "type": "RLIMIT_NPROC", "soft": 50, "hard": 60 },
        ]);
        spec["process"]["oomScoreAdj"] = json!(500);
    })?;
    let limits = process::limits(task.pid)?;
    let of = |name: &str| limits.get(name).cloned().with_context(|| name.to_owned());
    ensure!(of("Max open files")? == ("100".to_owned(), "200".to_owned()), "{limits:?}");
    ensure!(of("Max processes")? == ("50".to_owned(), "60".to_owned()), "{limits:?}");
    let score = fs::read_to_string(format!("/proc/{}/oom_score_adj", task.pid))?;
    ensure!(score.trim() == "500", "{score}");
    task.remove()
}

fn namespaces_are_its_own(node: &Namespace) -> Result<()> {
    let task = sleeping(node, |spec| {
        spec["hostname"] = json!("inside");
    })?;
    let of = |pid: &str, kind: &str| fs::read_link(format!("/proc/{pid}/ns/{kind}"));
    for kind in ["pid", "ipc", "uts", "mnt", "net"] {
        ensure!(of(&task.pid.to_string(), kind)? != of("self", kind)?, "{kind} namespace of the node");
    }
    let mut shown = std::process::Command::new("nsenter");
    let shown = shown.args(["--target", &task.pid.to_string(), "--uts", "hostname"]).output()?;
    ensure!(shown.stdout == b"inside\n", "{shown:?}");
    task.remove()
}

fn a_network_namespace_is_joined_by_path(node: &Namespace) -> Result<()> {
    let host = sleeping(node, |_| {})?;
    let path = format!("/proc/{}/ns/net", host.pid);
    let guest = sleeping(node, |spec| {
        spec["linux"]["namespaces"] =
            json!([{ "type": "pid" }, { "type": "mount" }, { "type": "network", "path": path }]);
    })?;
    let of = |task: &Task| fs::read_link(format!("/proc/{}/ns/net", task.pid));
    ensure!(of(&host)? == of(&guest)?, "it is in another network namespace");
    guest.remove()?;
    host.remove()
}

/// By the files of either version of cgroups.
fn limits_of_the_cgroup_are_set(node: &Namespace) -> Result<()> {
    let task = sleeping(node, |spec| {
        spec["linux"]["resources"] = json!({
            "memory": { "limit": 64 << 20 }, "cpu": { "shares": 512, "quota": 50_000, "period": 100_000 }, "pids": { "limit": 7 },
        });
    })?;
    let groups = fs::read_to_string(format!("/proc/{}/cgroup", task.pid))?;
    let own = format!("/{}/{}", node.name(), task.id);
    let expected: &[(&str, &str, &str)] = if Feature::CgroupV2.is_here() {
        &[
            ("", "memory.max", "67108864"),
            ("", "cpu.max", "50000 100000"),
            ("", "pids.max", "7"),
            ("", "cpu.weight", "20"),
        ]
    } else {
        &[
            ("memory", "memory.limit_in_bytes", "67108864"),
            ("cpu", "cpu.shares", "512"),
            ("cpu", "cpu.cfs_quota_us", "50000"),
            ("cpu", "cpu.cfs_period_us", "100000"),
            ("pids", "pids.max", "7"),
        ]
    };
    for (controller, file, value) in expected {
        let mut lines = groups.lines().filter_map(|line| line.split_once(':')).map(|(_, rest)| rest);
        let mine = lines.find(|rest| {
            rest.split_once(':')
                .is_some_and(|(names, path)| names.split(',').any(|name| name == *controller) && path == own)
        });
        ensure!(mine.is_some(), "not in its cgroup of {controller:?}: {groups}");
        let path = node::cgroup(controller, &own).join(file);
        let has = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        ensure!(has.trim() == *value, "{}: {has}", path.display());
    }
    task.remove()
}

fn a_cgroup_of_another_container_is_refused(node: &Namespace) -> Result<()> {
    let task = sleeping(node, |_| {})?;
    let path = format!("/{}/{}", node.name(), task.id);
    let image = image_of(node, "p1_hello.wat")?;
    let draft = node.task(&image).spec(|spec| spec["linux"]["cgroupsPath"] = json!(path));
    draft.refused(&[&format!("{path} exists already"), "a cgroup of its own"])?;
    // Nor is one shared that is below another's, or above.
    let below = node.task(&image).spec(|spec| spec["linux"]["cgroupsPath"] = json!(format!("{path}/kid")));
    if Feature::CgroupV2.is_here() {
        // The kernel gives no limits to what is below a cgroup with processes in it (cgroup-v2, "no internal process").
        below.refused(&[&format!("{path} has processes of its own"), "choose a cgroup elsewhere"])?;
        return task.remove();
    }
    let below = below.create()?;
    ensure!(task.api.state(&task.id)?.status == "RUNNING", "the other container was ended");
    task.kill(9)?;
    task.wait()?;
    let refused = task.api.delete_task(&task.id).expect_err("there is a cgroup below");
    ensure!(refused.message().contains(&format!("{path}/kid was made below the container's")), "{refused}");
    ensure!(below.api.state(&below.id)?.status == "CREATED", "the other container was ended");
    below.remove()?;
    task.remove()
}

fn its_mounts_are_those_of_the_spec(node: &Namespace) -> Result<()> {
    let task = sleeping(node, |_| {})?;
    let table = fs::read_to_string(format!("/proc/{}/mountinfo", task.pid))?;
    let points: Vec<&str> = table.lines().filter_map(|line| line.split(' ').nth(4)).collect();
    ensure!(points == ["/", "/dev/shm", "/run"], "{table}");
    for line in table.lines() {
        let options = line.split(' ').nth(5).unwrap_or_default();
        ensure!(options.contains("nosuid") && options.contains("nodev"), "{line}");
    }
    task.remove()
}
