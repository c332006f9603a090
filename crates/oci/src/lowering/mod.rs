//! The lowering table: each part of the OCI spec to its place in the plan, or an error.
//! Invariant: nothing of the spec is dropped silently, except what this page lists, because the container process has
//! less than it in any case:
//! - `process.capabilities`: all are dropped;
//! - `process.noNewPrivileges`: always on;
//! - `process.selinuxLabel`, `linux.mountLabel`: the guest reaches no system call directly;
//! - `linux.maskedPaths`, `linux.readonlyPaths`: they lie in `/proc` and `/sys`, which are not mounted;
//! - `linux.resources.devices`, `.hugepageLimits`, `.blockIO`, `.network`, `.rdma`, `.unified`, `.memory` but its limit:
//!   CRI sends them for every container (later issue: update and systemd cgroups).

mod invocation;
mod isolation;
mod limits;
mod mounts;
mod paths;
mod seccomp;

use crate::bundle::Bundle;
use crate::settings::{Settings, narrower};
use plan::{Invocation, Isolation, Limits, Mount, RootAccess};
use std::path::PathBuf;

pub use invocation::Error as InvocationError;
pub use isolation::Error as IsolationError;
pub use mounts::Error as MountError;
pub use seccomp::Error as SeccompError;

/// Why the spec cannot be lowered.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Arguments, environment or working directory.
    #[error(transparent)]
    Invocation(#[from] InvocationError),
    /// A mount.
    #[error(transparent)]
    Mount(#[from] MountError),
    /// User, namespaces, cgroup.
    #[error(transparent)]
    Isolation(#[from] IsolationError),
    /// An annotation widens what the spec narrows.
    #[error(
        "annotation rootfs = rw, but the root filesystem is read-only in the spec: remove the annotation or readOnlyRootFilesystem"
    )]
    WidenedRoot,
}

/// All of the plan but the wasm.
#[derive(Debug)]
pub(crate) struct Parts {
    pub(crate) invocation: Invocation,
    pub(crate) root: RootAccess,
    pub(crate) mounts: Vec<Mount>,
    pub(crate) limits: Limits,
    pub(crate) isolation: Isolation,
    pub(crate) termination_file: Option<PathBuf>,
    /// What the user should know and need not act on at once.
    pub(crate) warnings: Vec<String>,
}

/// Lowers the spec of container `id` in containerd's `namespace`.
pub(crate) fn lower(bundle: &Bundle, settings: &Settings, namespace: &str, id: &str) -> Result<Parts, Error> {
    let mut warnings = Vec::new();
    let mounts = mounts::lower(bundle, &mut warnings)?;
    let termination_file = mounts::termination_file(&bundle.annotations, &mounts);
    Ok(Parts {
        invocation: invocation::lower(&bundle.process)?,
        root: root(bundle, settings)?,
        limits: limits::lower(&bundle.linux, settings.memory_bytes, &mut warnings),
        isolation: isolation::lower(bundle, namespace, id, &mut warnings)?,
        mounts,
        termination_file,
        warnings,
    })
}

/// The spec's `root.readonly` is the ceiling; an operator's bound lowers it; an annotation chooses below both.
fn root(bundle: &Bundle, settings: &Settings) -> Result<RootAccess, Error> {
    let root = bundle.spec.root().as_ref();
    let ceiling = match root.and_then(|root| root.readonly()) {
        Some(true) => RootAccess::ReadOnly,
        Some(false) | None => RootAccess::ReadWrite,
    };
    match settings.rootfs_asked {
        None => Ok(narrower(ceiling, settings.rootfs_bound)),
        Some(RootAccess::ReadWrite) if ceiling == RootAccess::ReadOnly => Err(Error::WidenedRoot),
        Some(asked) => Ok(asked),
    }
}
