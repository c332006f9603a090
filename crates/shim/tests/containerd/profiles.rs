//! The seccomp and AppArmor profiles of the spec, beside what every container has.

use crate::Cases;
use crate::output::{component_image_of, image_of};
use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use std::fs;
use std::process::Command;
use testkit::task::Draft;
use testkit::{Image, Namespace, cases, process};

pub(crate) const CASES: Cases = cases![
    crate::profiles::calls_fail_as_the_profile_says,
    crate::profiles::arguments_decide,
    crate::profiles::a_call_that_kills_is_explained,
    crate::profiles::a_profile_is_a_filter_of_its_own,
    crate::profiles::the_default_profile_of_ctr,
    crate::profiles::a_list_of_allowed_calls,
    crate::profiles::seccomp_profiles_that_cannot_be_held_to_are_refused,
];

const WITH_APPARMOR: Cases =
    cases![crate::profiles::an_apparmor_profile_is_taken_on, crate::profiles::an_absent_apparmor_profile_is_refused];
const WITHOUT_APPARMOR: Cases = cases![crate::profiles::a_kernel_without_apparmor_is_warned_of];

/// The cases for this machine's kernel.
pub(crate) fn apparmor_cases() -> Cases {
    let enabled = fs::read_to_string("/sys/module/apparmor/parameters/enabled");
    if enabled.is_ok_and(|text| text.starts_with('Y')) { WITH_APPARMOR } else { WITHOUT_APPARMOR }
}

fn with<'a>(node: &'a Namespace, image: &Image, profile: Value) -> Draft<'a> {
    node.task(image).spec(|spec| spec["linux"]["seccomp"] = profile)
}

/// A profile that lets everything through but these.
fn but(rules: Value) -> Value {
    json!({ "defaultAction": "SCMP_ACT_ALLOW", "syscalls": rules })
}

/// What the guest of file operations says under a profile.
fn operations(node: &Namespace, image: &Image, profile: Value, words: &[&str]) -> Result<(u32, String, String)> {
    let words = [&["/app.wasm"], words].concat();
    let task = with(node, image, profile).args(words).create()?;
    task.start()?;
    let end = task.finish()?;
    Ok((end.code, end.stdout, end.stderr))
}

fn calls_fail_as_the_profile_says(node: &Namespace) -> Result<()> {
    let profile = but(json!([
        { "names": ["mkdirat", "no_call_of_this_node"], "action": "SCMP_ACT_ERRNO" },
        { "names": ["unlinkat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 30 },
    ]));
    let words = ["mkdir", "/run/d", "--", "write", "/run/f", "text", "--", "read", "/run/f", "--", "unlink", "/run/f"];
    // A component has no exit codes but 0 and 1.
    for (image, wanted_code) in [(image_of(node, "p1_file.c")?, 2), (component_image_of(node, "p1_file.c")?, 1)] {
        let (code, stdout, stderr) = operations(node, &image, profile.clone(), &words)?;
        let wanted = "mkdir /run/d: EPERM\nwrite /run/f: ok\ntext\nread /run/f: ok\nunlink /run/f: EROFS\n";
        ensure!(stdout == wanted && code == wanted_code, "{code}: {stdout}: {stderr}");
    }
    Ok(())
}

fn arguments_decide(node: &Namespace) -> Result<()> {
    let image = image_of(node, "p1_file.c")?;
    // AT_REMOVEDIR, in flags that may hold more.
    let args = json!([{ "index": 2, "value": 0x200, "valueTwo": 0x200, "op": "SCMP_CMP_MASKED_EQ" }]);
    let profile = but(json!([{ "names": ["unlinkat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 13, "args": args }]));
    let words = ["mkdir", "/run/d", "--", "create", "/run/f", "--", "rmdir", "/run/d", "--", "unlink", "/run/f"];
    let (code, stdout, stderr) = operations(node, &image, profile, &words)?;
    let wanted = "mkdir /run/d: ok\ncreate /run/f: ok\nrmdir /run/d: EACCES\nunlink /run/f: ok\n";
    ensure!(stdout == wanted && code == 1, "{code}: {stdout}: {stderr}");
    Ok(())
}

fn a_call_that_kills_is_explained(node: &Namespace) -> Result<()> {
    let image = image_of(node, "p1_file.c")?;
    for action in ["SCMP_ACT_KILL", "SCMP_ACT_KILL_PROCESS", "SCMP_ACT_TRAP"] {
        let profile = but(json!([{ "names": ["mkdirat"], "action": action }]));
        let words = ["create", "/run/f", "--", "mkdir", "/run/d"];
        let (code, stdout, stderr) = operations(node, &image, profile, &words)?;
        ensure!(code == 159 && stdout == "create /run/f: ok\n", "{action}: {code}: {stdout}: {stderr}");
        let told = stderr.starts_with("killed by seccomp for a system call") && stderr.contains("allow it");
        ensure!(told, "{action}: {stderr}");
    }
    // The signal alone is not seccomp's.
    let task = node.task(&image_of(node, "p1_sleep.wat")?).create()?;
    task.start_until("sleeping\n")?;
    task.kill(31)?;
    let end = task.finish()?;
    ensure!(end.code == 159 && end.stderr.is_empty(), "{end:?}");
    Ok(())
}

fn a_profile_is_a_filter_of_its_own(node: &Namespace) -> Result<()> {
    let image = image_of(node, "p1_sleep.wat")?;
    let flags = json!(["SECCOMP_FILTER_FLAG_LOG", "SECCOMP_FILTER_FLAG_SPEC_ALLOW", "SECCOMP_FILTER_FLAG_TSYNC"]);
    let mut flagged = but(json!([]));
    flagged["flags"] = flags;
    for (profile, count) in [(Value::Null, "1"), (but(json!([])), "2"), (flagged, "2")] {
        let task = with(node, &image, profile.clone()).create()?;
        task.start_until("sleeping\n")?;
        let status = process::status(task.pid)?;
        ensure!(status["Seccomp"] == "2" && status["Seccomp_filters"] == count, "{profile}: {status:?}");
        task.remove()?;
    }
    Ok(())
}

/// The one that containerd gives to pods of RuntimeDefault, too.
fn the_default_profile_of_ctr(node: &Namespace) -> Result<()> {
    for image in [image_of(node, "p1_hello.wat")?, component_image_of(node, "p1_hello.wat")?] {
        let output = node.run(&image).flags(["--seccomp"]).expect(0)?;
        ensure!(output.text() == "hello from wasm\n" && output.errors().is_empty(), "{output}");
    }
    let words = [
        "/app.wasm",
        "mkdir",
        "/run/d",
        "--",
        "write",
        "/run/d/f",
        "x",
        "--",
        "list",
        "/run/d",
        "--",
        "unlink",
        "/run/d/f",
    ];
    let files = component_image_of(node, "p1_file.c")?;
    node.run(&files).flags(["--seccomp"]).args(words).expect(0)?;
    node.run(&image_of(node, "p1_clock.c")?).flags(["--seccomp"]).expect(0)?;
    let cat = node.run(&image_of(node, "p1_cat.c")?).flags(["--seccomp"]).stdin(b"text").expect(0)?;
    ensure!(cat.text() == "text", "{cat}");
    Ok(())
}

/// What the README says that a list needs is enough.
fn a_list_of_allowed_calls(node: &Namespace) -> Result<()> {
    let allowed = [
        "close",
        "epoll_create1",
        "epoll_ctl",
        "epoll_pwait",
        "epoll_wait",
        "eventfd2",
        "exit_group",
        "fcntl",
        "futex",
        "getrandom",
        "mmap",
        "mprotect",
        "munmap",
        "newfstatat",
        "poll",
        "ppoll",
        "read",
        "recvfrom",
        "rt_sigreturn",
        "sendto",
        "sigaltstack",
        "statx",
        "write",
    ];
    let profile = json!({
        "defaultAction": "SCMP_ACT_ERRNO",
        "syscalls": [{ "names": allowed, "action": "SCMP_ACT_ALLOW" }],
    });
    for image in [image_of(node, "p1_hello.wat")?, component_image_of(node, "p1_hello.wat")?] {
        let task = with(node, &image, profile.clone()).create()?;
        task.start()?;
        let end = task.finish()?;
        ensure!(end.code == 0 && end.stdout == "hello from wasm\n" && end.stderr.is_empty(), "{end:?}");
    }
    Ok(())
}

fn seccomp_profiles_that_cannot_be_held_to_are_refused(node: &Namespace) -> Result<()> {
    let image = image_of(node, "p1_hello.wat")?;
    let cases: &[(Value, &[&str])] = &[
        (
            json!({ "defaultAction": "SCMP_ACT_ALLOW", "listenerPath": "/run/agent.sock",
                "syscalls": [{ "names": ["mkdirat"], "action": "SCMP_ACT_NOTIFY" }] }),
            &["linux.seccomp.syscalls[0]", "SCMP_ACT_NOTIFY is not supported", "SCMP_ACT_ERRNO"],
        ),
        (json!({ "defaultAction": "SCMP_ACT_BLOCK" }), &["unknown variant `SCMP_ACT_BLOCK`", "SCMP_ACT_ERRNO"]),
        (
            but(json!([{ "names": ["mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 5000 }])),
            &["linux.seccomp.syscalls[0]", "errno 5000 is out of range", "0 to 4095"],
        ),
        (
            json!({ "defaultAction": "SCMP_ACT_ALLOW", "flags": ["SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"] }),
            &["SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV is not supported", "remove it"],
        ),
        (
            but(json!([{ "names": ["write", "mkdirat"], "action": "SCMP_ACT_KILL" }])),
            &["linux.seccomp forbids write, without which no wasm guest can run", "allow it"],
        ),
    ];
    for (profile, parts) in cases {
        with(node, &image, profile.clone()).refused(parts)?;
    }
    node.until_nothing_remains()
}

fn under_apparmor<'a>(node: &'a Namespace, image: &Image, profile: &str) -> Draft<'a> {
    node.task(image).spec(|spec| spec["process"]["apparmorProfile"] = json!(profile))
}

/// A profile in the kernel, until this is dropped.
struct Loaded {
    name: String,
    file: std::path::PathBuf,
}

impl Loaded {
    fn new(node: &Namespace, name: &str, rules: &str) -> Result<Self> {
        let file = node.directory("apparmor")?.join("profile");
        fs::write(&file, format!("profile {name} flags=(attach_disconnected,mediate_deleted) {{\n{rules}\n}}\n"))?;
        let loaded = Loaded { name: name.to_owned(), file };
        loaded.parser("--replace").context("load an apparmor profile: is apparmor_parser installed?")?;
        Ok(loaded)
    }

    fn parser(&self, what: &str) -> Result<()> {
        let output = Command::new("apparmor_parser").args([what, "--skip-cache"]).arg(&self.file).output()?;
        ensure!(output.status.success(), "{output:?}");
        Ok(())
    }
}

impl Drop for Loaded {
    fn drop(&mut self) {
        if let Err(error) = self.parser("--remove") {
            eprintln!("apparmor profile {} stays: {error:#}", self.name);
        }
    }
}

fn an_apparmor_profile_is_taken_on(node: &Namespace) -> Result<()> {
    let name = format!("wasm-test-{}", node.name());
    // Without the rights that making the container takes: they were used before.
    let loaded = Loaded::new(node, &name, "  network,\n  file,\n  signal,\n  deny /run/secret w,")?;
    let sleeping = under_apparmor(node, &image_of(node, "p1_sleep.wat")?, &name).create()?;
    let current = fs::read_to_string(format!("/proc/{}/attr/apparmor/current", sleeping.pid))?;
    ensure!(current.trim() == format!("{name} (enforce)"), "{current}");
    sleeping.start_until("sleeping\n")?;
    sleeping.remove()?;
    let words = ["/app.wasm", "create", "/run/open", "--", "create", "/run/secret"];
    let task = under_apparmor(node, &image_of(node, "p1_file.c")?, &name).args(words).create()?;
    task.start()?;
    let end = task.finish()?;
    ensure!(end.stdout == "create /run/open: ok\ncreate /run/secret: EACCES\n" && end.code == 1, "{end:?}");
    let free = under_apparmor(node, &image_of(node, "p1_sleep.wat")?, "unconfined").create()?;
    let current = fs::read_to_string(format!("/proc/{}/attr/apparmor/current", free.pid))?;
    ensure!(current.trim() == "unconfined", "{current}");
    free.remove()?;
    drop(loaded);
    Ok(())
}

fn an_absent_apparmor_profile_is_refused(node: &Namespace) -> Result<()> {
    let draft = under_apparmor(node, &image_of(node, "p1_hello.wat")?, "no-such-profile");
    draft.refused(&["change to apparmor profile no-such-profile", "load it on the node", "No such file"])?;
    node.until_nothing_remains()
}

fn a_kernel_without_apparmor_is_warned_of(node: &Namespace) -> Result<()> {
    let task = under_apparmor(node, &image_of(node, "p1_hello.wat")?, "cri-containerd.apparmor.d").create()?;
    task.start()?;
    let end = task.finish()?;
    ensure!(end.code == 0, "{end:?}");
    node.until_logged(&["process.apparmorProfile cri-containerd.apparmor.d: the node's kernel has no apparmor"])?;
    Ok(())
}
