//! The shim's binary replaced while containers run, as a package does: a new file is renamed over the path.
//! On a containerd with a copy of its own, so that no other case is upgraded.

use crate::Cases;
use crate::output::image_of;
use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
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

/// Puts another file in the binary's place, and tells the inodes of both.
fn replace(binary: &Path) -> Result<(u64, u64)> {
    let old = fs::metadata(binary)?.ino();
    let new = binary.with_extension("new");
    fs::copy(binary, &new)?;
    fs::rename(&new, binary)?;
    Ok((old, fs::metadata(binary)?.ino()))
}

/// The inode of what a task's shim runs, which may have lost its name.
fn binary_of(task: &Task) -> Result<u64> {
    Ok(fs::metadata(format!("/proc/{}/exe", process::parent(task.pid)?))?.ino())
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
    ensure!(old != new, "the same file");
    // Calls, the start of what was created, and the pod's next container go to the process that is there.
    created.start_until("sleeping\n")?;
    let pod_second = in_pod()?;
    pod_second.start_until("sleeping\n")?;
    for task in [&running, &pod_first, &created, &pod_second] {
        ensure!(task.api.state(&task.id)?.status == "RUNNING", "{:?}", task.api.state(&task.id)?);
        ensure!(binary_of(task)? == old, "{} changed its shim", task.id);
    }
    let fresh = own.task(&image).create()?;
    fresh.start_until("sleeping\n")?;
    ensure!(binary_of(&fresh)? == new, "the old binary was started");
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
