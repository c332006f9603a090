//! The `delete` action: undoes what a container owns when its shim is gone.
//! containerd runs it on every task delete too. Where a bundle has no record, and the socket is gone that its address names,
//! `prologue` has answered: what is to be undone without a record has to be told there as well.

use crate::address::Address;
use crate::args::Args;
use crate::runc::STATE;
use crate::wire::timestamp;
use anyhow::Context;
use containerd_shim_protos::api::DeleteResponse;
use prologue::KILLED;
use protobuf::{Message, MessageField};
use sandbox::cgroup::{Cgroup, Parents};
use sandbox::hooks::{self, Moment, Place};
use sandbox::rootfs::RootfsError;
use sandbox::{Record, Runtime, rootfs};
use std::fs;
use std::future::pending;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::SystemTime;

pub(crate) fn delete(args: &Args) -> anyhow::Result<()> {
    let bundle = match &args.bundle {
        Some(bundle) => bundle.clone(),
        None => std::env::current_dir().context("find the bundle: delete runs in it")?,
    };
    let mut response = DeleteResponse::new();
    response.exit_status = KILLED;
    response.exited_at = MessageField::some(timestamp(SystemTime::now()));
    let record = Record::load(&bundle)?;
    if let Some(record) = &record {
        response.pid = record.pid.unwrap_or_default();
        end(&args.id, &bundle, record)?;
    }
    let members = Record::listed(&bundle);
    // Those of a shim that lives may run. Without any, nobody is asked: a shim that leaves takes its time to answer.
    if !members.is_empty() && Address::load(&bundle).is_some_and(|address| !address.is_served()) {
        members.iter().for_each(|member| give_back(member, &bundle));
    }
    if let Some(record) = &record {
        remove_mount_points(&bundle, record)?;
        run_hooks(&args.id, record)?;
        record.remove(&bundle)?;
    }
    // Where create failed because the shim was killed, containerd may remove the bundle at this very moment.
    let address = Address::load(&bundle).or_else(|| Address::at(&args.address, &args.namespace, &args.id, None).ok());
    if let Some(address) = address {
        address.remove_if_dead()?;
    }
    Ok(std::io::stdout().write_all(&response.write_to_bytes()?)?)
}

/// Ends what is left of another container of the pod: containerd 2.3 forgets it, its bundle removed or not. Its own delete may
/// come too, where its bundle is there. What fails keeps nothing else from it.
fn give_back(bundle: &Path, pod: &Path) {
    let id = bundle.file_name().unwrap_or_default().to_string_lossy();
    let ended = (|| {
        let Some(record) = Record::load_listed(bundle, pod)? else { return Ok(()) };
        end(&id, bundle, &record)?;
        if bundle.exists() {
            return Ok(());
        }
        run_hooks(&id, &record)?;
        anyhow::Ok(record.remove(bundle)?)
    })();
    if let Err(error) = ended {
        let error = plan::one_line(error.as_ref());
        warn(&id, &format!("something of a container whose shim was killed stays: {error}"));
    }
}

/// Ends its processes, and removes its cgroup.
fn end(id: &str, bundle: &Path, record: &Record) -> anyhow::Result<()> {
    if let Some(Runtime { binary, args }) = &record.runtime {
        // What it says of a container that is not there is no failure.
        let deleted = Command::new(binary).args(args).args(["delete", "--force", id]).output();
        // Its processes are found by their cgroup all the same.
        match deleted {
            Ok(deleted) if deleted.status.success() => {}
            Ok(deleted) => {
                let said = plan::printable_line(&String::from_utf8_lossy(&deleted.stderr));
                warn(id, &format!("{} did not delete it: {said}", binary.display()));
            }
            Err(error) => warn(id, &format!("{} cannot be run: {error}", binary.display())),
        }
    }
    let cgroup = Cgroup::at(&record.cgroup).context("find the container's cgroup")?;
    let parents = Parents::of(&record.cgroup).context("find the cgroups above the container's")?;
    parents.adopt(&record.parents);
    cgroup.remove_blocking()?;
    if record.runtime.is_some() {
        // Its state was in the bundle, and may be gone with it.
        parents.remove_cgroup();
    }
    parents.remove();
    if record.runtime.is_some() {
        // The mounts of such a container are the node's.
        rootfs::unmount(&bundle.join("rootfs"))?;
        // Its runtime makes the folder of its state where there is none, also in a bundle that containerd has removed.
        // Neither goes while something is in it.
        let _ = fs::remove_dir(bundle.join(STATE));
        let _ = fs::remove_dir(bundle);
    }
    Ok(())
}

/// From then on this process sees no mounts of the node but those that it makes.
fn remove_mount_points(bundle: &Path, record: &Record) -> anyhow::Result<()> {
    if record.mount_points.is_empty() {
        return Ok(());
    }
    let root: PathBuf = bundle.join("rootfs");
    // The shim's mounts ended with it. The mount points it made are below them.
    rootfs::enter_own_mount_namespace().context("make a mount namespace")?;
    match rootfs::mount_all(&root, &record.layers) {
        // Clients may remove the snapshot as soon as the task is gone for them, and the mount points with it.
        Err(RootfsError::Mount { source, .. }) if source.kind() == io::ErrorKind::NotFound => return Ok(()),
        mounted => mounted?,
    }
    for point in record.mount_points.iter().rev() {
        rootfs::remove_mount_point(&root, point);
    }
    Ok(rootfs::unmount(&root)?)
}

/// One that fails is told, and keeps none of the others from running.
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
            warn(id, &format!("a hook failed: {}", plan::one_line(&error)));
        }
    }
    Ok(())
}

/// Says it to containerd, which logs what this action writes to stderr: it has no log of its own.
fn warn(id: &str, what: &str) {
    eprintln!("containerd-shim-wasm-v1: {id}: {what}");
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Else it would say that nothing is left.
    #[test]
    fn the_prologue_knows_the_names_of_records() {
        for name in Record::NAMES {
            assert!(prologue::RECORDS.iter().any(|beginning| name.starts_with(beginning)), "{name}");
        }
    }
}
