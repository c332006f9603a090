//! The shim's binary replaced while containers run, as a package does: a file of another release is renamed over it.
//! On a containerd with a copy of its own, so that no other case is upgraded.

use crate::Cases;
use crate::output::image_of;
use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use testkit::task::Task;
use testkit::{Containerd, Namespace, cases, process, wait};

pub(crate) const CASES: Cases = cases![
    crate::upgrade::containers_go_on_and_end_through_the_new_binary,
    crate::upgrade::a_new_binary_cleans_up_after_a_killed_old_shim,
];

/// A copy of the shim, under the name that containerd looks for.
fn copy_of(shim: &Path, node: &Namespace) -> Result<PathBuf> {
    let copy = node.directory("bin")?.join(shim.file_name().context("a path of the shim with a name")?);
    fs::copy(shim, &copy)?;
    Ok(copy)
}

/// A file of the shim: where it is, and what it says of itself.
#[derive(Debug, PartialEq)]
struct Release {
    inode: u64,
    version: String,
}

impl Release {
    fn at(path: &Path) -> Result<Release> {
        let output =
            wait::until("nobody holds the new file for writing", || match Command::new(path).arg("-v").output() {
                // A process that another case forked just now, until it is another program.
                Err(error) if error.kind() == ErrorKind::ExecutableFileBusy => Ok(None),
                output => Ok(Some(output.with_context(|| path.display().to_string())?)),
            })?;
        let version = String::from_utf8(output.stdout)?;
        Ok(Release { inode: fs::metadata(path)?.ino(), version })
    }

    /// What a task's shim runs, which may have lost its name.
    fn of(task: &Task) -> Result<Release> {
        Release::at(Path::new(&format!("/proc/{}/exe", process::parent(task.pid)?)))
    }
}

/// Puts the file of another release in the binary's place, and tells of both.
fn replace(binary: &Path) -> Result<(Release, Release)> {
    let old = Release::at(binary)?;
    let new = binary.with_extension("new");
    fs::copy(binary, &new)?;
    fs::write(&new, another(fs::read(binary)?, old.version.trim_end())?)?;
    fs::rename(&new, binary)?;
    let replaced = Release::at(binary)?;
    ensure!(old.inode != replaced.inode && old.version != replaced.version, "{replaced:?} is {old:?}");
    Ok((old, replaced))
}

/// Other bytes that do the same, and say that they are of another version.
fn another(mut bytes: Vec<u8>, version: &str) -> Result<Vec<u8>> {
    let found = bytes.windows(version.len()).position(|window| window == version.as_bytes());
    let last = found.with_context(|| format!("{version:?} is not in the binary"))? + version.len() - 1;
    bytes[last] = if bytes[last] == b'9' { b'8' } else { b'9' };
    // Behind the last section, where no loader looks.
    bytes.extend_from_slice(b"another release");
    Ok(bytes)
}

fn containers_go_on_and_end_through_the_new_binary(node: &Namespace) -> Result<()> {
    let binary = copy_of(node.containerd().shim(), node)?;
    let containerd = Containerd::start(node.containerd().version(), &binary)?;
    let own = containerd.namespace("upgrade");
    let image = image_of(&own, "p1_sleep.wat")?;
    let pod = own.fresh("pod");
    let in_pod = || own.task(&image).annotation("io.kubernetes.cri.sandbox-id", &pod).create();
    let (mut running, mut pod_first, mut created) = (own.task(&image).create()?, in_pod()?, own.task(&image).create()?);
    running.start_until("sleeping\n")?;
    pod_first.start_until("sleeping\n")?;
    let (old, new) = replace(&binary)?;
    // Calls, the start of what was created, and the pod's next container go to the process that is there.
    created.start_until("sleeping\n")?;
    let pod_second = in_pod()?;
    pod_second.start_until("sleeping\n")?;
    for task in [&running, &pod_first, &created, &pod_second] {
        ensure!(task.api.state(&task.id)?.status == "RUNNING", "{:?}", task.api.state(&task.id)?);
        ensure!(Release::of(task)? == old, "{} changed its shim: {:?}", task.id, Release::of(task)?);
    }
    let fresh = own.task(&image).create()?;
    fresh.start_until("sleeping\n")?;
    ensure!(Release::of(&fresh)? == new, "{:?} was started, not {new:?}", Release::of(&fresh)?);
    // A package restarts containerd too.
    containerd.restart(Signal::SIGTERM, || Ok(()))?;
    let mut second = pod_second;
    let mut fresh = fresh;
    for task in [&mut running, &mut pod_first, &mut created, &mut second, &mut fresh] {
        task.api = own.api()?;
        let state = task.api.state(&task.id)?;
        ensure!(state.status == "RUNNING" && state.pid == task.pid, "{state:?}");
    }
    for task in [running, pod_first, created, second, fresh] {
        let id = task.id.clone();
        task.kill(15)?;
        let end = task.finish()?;
        ensure!(end.code == 143, "{id}: {end:?}");
    }
    own.until_nothing_remains()?;
    containerd.stop()
}

fn a_new_binary_cleans_up_after_a_killed_old_shim(node: &Namespace) -> Result<()> {
    let binary = copy_of(node.containerd().shim(), node)?;
    let containerd = Containerd::start(node.containerd().version(), &binary)?;
    let own = containerd.namespace("upgraded");
    let image = image_of(&own, "p1_sleep.wat")?;
    let volume = own.directory("v")?;
    let task = own.task(&image).bind(&volume, "/missing/in/the/image", &["rbind", "ro"]).create()?;
    task.start_until("sleeping\n")?;
    let shim = process::parent(task.pid)?;
    replace(&binary)?;
    kill(Pid::from_raw(shim), Signal::SIGKILL)?;
    wait::until("the container process ends with its shim", || Ok((!process::exists(task.pid)).then_some(())))?;
    own.until_nothing_remains()?;
    let _ = task.api.delete_task(&task.id);
    task.api.delete_container(&task.id)?;
    drop(task);
    containerd.stop()
}
