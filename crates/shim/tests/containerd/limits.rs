//! Limits of the cgroup: set at creation, changed while the guest runs, refused where they cannot be.

use crate::Cases;
use crate::output::{component_image_of, image_of};
use anyhow::{Context, Result, ensure};
use containerd_client::services::v1 as services;
use serde_json::{Value, json};
use std::fs;
use std::io::Write;
use testkit::node::{self, Feature};
use testkit::task::Task;
use testkit::{Namespace, cases, process, wait};

pub(crate) const CASES: Cases = cases![
    crate::limits::sets_swap_and_devices_are_bound,
    crate::limits::files_of_version_2_are_for_version_2,
    crate::limits::what_the_node_cannot_keep_is_logged,
    crate::limits::limits_that_cannot_be_are_refused,
    crate::limits::an_oom_score_is_set_or_its_refusal_logged,
    crate::limits::a_guest_out_of_time_is_ended,
    crate::limits::a_guest_out_of_fuel_traps,
    crate::limits::an_update_changes_the_cgroup,
    crate::limits::an_update_reaches_the_guest,
    crate::limits::an_update_that_cannot_be_is_refused,
    crate::limits::an_update_that_the_kernel_refuses_keeps_none_from_the_next,
];

const MI: u64 = 1 << 20;

fn sleeping(node: &Namespace, resources: Value) -> Result<Task> {
    let image = image_of(node, "p1_sleep.wat")?;
    let task = node.task(&image).spec(|spec| spec["linux"]["resources"] = resources).create()?;
    task.start_until("sleeping\n")?;
    Ok(task)
}

pub(crate) fn update(task: &Task, resources: &Value) -> Result<()> {
    let resources = prost_types::Any {
        type_url: "types.containerd.io/opencontainers/runtime-spec/1/LinuxResources".to_owned(),
        value: resources.to_string().into_bytes(),
    };
    let request =
        services::UpdateTaskRequest { container_id: task.id.clone(), resources: Some(resources), ..Default::default() };
    task.api.tasks(async |mut tasks, api| tasks.update(api.request(request)).await).context("update")?;
    Ok(())
}

/// A file of the cgroup that the task is in: of version 1, or of version 2.
pub(crate) fn limit(task: &Task, version_1: (&str, &str), version_2: &str) -> Result<String> {
    node::limit(task.pid, version_1, version_2)
}

fn check(task: &Task, version_1: (&str, &str, &str), version_2: (&str, &str)) -> Result<()> {
    let (controller, file, one) = version_1;
    let wanted = if Feature::CgroupV2.is_here() { version_2.1 } else { one };
    let has = limit(task, (controller, file), version_2.0)?;
    ensure!(has == wanted, "{file} or {}: {has}, not {wanted}", version_2.0);
    Ok(())
}

fn sets_swap_and_devices_are_bound(node: &Namespace) -> Result<()> {
    let root = fs::metadata("/")?;
    let device = std::os::linux::fs::MetadataExt::st_dev(&root);
    let (major, minor) = (nix::sys::stat::major(device), nix::sys::stat::minor(device));
    let throttle = json!([{ "major": major, "minor": minor, "rate": 1 << 20 }]);
    let task = sleeping(
        node,
        json!({
            "memory": { "limit": 64 * MI, "swap": 80 * MI, "reservation": 32 * MI },
            "cpu": { "cpus": "0", "mems": "0" },
            "blockIO": { "throttleWriteBpsDevice": throttle },
        }),
    )?;
    check(&task, ("memory", "memory.memsw.limit_in_bytes", "83886080"), ("memory.swap.max", "16777216"))?;
    check(&task, ("memory", "memory.soft_limit_in_bytes", "33554432"), ("memory.low", "33554432"))?;
    check(&task, ("cpuset", "cpuset.cpus", "0"), ("cpuset.cpus", "0"))?;
    check(&task, ("cpuset", "cpuset.mems", "0"), ("cpuset.mems", "0"))?;
    let status = process::status(task.pid)?;
    ensure!(status["Cpus_allowed_list"] == "0", "{}", status["Cpus_allowed_list"]);
    let io = limit(&task, ("blkio", "blkio.throttle.write_bps_device"), "io.max")?;
    ensure!(io.contains(&format!("{major}:{minor}")) && io.contains("1048576"), "{io}");
    task.remove()?;
    node.until_nothing_remains()
}

fn files_of_version_2_are_for_version_2(node: &Namespace) -> Result<()> {
    let image = image_of(node, "p1_sleep.wat")?;
    let resources = json!({ "unified": { "memory.high": "50331648" } });
    let draft = node.task(&image).spec(|spec| spec["linux"]["resources"] = resources);
    if !Feature::CgroupV2.is_here() {
        return draft.refused(&["linux.resources.unified names memory.high", "cgroup version 1"]);
    }
    let task = draft.create()?;
    ensure!(limit(&task, ("", ""), "memory.high")? == "50331648", "memory.high is not set");
    task.remove()
}

fn what_the_node_cannot_keep_is_logged(node: &Namespace) -> Result<()> {
    // No kernel has pages of this size, and CRI sends a limit for each size that there is.
    let resources = json!({ "hugepageLimits": [{ "pageSize": "3MB", "limit": 0 }], "memory": { "swappiness": 1 } });
    let task = sleeping(node, resources)?;
    node.until_logged(&[&task.id, "memory.swappiness is not applied"])?;
    let words = ["huge pages are not applied", "hugetlb.3MB"];
    let told = |line: &str| line.contains(&task.id) && words.iter().any(|words| line.contains(words));
    wait::until("a word about huge pages", || Ok(node.log().lines().any(told).then_some(())))?;
    task.remove()
}

fn limits_that_cannot_be_are_refused(node: &Namespace) -> Result<()> {
    let image = image_of(node, "p1_hello.wat")?;
    let refused = |resources: Value, parts: &[&str]| {
        node.task(&image).spec(|spec| spec["linux"]["resources"] = resources).refused(parts)
    };
    refused(json!({ "cpu": { "cpus": "4000" } }), &["cpuset.cpus", "write 4000"])?;
    refused(json!({ "memory": { "limit": 2, "swap": 1 } }), &["memory.swap is 1", "below the memory limit 2"])?;
    refused(json!({ "unified": { "../x.y": "1" } }), &["unified names \"../x.y\""])?;
    node.until_nothing_remains()
}

fn an_update_changes_the_cgroup(node: &Namespace) -> Result<()> {
    let task = sleeping(node, json!({ "memory": { "limit": 64 * MI, "swap": 64 * MI }, "pids": { "limit": 7 } }))?;
    // Up, where memory and swap have to go first; then down.
    for mib in [128, 96] {
        update(
            &task,
            &json!({
                "memory": { "limit": mib * MI, "swap": mib * MI },
                "cpu": { "shares": 512, "quota": 50_000, "period": 100_000, "cpus": "1" },
            }),
        )?;
        let bytes = (mib * MI).to_string();
        check(&task, ("memory", "memory.limit_in_bytes", &bytes), ("memory.max", &bytes))?;
        check(&task, ("memory", "memory.memsw.limit_in_bytes", &bytes), ("memory.swap.max", "0"))?;
        check(&task, ("cpu", "cpu.cfs_quota_us", "50000"), ("cpu.max", "50000 100000"))?;
        check(&task, ("cpu", "cpu.shares", "512"), ("cpu.weight", "20"))?;
        // What the update leaves out stays.
        check(&task, ("pids", "pids.max", "7"), ("pids.max", "7"))?;
        let allowed = process::status(task.pid)?["Cpus_allowed_list"].clone();
        ensure!(allowed == "1", "it runs on {allowed}");
    }
    update(&task, &json!({ "cpu": { "quota": -1 }, "pids": { "limit": -1 } }))?;
    check(&task, ("cpu", "cpu.cfs_quota_us", "-1"), ("cpu.max", "max 100000"))?;
    check(&task, ("pids", "pids.max", "max"), ("pids.max", "max"))?;
    task.remove()?;
    node.until_nothing_remains()
}

fn an_update_reaches_the_guest(node: &Namespace) -> Result<()> {
    let image = image_of(node, "p1_regrow.c")?;
    let limited = |mib: u64| json!({ "memory": { "limit": mib * MI } });
    let task = node.task(&image).stdin().spec(|spec| spec["linux"]["resources"] = limited(32)).create()?;
    let mut input = task.stdio.write_end()?;
    task.start_until("ready\n")?;
    for (turn, (mib, room)) in [(32, 28), (128, 120), (64, 120), (192, 180)].into_iter().enumerate() {
        update(&task, &limited(mib))?;
        input.write_all(b"\n")?;
        let said = said(&task, turn + 1)?;
        // It takes whole mebibytes on top of what it starts with.
        let wanted = [room, room - 1].map(|mib| format!("{mib} MiB"));
        ensure!(wanted.contains(&said), "{said} in a cgroup of {mib} MiB, not one of {wanted:?}");
    }
    drop(input);
    task.api.close_stdin(&task.id)?;
    let end = task.finish()?;
    ensure!(end.code == 0, "{end:?}");
    Ok(())
}

/// What the guest says at its turn, which is how far it has grown.
fn said(task: &Task, turn: usize) -> Result<String> {
    wait::until("the guest has grown", || {
        let text = task.stdio.stdout.text();
        Ok(text.lines().nth(turn).filter(|line| line.ends_with("MiB")).map(str::to_owned))
    })
}

fn an_update_that_cannot_be_is_refused(node: &Namespace) -> Result<()> {
    let task = sleeping(node, json!({ "memory": { "limit": 64 * MI } }))?;
    refused(&task, &json!({ "cpu": { "cpus": "x" } }), &["linux.resources.cpu.cpus"])?;
    refused(&task, &json!({ "pids": { "limit": "x" } }), &["the resources of the update are not valid"])?;
    check(&task, ("memory", "memory.limit_in_bytes", "67108864"), ("memory.max", "67108864"))?;
    task.kill(9)?;
    task.wait()?;
    refused(&task, &json!({ "pids": { "limit": 7 } }), &["has ended"])?;
    task.remove()
}

fn an_update_that_the_kernel_refuses_keeps_none_from_the_next(node: &Namespace) -> Result<()> {
    let image = image_of(node, "p1_regrow.c")?;
    let limited = |mib: u64| json!({ "memory": { "limit": mib * MI } });
    let task = node.task(&image).stdin().spec(|spec| spec["linux"]["resources"] = limited(32)).create()?;
    let mut input = task.stdio.write_end()?;
    task.start_until("ready\n")?;
    let mut grown = |turn: usize, room: u64| -> Result<()> {
        input.write_all(b"\n")?;
        let said = said(&task, turn)?;
        let wanted = [room, room - 1].map(|mib| format!("{mib} MiB"));
        ensure!(wanted.contains(&said), "turn {turn}: {said}, not one of {wanted:?}");
        Ok(())
    };
    grown(1, 28)?;
    // No node has so many processors.
    refused(&task, &json!({ "cpu": { "cpus": "4000" } }), &[&task.id, "write 4000 to", "cpuset.cpus"])?;
    if !Feature::CgroupV2.is_here() {
        // Less than the process has touched. Version 2 would make room by killing it.
        let parts = [&task.id, "write 65536 to", "memory.limit_in_bytes", "busy"];
        refused(&task, &json!({ "memory": { "limit": 65536 } }), &parts)?;
    }
    ensure!(task.api.state(&task.id)?.status == "RUNNING", "{:?}", task.api.state(&task.id)?);
    check(&task, ("memory", "memory.limit_in_bytes", "33554432"), ("memory.max", "33554432"))?;
    grown(2, 28)?;
    update(&task, &limited(128))?;
    grown(3, 120)?;
    update(&task, &json!({ "cpu": { "cpus": "1" } }))?;
    let allowed = process::status(task.pid)?["Cpus_allowed_list"].clone();
    ensure!(allowed == "1", "it runs on {allowed}");
    drop(input);
    task.api.close_stdin(&task.id)?;
    let end = task.finish()?;
    ensure!(end.code == 0, "{end:?}");
    node.until_nothing_remains()
}

fn refused(task: &Task, resources: &Value, parts: &[&str]) -> Result<()> {
    let Err(error) = update(task, resources) else { anyhow::bail!("{resources} was taken") };
    let text = format!("{error:#}");
    ensure!(parts.iter().all(|part| text.contains(part)), "{text}");
    Ok(())
}

/// The kernel gives a lower score only to who has CAP_SYS_RESOURCE, which nodes in containers lack.
fn an_oom_score_is_set_or_its_refusal_logged(node: &Namespace) -> Result<()> {
    let image = image_of(node, "p1_sleep.wat")?;
    for wanted in [500, -999] {
        let task = node.task(&image).spec(|spec| spec["process"]["oomScoreAdj"] = json!(wanted)).create()?;
        let has = fs::read_to_string(format!("/proc/{}/oom_score_adj", task.pid))?;
        let refusal = [&task.id, &format!("oom score adjustment {wanted} was refused") as &str];
        if has.trim() == wanted.to_string() {
            let told = node.log().lines().any(|line| refusal.iter().all(|part| line.contains(part)));
            ensure!(!told, "{wanted} was set, and said to be refused");
        } else {
            node.until_logged(&refusal)?;
        }
        task.remove()?;
    }
    Ok(())
}

fn a_guest_out_of_time_is_ended(node: &Namespace) -> Result<()> {
    const TIMEOUT: &str = "io.containerd.wasm.v1/limits.timeout";
    for guest in ["p1_spin.wat", "p1_sleep.wat"] {
        for image in [image_of(node, guest)?, component_image_of(node, guest)?] {
            let task = node.task(&image).annotation(TIMEOUT, "700ms").create()?;
            task.start()?;
            let end = task.finish()?;
            let line = "time limit 700ms reached: raise limits.timeout\n";
            ensure!(end.code == 124 && end.stderr.ends_with(line), "{guest}: {end:?}");
        }
    }
    // In a call of the host, which sees no epoch.
    let volume = node.directory("never")?;
    nix::unistd::mkfifo(&volume.join("fifo"), nix::sys::stat::Mode::S_IRWXU)?;
    for image in [image_of(node, "p1_file.c")?, component_image_of(node, "p1_file.c")?] {
        let draft = node.task(&image).args(["/app.wasm", "read", "/v/fifo"]).bind(&volume, "/v", &["bind", "ro"]);
        let task = draft.annotation(TIMEOUT, "700ms").create()?;
        task.start()?;
        let end = task.finish()?;
        ensure!(end.code == 124 && end.stderr.ends_with("raise limits.timeout\n"), "{end:?}");
    }
    let image = image_of(node, "p1_hello.wat")?;
    let task = node.task(&image).annotation(TIMEOUT, "1h").create()?;
    task.start()?;
    let end = task.finish()?;
    ensure!(end.code == 0 && end.stdout == "hello from wasm\n", "{end:?}");
    let service = crate::web::Service::start(node, |draft| draft.annotation(TIMEOUT, "1s"))?;
    service.ended(124)
}

fn a_guest_out_of_fuel_traps(node: &Namespace) -> Result<()> {
    const FUEL: &str = "io.containerd.wasm.v1/limits.fuel";
    for image in [image_of(node, "p1_spin.wat")?, component_image_of(node, "p1_spin.wat")?] {
        let task = node.task(&image).annotation(FUEL, "1000000").create()?;
        task.start()?;
        let end = task.finish()?;
        ensure!(end.code == 134 && end.stderr.contains("out of fuel: raise limits.fuel"), "{end:?}");
    }
    let hello = node.task(&image_of(node, "p1_hello.wat")?).annotation(FUEL, "1000000").create()?;
    hello.start()?;
    let end = hello.finish()?;
    ensure!(end.code == 0 && end.stdout == "hello from wasm\n", "{end:?}");
    // Of a service, each request has as much.
    let service = crate::web::Service::start(node, |draft| {
        draft.annotation(FUEL, "50000000").annotation("io.containerd.wasm.v1/http.reuse", "100")
    })?;
    for _ in 0..3 {
        ensure!(service.get("/spin")?.status == 500, "it traps");
        ensure!(service.get("/")?.status == 200, "others do not");
    }
    let end = service.end(15)?;
    ensure!(end.stderr.contains("GET /spin: wasm trap: out of fuel: raise limits.fuel"), "{end:?}");
    Ok(())
}
