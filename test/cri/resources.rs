//! What pods may use: limits at creation, changes of them while a guest runs, ends by them, and what is told of use.

use crate::Cases;
use crate::lifecycle::image;
use crate::linux::busybox;
use crate::sandbox::{get, service};
use anyhow::{Result, ensure};
use serde_json::{Value, json};
use std::fs;
use std::path::PathBuf;
use testkit::api::Terminal;
use testkit::cri::{Cri, PodContainer};
use testkit::disk::Disk;
use testkit::fifo::{Input, Output, Stdio};
use testkit::node::Feature;
use testkit::{Namespace, cases, leftovers, node, process, wait};

pub(crate) const CASES: Cases = cases![
    crate::resources::limits_are_those_of_the_cgroup,
    crate::resources::a_pod_s_own_limit_holds_for_its_containers,
    crate::resources::a_pod_has_no_more_processes_than_it_may,
    crate::resources::a_resize_reaches_cgroup_and_guest,
    crate::resources::a_resize_reaches_processes_of_exec,
    crate::resources::a_refused_growth_is_oom_killed,
    crate::resources::a_kill_by_the_kernel_is_oom_killed,
    crate::resources::use_of_each_container_of_a_pod_is_told,
];

const MI: u64 = 1 << 20;

fn limited(mib: u64) -> Value {
    json!({ "memory_limit_in_bytes": mib * MI })
}

fn check(container: &PodContainer<'_>, version_1: (&str, &str, &str), version_2: (&str, &str)) -> Result<()> {
    let (controller, file, one) = version_1;
    let wanted = if Feature::CgroupV2.is_here() { version_2.1 } else { one };
    let has = node::limit(container.pid()?, (controller, file), version_2.0)?;
    ensure!(has == wanted, "{file} or {}: {has}, not {wanted}", version_2.0);
    Ok(())
}

fn limits_are_those_of_the_cgroup(node: &Namespace) -> Result<()> {
    let web = service(node)?;
    let cri = Cri::new(node, &[&web])?;
    let pod = cri.pod(|_| ())?;
    let container = pod.run(&web, &["/app.wasm"], |config| {
        config["linux"]["resources"] = json!({
            "memory_limit_in_bytes": 64 * MI, "memory_swap_limit_in_bytes": 64 * MI,
            "cpu_period": 100_000, "cpu_quota": 50_000, "cpu_shares": 512, "cpuset_cpus": "0", "oom_score_adj": 900,
        });
    })?;
    wait::until("the service answers", || Ok(get(&pod, "/").ok()))?;
    check(&container, ("memory", "memory.limit_in_bytes", "67108864"), ("memory.max", "67108864"))?;
    check(&container, ("memory", "memory.memsw.limit_in_bytes", "67108864"), ("memory.swap.max", "0"))?;
    check(&container, ("cpu", "cpu.cfs_quota_us", "50000"), ("cpu.max", "50000 100000"))?;
    check(&container, ("cpu", "cpu.shares", "512"), ("cpu.weight", "20"))?;
    let pid = container.pid()?;
    ensure!(process::status(pid)?["Cpus_allowed_list"] == "0", "its set of processors");
    ensure!(fs::read_to_string(format!("/proc/{pid}/oom_score_adj"))?.trim() == "900", "its score");
    let said = get(&pod, "/grow?mib=80")?;
    ensure!(said.contains("no memory for"), "{said}");
    ensure!(get(&pod, "/grow?mib=20")? == "20971520\n", "there is room for 20 MiB");
    pod.remove()
}

/// The cgroup of a pod, as the kubelet makes it; gone when dropped.
struct PodGroup {
    name: String,
    folders: Vec<PathBuf>,
}

impl PodGroup {
    fn new(node: &Namespace) -> Result<PodGroup> {
        let name = format!("/{}-kubelet", node.name());
        let folders: Vec<PathBuf> = leftovers::hierarchies().iter().map(|place| place.join(&name[1..])).collect();
        let group = PodGroup { name, folders };
        for folder in &group.folders {
            fs::create_dir(folder)?;
        }
        Ok(group)
    }

    fn set(&self, version_1: (&str, &str), version_2: &str, value: &str) -> Result<()> {
        let folder = node::cgroup(version_1.0, &self.name);
        let file = if Feature::CgroupV2.is_here() { version_2 } else { version_1.1 };
        Ok(fs::write(folder.join(file), value)?)
    }
}

impl Drop for PodGroup {
    fn drop(&mut self) {
        for folder in &self.folders {
            if let Err(error) = fs::remove_dir(folder) {
                eprintln!("cgroup {} stays: {error}", folder.display());
            }
        }
    }
}

/// `resources` of a whole pod.
fn a_pod_s_own_limit_holds_for_its_containers(node: &Namespace) -> Result<()> {
    let (web, files) = (service(node)?, image(node, "p1_file.c")?);
    let group = PodGroup::new(node)?;
    group.set(("memory", "memory.limit_in_bytes"), "memory.max", &(48 * MI).to_string())?;
    let cri = Cri::new(node, &[&web, &files])?;
    let pod = cri.pod(|config| config["linux"]["cgroup_parent"] = json!(group.name))?;
    let container = pod.run(&web, &["/app.wasm"], |_| ())?;
    wait::until("the service answers", || Ok(get(&pod, "/").ok()))?;
    for controller in ["memory", "pids", "cpu"] {
        for pid in [pod.pid()?, container.pid()?] {
            let place = node::cgroup_of(pid, controller)?;
            let folder = group.folders.iter().any(|folder| place.starts_with(folder) && place != *folder);
            ensure!(folder, "{} is not below that of the pod", place.display());
        }
    }
    // Two thirds of the pod's limit are pages of a volume in memory; no limit of the container's own sees them.
    let memory = Disk::mount(&node.directory("memory")?, 100 << 10)?;
    let filling = pod.run(&files, &["/app.wasm", "fill", "/data/big", "80"], |config| {
        config["mounts"] = json!([{ "container_path": "/data", "host_path": memory.path() }]);
    })?;
    let status = filling.ended()?;
    ensure!(status["exitCode"] == json!(137) && status["reason"] == "OOMKilled", "{status}");
    drop(memory);
    pod.remove()?;
    drop(group);
    Ok(())
}

/// `podPidsLimit` of the kubelet.
fn a_pod_has_no_more_processes_than_it_may(node: &Namespace) -> Result<()> {
    let linux = busybox(node)?;
    let group = PodGroup::new(node)?;
    let cri = Cri::new(node, &[&linux])?;
    let pod = cri.pod(|config| config["linux"]["cgroup_parent"] = json!(group.name))?;
    let volume = node.directory("v")?;
    let script = "until [ -e /data/go ]; do :; done; echo $(echo forked)";
    let forking = pod.run(&linux, &["/bin/sh", "-c", script], |config| {
        config["mounts"] = json!([{ "container_path": "/data", "host_path": volume }]);
    })?;
    // It and the sandbox are two by now.
    group.set(("pids", "pids.max"), "pids.max", "1")?;
    fs::write(volume.join("go"), "")?;
    let status = forking.ended()?;
    ensure!(status["exitCode"] != json!(0), "it forked: {status}");
    let said = wait::until("it says why", || Ok(Some(forking.output("stderr")?).filter(|said| !said.is_empty())))?;
    ensure!(said == "/bin/sh: can't fork: Resource temporarily unavailable\n", "{said:?}");
    pod.remove()?;
    drop(group);
    Ok(())
}

fn a_resize_reaches_cgroup_and_guest(node: &Namespace) -> Result<()> {
    let web = service(node)?;
    let cri = Cri::new(node, &[&web])?;
    let pod = cri.pod(|_| ())?;
    let container = pod.run(&web, &["/app.wasm"], |config| {
        config["linux"]["resources"] =
            json!({ "memory_limit_in_bytes": 64 * MI, "cpu_period": 100_000, "cpu_quota": 50_000 });
    })?;
    let pid = container.pid()?;
    wait::until("the service answers", || Ok(get(&pod, "/").ok()))?;
    let grows = |mib: u64| Ok::<_, anyhow::Error>(!get(&pod, &format!("/grow?mib={mib}"))?.contains("no memory for"));
    ensure!(grows(32)? && !grows(100)?, "at 64 MiB");
    for (mib, quota, room, lack) in [(256, 100_000, 180, 300), (96, 20_000, 60, 120)] {
        let (memory, quota) = ((mib * MI).to_string(), quota.to_string());
        cri.ask(&["update", "--memory", &memory, "--cpu-quota", &quota, "--cpu-share", "256", &container.id])?;
        check(&container, ("memory", "memory.limit_in_bytes", &memory), ("memory.max", &memory))?;
        check(&container, ("cpu", "cpu.cfs_quota_us", &quota), ("cpu.max", &format!("{quota} 100000")))?;
        check(&container, ("cpu", "cpu.shares", "256"), ("cpu.weight", "10"))?;
        ensure!(grows(room)? && !grows(lack)?, "at {mib} MiB");
        let told = &container.inspect()?["status"]["resources"]["linux"]["memoryLimitInBytes"];
        ensure!(told == &json!(memory), "{told}");
    }
    ensure!(container.pid()? == pid && get(&pod, "/")? == "hello from wasm\n", "it ran on");
    pod.remove()
}

fn a_resize_reaches_processes_of_exec(node: &Namespace) -> Result<()> {
    let sleep = image(node, "p1_sleep.wat")?;
    let cri = Cri::new(node, &[&sleep])?;
    let pod = cri.pod(|_| ())?;
    let container = pod.run(&sleep, &["/app.wasm"], |_| ())?;
    let api = node.containerd().api_of_pods()?;
    let stdio = Stdio::new(&node.directory("fifos")?, "exec", Input::Absent, &Output::Fifos)?;
    let process = json!({ "args": ["/app.wasm"], "cwd": "/", "user": { "uid": 0, "gid": 0 }, "noNewPrivileges": true });
    let exec = api.exec(&container.id, "another", &process, stdio, Terminal::None)?;
    let pids = [container.pid()?, exec.start()?];
    // Under version 1 nobody is in the hierarchy of such sets before.
    cri.ask(&["update", "--cpuset-cpus", "0", &container.id])?;
    for pid in pids {
        let status = process::status(pid)?;
        ensure!(status["Cpus_allowed_list"] == "0", "process {pid} of {pids:?}: {status:?}");
    }
    pod.remove()
}

fn a_refused_growth_is_oom_killed(node: &Namespace) -> Result<()> {
    let (grow, web) = (image(node, "p1_grow.c")?, service(node)?);
    let cri = Cri::new(node, &[&grow, &web])?;
    let pod = cri.pod(|_| ())?;
    let beside = pod.run(&web, &["/app.wasm"], |_| ())?;
    for words in [["/app.wasm", "trap", ""], ["/app.wasm", "exit", "3"]] {
        let container = pod.run(&grow, &words, |config| config["linux"]["resources"] = limited(64))?;
        let status = container.ended()?;
        ensure!(status["exitCode"] == json!(137) && status["reason"] == "OOMKilled", "{status}");
        let said = container.output("stderr")?;
        ensure!(said.starts_with("memory limit 60Mi reached: raise limits.memory\n"), "{said}");
    }
    // Who copes ends as it says.
    let container = pod.run(&grow, &["/app.wasm", "exit", "0"], |config| config["linux"]["resources"] = limited(64))?;
    let status = container.ended()?;
    ensure!(status["exitCode"] == json!(0) && status["reason"] == "Completed", "{status}");
    ensure!(beside.inspect()?["status"]["state"] == "CONTAINER_RUNNING", "its neighbour lives on");
    pod.remove()
}

/// Pages of a volume in memory are charged to the container, and no limit of the guest's own memory sees them.
fn a_kill_by_the_kernel_is_oom_killed(node: &Namespace) -> Result<()> {
    let files = image(node, "p1_file.c")?;
    let cri = Cri::new(node, &[&files])?;
    let pod = cri.pod(|_| ())?;
    let memory = Disk::mount(&node.directory("memory")?, 100 << 10)?;
    let container = pod.run(&files, &["/app.wasm", "fill", "/data/big", "60"], |config| {
        config["linux"]["resources"] = limited(24);
        config["mounts"] = json!([{ "container_path": "/data", "host_path": memory.path() }]);
    })?;
    let status = container.ended()?;
    ensure!(status["exitCode"] == json!(137) && status["reason"] == "OOMKilled", "{status}");
    let said = container.output("stderr")?;
    ensure!(said.contains("memory limit 24Mi reached: raise limits.memory"), "{said}");
    pod.remove()
}

fn use_of_each_container_of_a_pod_is_told(node: &Namespace) -> Result<()> {
    let (web, spin) = (service(node)?, image(node, "p1_spin.wat")?);
    let cri = Cri::new(node, &[&web, &spin])?;
    let pod = cri.pod(|_| ())?;
    let quiet = pod.run(&web, &["/app.wasm"], |_| ())?;
    let busy = pod.run(&spin, &["/app.wasm"], |config| {
        config["linux"]["resources"] = json!({ "cpu_period": 100_000, "cpu_quota": 10_000 });
    })?;
    wait::until("the service answers", || Ok(get(&pod, "/").ok()))?;
    let number = |value: &Value| value["value"].as_str().and_then(|text| text.parse::<u64>().ok()).unwrap_or_default();
    let used =
        |stats: &Value| number(&stats["cpu"]["usageCoreNanoSeconds"]).min(number(&stats["memory"]["workingSetBytes"]));
    let own = |container: &PodContainer<'_>| -> Result<Value> {
        let stats: Value = serde_json::from_str(&cri.ask(&["stats", "--output", "json", "--id", &container.id])?)?;
        Ok(stats["stats"][0].clone())
    };
    wait::until("the use of both is told", || Ok((used(&own(&quiet)?) > 0 && used(&own(&busy)?) > 0).then_some(())))?;
    let cpu = |stats: &Value| number(&stats["cpu"]["usageCoreNanoSeconds"]);
    wait::until("who spins used more", || Ok((cpu(&own(&busy)?) > cpu(&own(&quiet)?)).then_some(())))?;
    wait::until("the use of the pod is told", || {
        let stats: Value = serde_json::from_str(&cri.ask(&["statsp", "--output", "json", "--id", &pod.id])?)?;
        let linux = &stats["stats"][0]["linux"];
        let containers = linux["containers"].as_array().map_or(&[][..], Vec::as_slice);
        let whole = used(linux) > 0 && containers.len() == 2 && containers.iter().all(|one| used(one) > 0);
        Ok(whole.then_some(()))
    })?;
    pod.remove()
}
