//! Linux containers in a pod of this runtime: run by the node's runc, as any other pod's are.

use crate::Cases;
use crate::sandbox::{get, reference, service};
use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use testkit::cri::{Cri, Pod, PodContainer};
use testkit::image::Rootfs;
use testkit::node::cgroup_of;
use testkit::{Containerd, Image, Namespace, cases, leftovers, node, process, wait};

pub(crate) const CASES: Cases = cases![
    crate::linux::a_sidecar_lives_in_the_pod_of_a_guest,
    crate::linux::a_sidecar_is_what_it_is_in_a_pod_of_runc,
    crate::linux::an_init_container_leaves_a_program_for_the_next,
    crate::linux::a_script_of_the_image_runs,
    crate::linux::another_runc_is_used_or_missed_by_name,
    crate::linux::a_paused_container_does_not_run,
    crate::linux::ends_are_told_as_of_any_container,
    crate::linux::limits_hold_and_change,
    crate::linux::processes_of_a_shared_namespace_end_with_theirs,
    crate::linux::orphans_are_buried_while_their_container_runs,
    crate::linux::ephemeral_containers_see_the_target,
    crate::linux::what_cannot_run_is_told,
    crate::linux::nothing_stays_of_a_killed_shim,
];

/// Busybox with links for what the cases call.
pub(crate) fn busybox(node: &Namespace) -> Result<Image> {
    let program = fs::read("/bin/busybox").context("read busybox-static")?;
    let mut rootfs = Rootfs::new().directory("bin").file("bin/busybox", &program).directory("tmp");
    for applet in ["cat", "cp", "echo", "env", "grep", "id", "kill", "ls", "ps", "sh", "sleep", "stty", "true", "wget"]
    {
        rootfs = rootfs.symlink(&format!("bin/{applet}"), "busybox");
    }
    Ok(Image::new(&reference(node)).rootfs(rootfs).entrypoint(["/bin/sh"]))
}

fn shell<'a>(pod: &Pod<'a>, image: &Image, script: &str) -> Result<PodContainer<'a>> {
    pod.run(image, &["/bin/sh", "-c", script], |_| ())
}

/// The lines of its log, without time and stream, once it has succeeded.
fn said(container: &PodContainer<'_>) -> Result<String> {
    container.finish(0)?;
    let text = |line: &str| line.splitn(4, ' ').nth(3).map(|text| format!("{text}\n"));
    Ok(container.log().lines().filter_map(text).collect())
}

fn a_sidecar_lives_in_the_pod_of_a_guest(node: &Namespace) -> Result<()> {
    let (guest, linux) = (service(node)?, busybox(node)?);
    let cri = Cri::new(node, &[&guest, &linux])?;
    let pod = cri.pod(|_| ())?;
    let volume = node.directory("volume")?;
    let wasm = pod.run(&guest, &["/app.wasm"], |_| ())?;
    wait::until("the service answers", || Ok(get(&pod, "/").ok()))?;
    let script =
        "wget -q -O - http://127.0.0.1:8080/env?name=PORT; echo $GREETING; echo out > /data/file; sleep 1000; true";
    let sidecar = pod.run(&linux, &["/bin/sh", "-c", script], |config| {
        config["envs"] = json!([{ "key": "GREETING", "value": "hello from linux" }]);
        config["linux"]["security_context"] = json!({ "namespace_options": { "pid": 1 } });
        config["mounts"] = json!([{ "container_path": "/data", "host_path": volume }]);
    })?;
    wait::until("it speaks", || Ok(sidecar.log().contains("hello from linux").then_some(())))?;
    wait::until("it writes", || Ok(fs::exists(volume.join("file"))?.then_some(())))?;
    let shims = [pod.pid()?, wasm.pid()?, sidecar.pid()?].map(process::parent);
    let [sandbox, wasm, own] = shims;
    let (sandbox, wasm, own) = (sandbox?, wasm?, own?);
    ensure!(sandbox == wasm && sandbox == own, "one shim: {sandbox} {wasm} {own}");
    let network = |pid: i32| fs::read_link(format!("/proc/{pid}/ns/net"));
    ensure!(network(pod.pid()?)? == network(sidecar.pid()?)?, "one network");
    let stats: Value = serde_json::from_str(&cri.ask(&["stats", "-o", "json", &sidecar.id])?)?;
    let memory = &stats["stats"][0]["memory"]["workingSetBytes"]["value"];
    ensure!(memory.as_str().is_some_and(|bytes| bytes != "0"), "{stats}");
    sidecar.stop(1)?;
    // A shell as process 1 ignores SIGTERM, and is killed when its grace is over.
    ensure!(sidecar.ended()?["exitCode"] == json!(137), "{}", sidecar.inspect()?);
    pod.remove()
}

/// What a process sees of its rights and bounds.
const ABOUT: &str = "ulimit -n; grep -E '^(Cap|Seccomp:|NoNewPrivs|Uid|Gid|Groups)' /proc/self/status; \
    cat /proc/self/oom_score_adj; id; ls /dev; grep -E ' /(proc|sys|dev)' /proc/self/mounts | cut -d' ' -f2-4";

fn a_sidecar_is_what_it_is_in_a_pod_of_runc(node: &Namespace) -> Result<()> {
    let linux = busybox(node)?;
    let cri = Cri::new(node, &[&linux])?;
    let about = |handler: &str, restricted: bool| -> Result<String> {
        let pod = cri.pod_of(handler, |_| ())?;
        let container = pod.run(&linux, &["/bin/sh", "-c", ABOUT], |config| {
            if restricted {
                config["linux"]["security_context"] = json!({
                    "run_as_user": { "value": 1000 },
                    "run_as_group": { "value": 1001 },
                    "supplemental_groups": [1002],
                    "no_new_privs": true,
                    "readonly_rootfs": true,
                    "capabilities": { "drop_capabilities": ["ALL"] },
                    "seccomp": { "profile_type": 0 },
                    "namespace_options": {},
                });
            }
        })?;
        let said = said(&container)?;
        pod.remove()?;
        // What runc makes above a container's cgroup it leaves: with ours the shim has made it, and removes it.
        if handler == "runc" {
            for group in
                leftovers::hierarchies().iter().map(|root| root.join(node.name())).filter(|group| group.exists())
            {
                fs::remove_dir(&group).with_context(|| format!("remove {}", group.display()))?;
            }
        }
        Ok(said)
    };
    for restricted in [false, true] {
        let (ours, theirs) = (about("wasm", restricted)?, about("runc", restricted)?);
        ensure!(theirs.contains("Seccomp:") && theirs.contains("Cap"), "{theirs}");
        ensure!(ours == theirs, "restricted: {restricted}\n--- ours\n{ours}\n--- runc's\n{theirs}");
    }
    Ok(())
}

fn an_init_container_leaves_a_program_for_the_next(node: &Namespace) -> Result<()> {
    let (guest, linux) =
        (Image::with_file(&reference(node), &testkit::guests::module("p1_hello.wat")?), busybox(node)?);
    let cri = Cri::new(node, &[&guest, &linux])?;
    let pod = cri.pod(|_| ())?;
    let volume = node.directory("tools")?;
    fs::write(volume.join("hello.wasm"), testkit::guests::module("p1_hello.wat")?)?;
    let mounted = |config: &mut Value| config["mounts"] = json!([{ "container_path": "/tools", "host_path": volume }]);
    let init = pod.run(&linux, &["/bin/cp", "/bin/busybox", "/tools/echo"], mounted)?;
    ensure!(init.ended()?["exitCode"] == json!(0), "{}", init.inspect()?);
    let program = pod.run(&guest, &["/tools/echo", "from a volume"], mounted)?;
    ensure!(said(&program)? == "from a volume\n", "{}", program.log());
    let wasm = pod.run(&linux, &["/tools/hello.wasm"], mounted)?;
    ensure!(said(&wasm)? == "hello from wasm\n", "{}", wasm.log());
    pod.remove()
}

fn a_script_of_the_image_runs(node: &Namespace) -> Result<()> {
    let script = "#!/bin/sh\necho run as $0 with $1\nexit 4\n";
    let linux = busybox(node)?.rootfs(Rootfs::new().file("script", script.as_bytes()));
    let cri = Cri::new(node, &[&linux])?;
    let pod = cri.pod(|_| ())?;
    let said = pod.run(&linux, &["/script", "a word"], |_| ())?.finish(4)?;
    ensure!(said == "run as /script with a word\n", "{said:?}");
    pod.remove()
}

/// By the handler's option `BinaryName`.
fn another_runc_is_used_or_missed_by_name(node: &Namespace) -> Result<()> {
    let folder = node.directory("bin")?;
    let [wrapper, absent, calls] = ["wrapper", "absent", "calls"].map(|name| folder.join(name));
    fs::write(&wrapper, format!("#!/bin/sh\necho \"$@\" >> {}\nexec runc \"$@\"\n", calls.display()))?;
    fs::set_permissions(&wrapper, fs::Permissions::from_mode(0o755))?;
    let runcs = [("wrapped", wrapper.as_path()), ("absent", absent.as_path())];
    let containerd = Containerd::start_for_pods_by(node.containerd().version(), node.containerd().shim(), &runcs)?;
    let inner = containerd.namespace(&format!("{}-inner", node.name()));
    {
        let linux = busybox(&inner)?;
        let cri = Cri::new(&inner, &[&linux])?;
        let pod = cri.pod_of("wrapped", |_| ())?;
        let echo = pod.run(&linux, &["/bin/echo", "by another"], |_| ())?;
        ensure!(said(&echo)? == "by another\n", "{}", echo.log());
        let called = fs::read_to_string(&calls)?;
        for action in ["create", "start", "delete"] {
            let is_call = |line: &str| line.contains(&format!(" {action} ")) && line.ends_with(&echo.id);
            ensure!(called.lines().any(is_call), "{action}: {called}");
        }
        // One that is gone keeps no container, whose processes are found by their cgroup.
        let left = pod.run(&linux, &["/bin/sleep", "1000"], |_| ())?.pid()?;
        fs::remove_file(&wrapper)?;
        pod.remove()?;
        ensure!(!process::exists(left), "process {left} is there");
        let pod = cri.pod_of("absent", |_| ())?;
        let (name, why) = (absent.display().to_string(), "is not on this node");
        let remedy = "is a linux container: install runc, or name one by BinaryName";
        pod.create(&linux, &["/bin/true"], |_| ())?.refused(&[&name, why, remedy])?;
        pod.remove()?;
    }
    containerd.stop()
}

fn a_paused_container_does_not_run(node: &Namespace) -> Result<()> {
    let linux = busybox(node)?;
    let cri = Cri::new(node, &[&linux])?;
    let pod = cri.pod(|_| ())?;
    let spinning = shell(&pod, &linux, "while true; do :; done")?;
    let used = || node::limit(spinning.pid()?, ("cpuacct", "cpuacct.usage"), "cpu.stat");
    // CRI has no call for it.
    let api = node.containerd().api_of_pods()?;
    api.pause(&spinning.id)?;
    let state = api.state(&spinning.id)?;
    ensure!(state.status == "PAUSED", "{state:?}");
    let (first, second) = (used()?, used()?);
    ensure!(first == second, "it ran from {first} to {second} while it was paused");
    api.resume(&spinning.id)?;
    let state = api.state(&spinning.id)?;
    ensure!(state.status == "RUNNING", "{state:?}");
    wait::until("it runs again", || Ok((used()? != second).then_some(())))?;
    pod.remove()
}

fn ends_are_told_as_of_any_container(node: &Namespace) -> Result<()> {
    let linux = busybox(node)?;
    let cri = Cri::new(node, &[&linux])?;
    let pod = cri.pod(|_| ())?;
    for (script, code, reason) in [("exit 0", 0, "Completed"), ("exit 7", 7, "Error"), ("exit 255", 255, "Error")] {
        let status = shell(&pod, &linux, script)?.ended()?;
        ensure!(status["exitCode"] == json!(code) && status["reason"] == json!(reason), "{script}: {status}");
    }
    // Also where the kernel's choice was a child, and the first process leaves as it likes.
    let script = "sh -c 'x=x; while true; do x=$x$x; done'; exit 3";
    let worker = pod.run(&linux, &["/bin/sh", "-c", script], |config| {
        config["linux"]["resources"] = json!({ "memory_limit_in_bytes": 32 << 20 });
    })?;
    let status = worker.ended()?;
    ensure!(status["exitCode"] == json!(3) && status["reason"] == json!("OOMKilled"), "{status}");
    let hungry = pod.run(&linux, &["/bin/sh", "-c", "x=x; while true; do x=$x$x; done"], |config| {
        config["linux"]["resources"] = json!({ "memory_limit_in_bytes": 32 << 20 });
    })?;
    let status = hungry.ended()?;
    ensure!(status["exitCode"] == json!(137) && status["reason"] == json!("OOMKilled"), "{status}");
    pod.remove()
}

fn limits_hold_and_change(node: &Namespace) -> Result<()> {
    let linux = busybox(node)?;
    let cri = Cri::new(node, &[&linux])?;
    let pod = cri.pod(|_| ())?;
    let container = pod.run(&linux, &["/bin/sleep", "1000"], |config| {
        config["linux"]["resources"] = json!({ "memory_limit_in_bytes": 64 << 20, "cpu_shares": 512 });
    })?;
    let limit = || -> Result<u64> {
        let dir = cgroup_of(container.pid()?, "memory")?;
        let v1 = dir.join("memory.limit_in_bytes");
        let file = if v1.exists() { v1 } else { dir.join("memory.max") };
        Ok(fs::read_to_string(file)?.trim().parse()?)
    };
    ensure!(limit()? == 64 << 20, "{}", limit()?);
    cri.ask(&["update", "--memory", &(96 << 20).to_string(), &container.id])?;
    ensure!(limit()? == 96 << 20, "{}", limit()?);
    pod.remove()
}

fn processes_of_a_shared_namespace_end_with_theirs(node: &Namespace) -> Result<()> {
    let linux = busybox(node)?;
    let cri = Cri::new(node, &[&linux])?;
    let pod = cri.pod(|config| config["linux"]["security_context"]["namespace_options"]["pid"] = json!(0))?;
    let shared = |config: &mut Value| config["linux"]["security_context"]["namespace_options"]["pid"] = json!(0);
    let own = format!("{}", 700_000 + u64::from(std::process::id()) % 100_000);
    let script = format!("/bin/sleep {own} & sleep 1000 & (sleep 0.1 & exec true); echo ready; exec sleep 1000");
    let container = pod.run(&linux, &["/bin/sh", "-c", &script], shared)?;
    wait::until("it is ready", || Ok(container.log().contains("ready").then_some(())))?;
    let left = || process::mentioning(&own);
    wait::until("it has a child", || Ok((!left().is_empty()).then_some(())))?;
    container.stop(0)?;
    container.ended()?;
    wait::until("its child has ended", || Ok(left().is_empty().then_some(())))?;
    pod.remove()
}

fn orphans_are_buried_while_their_container_runs(node: &Namespace) -> Result<()> {
    let linux = busybox(node)?;
    let cri = Cri::new(node, &[&linux])?;
    let on_node = json!({ "pid": 2 });
    let pod = cri.pod(|config| config["linux"]["security_context"]["namespace_options"] = on_node.clone())?;
    // On the node's process namespace nobody is number 1 but the node's own: orphans come to the shim.
    let script = "(sleep 0.2 & sleep 0.2 & sleep 0.2 &) ; echo $$; exec sleep 1000";
    let container = pod.run(&linux, &["/bin/sh", "-c", script], |config| {
        config["linux"]["security_context"] = json!({ "namespace_options": on_node });
    })?;
    wait::until("it speaks", || Ok(container.log().contains('\n').then_some(())))?;
    let shim = process::parent(container.pid()?)?;
    let group = cgroup_of(container.pid()?, "pids")?;
    let alone = || Ok((fs::read_to_string(group.join("cgroup.procs"))?.lines().count() == 1).then_some(()));
    wait::until("its children have ended", alone)?;
    wait::until("they are buried", || {
        let status = |pid: i32| process::status(pid).ok();
        let is_dead = |pid: i32| status(pid).is_some_and(|status| status["State"].starts_with('Z'));
        let left = process::all().into_iter().filter(|pid| process::parent(*pid).is_ok_and(|parent| parent == shim));
        Ok((!left.into_iter().any(is_dead)).then_some(()))
    })?;
    let current = fs::read_to_string(group.join("pids.current"))?;
    ensure!(current.trim() == "1", "the dead count too: {current}");
    pod.remove()
}

fn ephemeral_containers_see_the_target(node: &Namespace) -> Result<()> {
    let (guest, linux) = (service(node)?, busybox(node)?);
    let cri = Cri::new(node, &[&guest, &linux])?;
    let pod = cri.pod(|_| ())?;
    let target = pod.run(&guest, &["/app.wasm"], |_| ())?;
    // As the kubelet makes one for `kubectl debug --target`.
    let debug = pod.run(&linux, &["/bin/ps"], |config| {
        config["linux"]["security_context"]["namespace_options"] = json!({ "pid": 3, "target_id": target.id });
    })?;
    let said = said(&debug)?;
    ensure!(said.contains("app.wasm"), "the target's process: {said}");
    pod.remove()
}

fn what_cannot_run_is_told(node: &Namespace) -> Result<()> {
    let linux = busybox(node)?;
    let cri = Cri::new(node, &[&linux])?;
    let pod = cri.pod(|_| ())?;
    let absent = pod.create(&linux, &["/bin/absent"], |_| ())?;
    absent.refused(&["no wasm in", ".wasm file or a linux program", "no file /bin/absent"])?;
    let broken = pod.create(&linux, &["/tmp/script"], |config| {
        let script = node.directory("scripts").map(|dir| dir.join("script"));
        if let Ok(script) = script {
            let _ = fs::write(&script, "#!/no/such/interpreter\n");
            config["mounts"] = json!([{ "container_path": "/tmp/script", "host_path": script }]);
        }
    })?;
    broken.refused(&["runc ", "permission denied"])?;
    pod.remove()
}

fn nothing_stays_of_a_killed_shim(node: &Namespace) -> Result<()> {
    let linux = busybox(node)?;
    let cri = Cri::new(node, &[&linux])?;
    let pod = cri.pod(|_| ())?;
    let container = pod.run(&linux, &["/bin/sleep", "1000"], |_| ())?;
    let (pid, shim) = (container.pid()?, process::parent(container.pid()?)?);
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(shim), nix::sys::signal::Signal::SIGKILL)?;
    let status = container.ended()?;
    ensure!(status["exitCode"] != json!(0), "{status}");
    wait::until("its process is gone", || Ok((!process::exists(pid)).then_some(())))?;
    let id = pod.id.clone();
    pod.remove()?;
    wait::until("nothing names it", || Ok(process::mentioning(&id).is_empty().then_some(())))
}
