//! The `delete` action: undoes what a container owns when its shim is gone.
//! containerd runs it on every task delete too, where there is nothing left to do: then it leaves at once.

use crate::address::Address;
use crate::args::Args;
use crate::wire::timestamp;
use anyhow::Context;
use containerd_shim_protos::api::DeleteResponse;
use protobuf::{Message, MessageField};
use sandbox::cgroup::{Cgroup, Parents};
use sandbox::hooks::{self, Moment, Place};
use sandbox::rootfs::RootfsError;
use sandbox::{Record, Runtime, rootfs};
use std::future::pending;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::SystemTime;

/// The exit code of a container whose shim was killed: it was killed with it.
const KILLED: u32 = 137;

pub(crate) fn delete(args: &Args) -> anyhow::Result<()> {
    let bundle = match &args.bundle {
        Some(bundle) => bundle.clone(),
        None => std::env::current_dir().context("find the bundle: delete runs in it")?,
    };
    let mut response = DeleteResponse::new();
    response.exit_status = KILLED;
    response.exited_at = MessageField::some(timestamp(SystemTime::now()));
    // Where create failed because the shim was killed, containerd may remove the bundle at this very moment.
    let address = Address::load(&bundle).or_else(|| Address::at(&args.address, &args.namespace, &args.id, None).ok());
    let members = Record::listed(&bundle)?;
    // Those of a shim that lives may run.
    if !members.is_empty() && !address.as_ref().is_some_and(Address::is_served) {
        for (member, record) in members {
            give_back(&member, &record);
            Record::unlist(&member, &bundle)?;
        }
    }
    if let Some(record) = Record::load(&bundle)? {
        response.pid = record.pid.unwrap_or_default();
        undo(&args.id, &bundle, &record)?;
        run_hooks(&args.id, &record)?;
        Record::remove(&bundle)?;
    }
    if let Some(address) = address {
        address.remove_if_dead()?;
    }
    Ok(std::io::stdout().write_all(&response.write_to_bytes()?)?)
}

/// Undoes what a container of the pod owns: containerd may forget it with its bundle, or may have it deleted by itself too.
/// What fails keeps nothing else from it.
fn give_back(bundle: &Path, record: &Record) {
    let id = bundle.file_name().unwrap_or_default().to_string_lossy();
    let undone = undo(&id, bundle, record).and_then(|()| {
        // Without its record in a bundle that is there, its own delete came first, or has nothing left to do.
        match bundle.exists() && !Record::remove(bundle)? {
            true => Ok(()),
            false => run_hooks(&id, record),
        }
    });
    if let Err(error) = undone {
        tracing::warn!(%id, error = plan::one_line(error.as_ref()), "something of a container whose shim was killed stays");
    }
}

fn undo(id: &str, bundle: &Path, record: &Record) -> anyhow::Result<()> {
    if let Some(Runtime { binary, args }) = &record.runtime {
        // What it says of a container that is not there is no failure.
        let deleted = Command::new(binary).args(args).args(["delete", "--force", id]).output();
        // Its processes are found by their cgroup all the same.
        match deleted {
            Ok(deleted) if deleted.status.success() => {}
            Ok(deleted) => {
                let said = plan::printable_line(&String::from_utf8_lossy(&deleted.stderr));
                tracing::warn!(id, said, "the container's runtime did not delete it");
            }
            Err(error) => {
                tracing::warn!(id, %error, runtime = %binary.display(), "the container's runtime cannot be run")
            }
        }
    }
    let cgroup = Cgroup::at(&record.cgroup).context("find the container's cgroup")?;
    let parents = Parents::of(&record.cgroup).context("find the cgroups above the container's")?;
    parents.adopt(&record.parents);
    cgroup.remove_blocking()?;
    parents.remove();
    let root: PathBuf = bundle.join("rootfs");
    if record.runtime.is_some() {
        // The mounts of such a container are the node's.
        rootfs::unmount(&root)?;
    }
    if record.mount_points.is_empty() {
        return Ok(());
    }
    // The shim's mounts ended with it. The mount points it made are below them.
    rootfs::enter_own_mount_namespace().context("make a mount namespace")?;
    match rootfs::mount_all(&root, &record.layers) {
        // Clients may remove the snapshot as soon as the task is gone for them, and the mount points with it.
        Err(RootfsError::Mount { source, .. }) if source.kind() == io::ErrorKind::NotFound => return Ok(()),
        mounted => mounted?,
    }
    rootfs::remove_mount_points(&root, &record.mount_points);
    Ok(rootfs::unmount(&root)?)
}

/// One that fails is logged, and keeps none of the others from running.
fn run_hooks(id: &str, record: &Record) -> anyhow::Result<()> {
    if record.poststop.is_empty() {
        return Ok(());
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("make the runtime")?;
    for hook in &record.poststop {
        // Forked outside of the runtime, as everywhere.
        let moment = Moment { id, pid: None, status: "stopped" };
        let ran = hooks::spawn(hook, &Place::Runtime, &record.told, moment);
        if let Err(error) = ran.and_then(|running| runtime.block_on(running.finish(hook, pending()))) {
            tracing::warn!(id, error = plan::one_line(&error), "a hook failed");
        }
    }
    Ok(())
}
