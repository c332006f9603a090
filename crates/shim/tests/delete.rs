//! The `delete` action on what killed shims left, also those of other releases: it reads their records, or touches nothing;
//! and where nothing is left.

use anyhow::{Context, Result, ensure};
use containerd_shim_protos::api::DeleteResponse;
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use nix::unistd::Pid;
use protobuf::Message;
use serde_json::{Value, json};
use std::fs;
use std::os::unix::net::UnixListener;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, SystemTime};
use testkit::{node, process};

const SHIM: &str = env!("CARGO_BIN_EXE_containerd-shim-wasm-v1");

/// What a container whose shim was killed leaves: a bundle, a process in a cgroup, a mount point in its root filesystem.
struct Leavings {
    dir: tempfile::TempDir,
    cgroup: String,
    process: Child,
}

impl Leavings {
    fn new(name: &str) -> Result<Leavings> {
        let dir = tempfile::tempdir()?;
        for folder in ["bundle/rootfs", "lower/etc", "upper/missing/point", "work"] {
            fs::create_dir_all(dir.path().join(folder))?;
        }
        fs::write(dir.path().join("upper/written"), "by the guest")?;
        let cgroup = format!("/delete-{name}-{}/c", std::process::id());
        let process = Command::new("sleep").arg("3600").spawn()?;
        let leavings = Leavings { dir, cgroup, process };
        for folder in leavings.cgroups() {
            fs::create_dir_all(&folder)?;
            fs::write(folder.join("cgroup.procs"), leavings.process.id().to_string())?;
        }
        Ok(leavings)
    }

    fn bundle(&self) -> PathBuf {
        self.dir.path().join("bundle")
    }

    fn cgroups(&self) -> [PathBuf; 2] {
        ["pids", "memory"].map(|controller| node::cgroup(controller, &self.cgroup))
    }

    /// As release 0.1.0 writes it.
    fn record(&self) -> Value {
        let dir = |name: &str| self.dir.path().join(name).display().to_string();
        json!({
            "version": 1,
            "pid": self.process.id(),
            "cgroup": self.cgroup,
            "layers": [{
                "kind": "overlay",
                "source": "overlay",
                "target": "",
                "options": [
                    format!("lowerdir={}", dir("lower")),
                    format!("upperdir={}", dir("upper")),
                    format!("workdir={}", dir("work")),
                ],
            }],
            "mount_points": [
                { "path": "/missing", "kind": "Directory" },
                { "path": "/missing/point", "kind": "Directory" },
            ],
        })
    }

    fn write(&self, record: &Value) -> Result<()> {
        Ok(fs::write(self.bundle().join("wasm.json"), record.to_string())?)
    }

    /// As containerd runs it: in the bundle, which names the socket of a shim that is gone, if no other.
    fn delete(&self) -> Result<Output> {
        let socket = self.dir.path().join("c.sock");
        let address = self.bundle().join("address");
        if !address.exists() {
            fs::write(&address, format!("unix://{}", self.dir.path().join("gone.sock").display()))?;
        }
        let mut command = Command::new(SHIM);
        command.args(["-namespace", "n", "-id", "c", "-bundle"]).arg(self.bundle());
        command.arg("-address").arg(socket).arg("delete");
        command.current_dir(self.bundle()).stdin(Stdio::null());
        command.output().context("run the shim")
    }

    /// Fails unless all is as it was.
    fn check_untouched(&mut self) -> Result<()> {
        ensure!(self.process.try_wait()?.is_none(), "the process was ended");
        ensure!(self.cgroups().iter().all(|folder| folder.exists()), "a cgroup was removed");
        ensure!(self.dir.path().join("upper/missing/point").exists(), "the mount point was removed");
        ensure!(self.bundle().join("wasm.json").exists(), "the record was removed");
        Ok(())
    }
}

impl Drop for Leavings {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        for folder in self.cgroups() {
            let _ = fs::remove_dir(&folder);
            let _ = folder.parent().map(fs::remove_dir);
        }
    }
}

#[test]
fn a_record_of_the_first_release_is_undone() -> Result<()> {
    let mut left = Leavings::new("first")?;
    left.write(&left.record())?;
    let output = left.delete()?;
    ensure!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    let response = DeleteResponse::parse_from_bytes(&output.stdout)?;
    ensure!(response.pid == left.process.id() && response.exit_status == 137, "{response:?}");
    ensure!(left.process.wait()?.signal() == Some(9), "the process was not killed");
    let upper = left.dir.path().join("upper");
    ensure!(!upper.join("missing").exists(), "a mount point stays");
    ensure!(fs::read_to_string(upper.join("written"))? == "by the guest", "what the guest wrote is gone");
    ensure!(left.cgroups().iter().all(|folder| !folder.exists()), "a cgroup stays");
    let bundle: Vec<PathBuf> = fs::read_dir(left.bundle())?.map(|entry| Ok(entry?.path())).collect::<Result<_>>()?;
    ensure!(
        bundle.len() == 2 && bundle.iter().all(|path| path.ends_with("rootfs") || path.ends_with("address")),
        "{bundle:?}"
    );
    ensure!(!is_mounted(&left.bundle().join("rootfs"))?, "the root filesystem is mounted");
    // And again, as containerd may.
    let output = left.delete()?;
    ensure!(output.status.success(), "{output:?}");
    Ok(())
}

/// A client removes it as soon as the task is gone for it, which is before containerd runs the action.
#[test]
fn a_root_filesystem_that_is_gone_is_no_obstacle() -> Result<()> {
    let mut left = Leavings::new("gone")?;
    left.write(&left.record())?;
    for folder in ["upper", "work"] {
        fs::remove_dir_all(left.dir.path().join(folder))?;
    }
    let output = left.delete()?;
    ensure!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    ensure!(left.process.wait()?.signal() == Some(9), "the process was not killed");
    ensure!(left.cgroups().iter().all(|folder| !folder.exists()), "a cgroup stays");
    ensure!(!left.bundle().join("wasm.json").exists(), "the record stays");
    Ok(())
}

/// The shim was killed after it made the directories above the cgroup, before it marked them as its own.
#[test]
fn parents_of_a_cgroup_that_were_about_to_be_made_go_with_it() -> Result<()> {
    for (name, recorded) in [("parents", true), ("other", false)] {
        let mut left = Leavings::new(name)?;
        let parents: Vec<PathBuf> = left.cgroups().iter().filter_map(|folder| Some(folder.parent()?.into())).collect();
        let mut record = left.record();
        if recorded {
            record["parents"] = json!(parents);
        }
        left.write(&record)?;
        let output = left.delete()?;
        ensure!(output.status.success(), "{output:?}");
        ensure!(left.process.wait()?.signal() == Some(9), "the process was not killed");
        for parent in &parents {
            ensure!(parent.exists() != recorded, "{} recorded: {recorded}", parent.display());
        }
    }
    Ok(())
}

/// containerd 2.3 has only the sandbox deleted of a pod whose shim was killed.
#[test]
fn a_sandbox_s_delete_gives_back_its_pod_s_containers() -> Result<()> {
    let (mut sandbox, mut member) = (Leavings::new("sandbox")?, Leavings::new("member")?);
    sandbox.write(&sandbox.record())?;
    let listed = sandbox.bundle().join("wasm-member.json");
    let mut record = member.record();
    record["pod"] = json!(sandbox.bundle());
    fs::write(&listed, record.to_string())?;
    // One that cannot be read keeps nothing else from it.
    let unreadable = sandbox.bundle().join("wasm-other.json");
    fs::write(&unreadable, "{")?;
    // While somebody serves the pod, its containers may run.
    let socket = sandbox.dir.path().join("shim.sock");
    let listener = UnixListener::bind(&socket)?;
    fs::write(sandbox.bundle().join("address"), format!("unix://{}", socket.display()))?;
    let output = sandbox.delete()?;
    ensure!(output.status.success(), "{output:?}");
    ensure!(sandbox.process.wait()?.signal() == Some(9), "the sandbox's process was not killed");
    ensure!(member.process.try_wait()?.is_none() && listed.exists(), "the member of a live shim was ended");
    drop(listener);
    let output = sandbox.delete()?;
    ensure!(output.status.success(), "{output:?}");
    ensure!(member.process.wait()?.signal() == Some(9), "the member's process was not killed");
    ensure!(member.cgroups().iter().all(|folder| !folder.exists()), "a cgroup of the member stays");
    ensure!(!listed.exists() && unreadable.exists(), "what was done is listed, or what was not is not");
    Ok(())
}

/// The line that containerd gives, but for the flag -bundle.
const LINE: [&str; 9] =
    ["-namespace", "n", "-address", "/nowhere/c.sock", "-publish-binary", "/bin/containerd", "-id", "c", "-debug"];

/// Runs the shim and counts the page faults that it took.
fn faults(mut command: Command) -> Result<(u64, Output)> {
    let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    let pid = i32::try_from(child.id())?;
    waitid(Id::Pid(Pid::from_raw(pid)), WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT)?;
    let faults = process::faults(pid)?;
    Ok((faults, child.wait_with_output()?))
}

/// Runs the action on a bundle with this address and these files: whether it was answered before `main`, which has many
/// times the page faults behind it when it begins.
fn is_answered_at_once(line: &[&str], address: Option<&str>, files: &[String]) -> Result<bool> {
    let dir = tempfile::tempdir()?;
    for name in files {
        fs::write(dir.path().join(name), "{")?;
    }
    if let Some(address) = address {
        fs::write(dir.path().join("address"), address)?;
    }
    let mut command = Command::new(SHIM);
    command.args(line).arg("-bundle").arg(dir.path()).arg("delete");
    let (taken, output) = faults(command)?;
    let mut command = Command::new(SHIM);
    command.arg("-v");
    let (of_main, _) = faults(command)?;
    println!("{line:?}, {address:?} and {} files: {taken} page faults, -v {of_main}", files.len());
    let at_once = taken * 3 < of_main;
    if at_once || line == LINE {
        ensure!(output.status.success(), "{address:?} {files:?}: {output:?}");
        let response = DeleteResponse::parse_from_bytes(&output.stdout)?;
        let at = response.exited_at.clone().unwrap_or_default();
        let at = SystemTime::UNIX_EPOCH + Duration::new(at.seconds.try_into()?, at.nanos.try_into()?);
        ensure!((response.pid, response.exit_status) == (0, 137), "{response:?}");
        ensure!(at.elapsed()? < Duration::from_secs(60), "{response:?}");
    }
    Ok(at_once)
}

/// containerd runs the action after every task, and nearly always there is nothing to do. What decides is decided by `main`
/// as well, which is asked in all other cases.
#[test]
fn where_nothing_is_left_the_answer_comes_before_main() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let gone = format!("unix://{}/gone.sock", dir.path().display());
    let clean = |line: &[&str], files: &[String]| is_answered_at_once(line, Some(&gone), files);
    let many: Vec<String> =
        (0..200).map(|number| format!("a-long-name-of-a-file-that-is-no-record-{number}")).collect();
    ensure!(clean(&LINE, &[])?, "a clean bundle");
    ensure!(clean(&LINE, &many)?, "a clean bundle with many files");
    // Of other containers of the pod, of a shim that was killed while it wrote, and one among many.
    for record in ["wasm-other.json", ".wasm.json"] {
        ensure!(!clean(&LINE, &[record.to_owned()])?, "{record}");
    }
    ensure!(!clean(&LINE, &[many, vec!["wasm-other.json".to_owned()]].concat())?, "a record among many files");
    // Somebody may listen there; nobody knows where.
    let socket = dir.path().join("dead.sock");
    drop(UnixListener::bind(&socket)?);
    let there = format!("unix://{}", socket.display());
    ensure!(!is_answered_at_once(&LINE, Some(&there), &[])?, "a socket that is there");
    ensure!(!socket.exists(), "a dead socket stays");
    ensure!(!is_answered_at_once(&LINE, None, &[])?, "no address");
    for address in ["", "unix://", "/nowhere/a.sock", &format!("unix:///nowhere/{}", "a".repeat(300))] {
        ensure!(!is_answered_at_once(&LINE, Some(address), &[])?, "address {address:?}");
    }
    // Lines that containerd does not give: some are refused, by `main`.
    for line in
        ["-id c", "-namespace n", "-namespace n -id c stop", "-namespace n -id c -new flag", "--namespace=n -id c"]
    {
        ensure!(!clean(&line.split(' ').collect::<Vec<_>>(), &[])?, "{line}");
    }
    Ok(())
}

fn is_mounted(path: &Path) -> Result<bool> {
    let table = fs::read_to_string("/proc/self/mountinfo")?;
    let path = path.display().to_string();
    Ok(table.lines().any(|line| line.split(' ').nth(4) == Some(path.as_str())))
}

/// In one line that names the file and the remedy, with nothing on stdout.
fn check_refusal(record: impl FnOnce(Value) -> Value, parts: &[&str]) -> Result<()> {
    let mut left = Leavings::new(parts.join("").len().to_string().as_str())?;
    left.write(&record(left.record()))?;
    let output = left.delete()?;
    let text = String::from_utf8_lossy(&output.stderr);
    ensure!(!output.status.success() && output.stdout.is_empty(), "{output:?}");
    let file = left.bundle().join("wasm.json").display().to_string();
    let named = text.contains(&file) && parts.iter().all(|part| text.contains(part));
    ensure!(text.lines().count() == 1 && named, "{text}");
    left.check_untouched()
}

#[test]
fn a_record_of_a_later_release_is_refused_and_nothing_is_touched() -> Result<()> {
    let parts = ["has version 99, and this shim reads up to 1", "use the shim that wrote it"];
    let later = |mut record: Value| {
        record["version"] = json!(99);
        record
    };
    check_refusal(later, &parts)?;
    // Whatever else it says by then.
    check_refusal(|_| json!({ "version": 99, "cgroups": ["/a"], "pid": { "pidfd": true } }), &parts)
}

#[test]
fn a_record_that_is_no_record_is_refused_and_nothing_is_touched() -> Result<()> {
    check_refusal(|record| json!([record]), &["parse"])
}
