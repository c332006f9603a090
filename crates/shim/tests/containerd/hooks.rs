//! OCI hooks: when they run, where, what they are told, and what their failure means.

use crate::Cases;
use crate::output::image_of;
use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::PathBuf;
use std::thread;
use std::time::Duration;
use testkit::image::Rootfs;
use testkit::{Image, Namespace, cases, guests, process, wait};

pub(crate) const CASES: Cases = cases![
    crate::hooks::each_runs_at_its_moment,
    crate::hooks::those_of_the_container_see_namespaces_and_files,
    crate::hooks::those_of_the_start_are_the_container_s_user,
    crate::hooks::a_failure_at_creation_undoes_it,
    crate::hooks::a_failure_at_the_start_stops_the_container,
    crate::hooks::later_failures_are_logged_only,
    crate::hooks::one_that_takes_too_long_is_killed,
    crate::hooks::one_that_waits_for_ever_ends_with_its_create,
    crate::hooks::one_that_waits_for_ever_ends_with_its_container,
    crate::hooks::the_last_ones_run_when_the_shim_was_killed,
];

/// A script that appends a line to `log` for each run: its first argument, then a command's output.
struct Script {
    path: PathBuf,
    log: PathBuf,
}

impl Script {
    fn new(node: &Namespace, command: &str) -> Result<Script> {
        let dir = node.directory("hook")?;
        let script = Script { path: dir.join("hook.sh"), log: dir.join("log") };
        let text =
            format!("#!/bin/sh\nread -r state\nsaid=$({command})\necho \"$1 $said\" >> {}\n", script.log.display());
        fs::write(&script.path, text)?;
        fs::set_permissions(&script.path, fs::Permissions::from_mode(0o755))?;
        Ok(script)
    }

    fn hook(&self, word: &str) -> Value {
        json!({ "path": self.path, "args": ["hook.sh", word], "env": ["PATH=/usr/sbin:/usr/bin:/sbin:/bin"] })
    }

    fn lines(&self) -> Vec<String> {
        fs::read_to_string(&self.log).unwrap_or_default().lines().map(str::to_owned).collect()
    }
}

/// A hook of one line of shell.
fn shell(line: &str) -> Value {
    json!({ "path": "/bin/sh", "args": ["sh", "-c", line], "env": ["PATH=/usr/sbin:/usr/bin:/sbin:/bin"] })
}

fn each_runs_at_its_moment(node: &Namespace) -> Result<()> {
    let script = Script::new(node, "echo \"$state\"")?;
    let kinds = ["prestart", "createRuntime", "createContainer", "poststart", "poststop"];
    let image = image_of(node, "p1_sleep.wat")?;
    let draft = node.task(&image).annotation("example.com/key", "value").spec(|spec| {
        for kind in kinds {
            spec["hooks"][kind] = json!([script.hook(kind), script.hook(&format!("{kind}-again"))]);
        }
    });
    let task = draft.create()?;
    let (id, pid) = (task.id.clone(), task.pid);
    let twice = |kinds: &[&str]| kinds.iter().flat_map(|kind| [(*kind).to_owned(), format!("{kind}-again")]).collect();
    let ran = || -> Vec<String> {
        script.lines().iter().filter_map(|line| Some(line.split_once(' ')?.0.to_owned())).collect()
    };
    let wanted: Vec<String> = twice(&kinds[..3]);
    ensure!(ran() == wanted, "after create: {:?}", ran());
    task.start_until("sleeping\n")?;
    let wanted: Vec<String> = twice(&kinds[..4]);
    ensure!(ran() == wanted, "after start: {:?}", ran());
    task.remove()?;
    let wanted: Vec<String> = twice(&kinds);
    ensure!(ran() == wanted, "after delete: {:?}", ran());
    for line in script.lines() {
        let (kind, state) = line.split_once(' ').context("a line without a state")?;
        let state: Value = serde_json::from_str(state).with_context(|| line.clone())?;
        let status = match kind.trim_end_matches("-again") {
            "poststart" => "running",
            "poststop" => "stopped",
            _ => "creating",
        };
        let pid = if status == "stopped" { Value::Null } else { json!(pid) };
        ensure!(state["id"] == json!(id) && state["status"] == status && state["pid"] == pid, "{kind}: {state}");
        ensure!(state["annotations"]["example.com/key"] == "value" && state["ociVersion"] == "1.1.0", "{state}");
        let bundle = node.containerd().bundle(node.name(), &id);
        ensure!(state["bundle"] == json!(bundle), "{state}, not {}", bundle.display());
    }
    Ok(())
}

fn those_of_the_container_see_namespaces_and_files(node: &Namespace) -> Result<()> {
    let script = Script::new(node, "readlink /proc/self/ns/net /proc/self/ns/mnt /proc/self/ns/pid | tr '\\n' ' '")?;
    let volume = node.directory("v")?;
    let image = image_of(node, "p1_sleep.wat")?;
    let draft = node.task(&image).bind(&volume, "/data", &["rbind", "rw"]);
    // What it writes goes to the container's root, also if the guest's is read-only.
    let rootfs = node.containerd().bundle(node.name(), draft.id()).join("rootfs");
    let writes = shell(&format!("echo made > {0}/made-by-hook && echo seen > {0}/data/seen", rootfs.display()));
    let draft = draft.spec(|spec| {
        spec["root"]["readonly"] = json!(true);
        spec["hooks"] =
            json!({ "createRuntime": [script.hook("runtime")], "createContainer": [script.hook("container"), writes] });
    });
    let task = draft.create()?;
    task.start_until("sleeping\n")?;
    let of = |pid: i32| -> Result<String> {
        let links = ["net", "mnt", "pid"].map(|kind| fs::read_link(format!("/proc/{pid}/ns/{kind}")));
        links.into_iter().map(|link| Ok(format!("{} ", link?.display()))).collect()
    };
    let (container, shim) = (of(task.pid)?, of(process::parent(task.pid)?)?);
    let lines = script.lines();
    ensure!(
        lines == [format!("runtime {}", shim.trim_end()), format!("container {}", container.trim_end())]
            || lines == [format!("runtime {shim}"), format!("container {container}")],
        "{lines:?}, not {shim} and {container}"
    );
    let made = fs::read_to_string(format!("/proc/{}/root/made-by-hook", task.pid))?;
    ensure!(made == "made\n" && fs::read_to_string(volume.join("seen"))? == "seen\n", "{made}");
    task.remove()
}

fn those_of_the_start_are_the_container_s_user(node: &Namespace) -> Result<()> {
    let busybox = fs::read("/bin/busybox").context("read busybox-static")?;
    let wasm = guests::module("p1_sleep.wat")?;
    let rootfs = Rootfs::new().file("app.wasm", &wasm).directory("bin").file("bin/busybox", &busybox);
    let image = Image::new("test.local/busybox:1").rootfs(rootfs).entrypoint(["/app.wasm"]);
    node.import(&image)?;
    let volume = node.directory("v")?;
    fs::set_permissions(&volume, fs::Permissions::from_mode(0o777))?;
    let touch = json!({ "path": "/bin/busybox", "args": ["busybox", "touch", "/data/touched"] });
    let draft = node.task(&image).bind(&volume, "/data", &["rbind", "rw"]).spec(|spec| {
        spec["process"]["user"] = json!({ "uid": 1234, "gid": 4321 });
        spec["hooks"] = json!({ "startContainer": [touch] });
    });
    let task = draft.create()?;
    ensure!(!volume.join("touched").exists(), "it ran before the start");
    task.start_until("sleeping\n")?;
    let touched = fs::metadata(volume.join("touched"))?;
    ensure!((touched.uid(), touched.gid()) == (1234, 4321), "of {}:{}", touched.uid(), touched.gid());
    task.remove()
}

fn a_failure_at_creation_undoes_it(node: &Namespace) -> Result<()> {
    let image = image_of(node, "p1_hello.wat")?;
    let after = Script::new(node, "true")?;
    let refused = |kind: &str, hook: Value, parts: &[&str]| {
        let draft = node.task(&image).spec(|spec| {
            spec["hooks"][kind] = json!([hook]);
            spec["hooks"]["poststop"] = json!([after.hook("poststop")]);
        });
        draft.refused(parts)
    };
    for kind in ["prestart", "createRuntime", "createContainer"] {
        refused(kind, shell("echo no luck >&2; exit 3"), &[kind, "/bin/sh left with code 3: no luck"])?;
        refused(kind, shell("kill -9 $$"), &[kind, "/bin/sh was ended by signal 9"])?;
    }
    let absent = json!({ "path": "/not/there" });
    refused("createRuntime", absent, &["createRuntime", "/not/there cannot be run", "No such file"])?;
    ensure!(after.lines().len() == 7, "the last hooks ran {} times", after.lines().len());
    node.until_nothing_remains()
}

fn a_failure_at_the_start_stops_the_container(node: &Namespace) -> Result<()> {
    let image = image_of(node, "p1_sleep.wat")?;
    let absent = json!({ "path": "/not/there" });
    let task = node.task(&image).spec(|spec| spec["hooks"] = json!({ "startContainer": [absent] })).create()?;
    let refused = task.api.start(&task.id).expect_err("its hook is not there");
    ensure!(refused.message().contains("hook startContainer /not/there cannot be run"), "{refused}");
    let end = task.finish()?;
    ensure!(end.code == 137 && end.stdout.is_empty(), "{end:?}");
    node.until_nothing_remains()
}

fn later_failures_are_logged_only(node: &Namespace) -> Result<()> {
    let image = image_of(node, "p1_hello.wat")?;
    let after = Script::new(node, "true")?;
    let draft = node.task(&image).spec(|spec| {
        for kind in ["poststart", "poststop"] {
            spec["hooks"][kind] = json!([shell("echo sorry; exit 4"), after.hook(kind)]);
        }
    });
    let task = draft.create()?;
    let id = task.id.clone();
    task.start()?;
    let end = task.finish()?;
    ensure!(end.code == 0 && end.stdout == "hello from wasm\n", "{end:?}");
    ensure!(after.lines().len() == 2, "{:?}", after.lines());
    for kind in ["poststart", "poststop"] {
        node.until_logged(&[&id, &format!("hook {kind} /bin/sh left with code 4: sorry")])?;
    }
    Ok(())
}

fn one_that_waits_for_ever_ends_with_its_create(node: &Namespace) -> Result<()> {
    let image = image_of(node, "p1_hello.wat")?;
    let begun = node.directory("hook")?.join("begun");
    let line = format!("echo $$ > {}; exec sleep 1000", begun.display());
    let after = Script::new(node, "true")?;
    let hooks = json!({ "createRuntime": [shell(&line)], "poststop": [after.hook("poststop")] });
    let draft = node.task(&image).spec(|spec| spec["hooks"] = hooks);
    let id = draft.id().to_owned();
    draft.abandon(wait::scaled(Duration::from_millis(500)))?;
    let pid: i32 = fs::read_to_string(&begun)?.trim().parse()?;
    node.until_nothing_remains()?;
    ensure!(!process::exists(pid), "the hook runs on");
    ensure!(after.lines().len() == 1, "poststop ran so often: {:?}", after.lines());
    node.api()?.delete_container(&id)?;
    Ok(())
}

/// In a pod, whose shim lives on.
fn one_that_waits_for_ever_ends_with_its_container(node: &Namespace) -> Result<()> {
    let image = image_of(node, "p1_sleep.wat")?;
    let in_pod = |spec: &mut Value| spec["annotations"]["io.kubernetes.cri.sandbox-id"] = json!("pod");
    let other = node.task(&image).spec(in_pod).create()?;
    let begun = node.directory("hook")?.join("begun");
    let line = format!("echo $$ > {}; exec sleep 1000", begun.display());
    let task = node.task(&image).spec(in_pod).spec(|spec| spec["hooks"] = json!({ "poststart": [shell(&line)] }));
    let task = task.create()?;
    let id = task.id.clone();
    let pid = thread::scope(|scope| {
        let starting = scope.spawn(|| node.api()?.start(&id).map_err(anyhow::Error::from));
        let begins = || Ok(fs::read_to_string(&begun).ok().and_then(|pid| pid.trim().parse::<i32>().ok()));
        let pid = wait::until("the hook runs", begins);
        let removed = task.remove();
        let _ = starting.join().expect("it returns errors");
        removed.and(pid)
    })?;
    wait::until("the hook ends", || Ok((!process::exists(pid)).then_some(())))?;
    other.remove()?;
    node.until_nothing_remains()
}

fn one_that_takes_too_long_is_killed(node: &Namespace) -> Result<()> {
    let image = image_of(node, "p1_hello.wat")?;
    let mut hook = shell("sleep 600; true");
    hook["timeout"] = json!(1);
    let draft = node.task(&image).spec(|spec| spec["hooks"] = json!({ "createRuntime": [hook] }));
    draft.refused(&["hook createRuntime /bin/sh was killed after 1 s"])?;
    node.until_nothing_remains()
}

fn the_last_ones_run_when_the_shim_was_killed(node: &Namespace) -> Result<()> {
    let after = Script::new(node, "echo \"$state\"")?;
    let image = image_of(node, "p1_sleep.wat")?;
    let task =
        node.task(&image).spec(|spec| spec["hooks"] = json!({ "poststop": [after.hook("poststop")] })).create()?;
    task.start_until("sleeping\n")?;
    kill(Pid::from_raw(process::parent(task.pid)?), Signal::SIGKILL)?;
    node.until_nothing_remains()?;
    wait::until("the last hook has run", || Ok((after.lines().len() == 1).then_some(())))?;
    ensure!(after.lines()[0].contains(&format!("\"id\":\"{}\"", task.id)), "{:?}", after.lines());
    let _ = task.api.delete_task(&task.id);
    task.api.delete_container(&task.id)?;
    Ok(())
}
