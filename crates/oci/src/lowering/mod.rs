//! The lowering table: each part of the OCI spec to its place in the plan, or an error.
//! Invariant: nothing of the spec is dropped silently, except what this page lists, because the container process has
//! less than it in any case:
//! - `process.capabilities`: all are dropped, but the one for low ports where a server is to listen on one;
//! - `process.noNewPrivileges`: always on;
//! - `process.selinuxLabel`, `linux.mountLabel`: the guest reaches no system call directly;
//! - `linux.maskedPaths`, `linux.readonlyPaths`: they lie in `/proc` and `/sys`, which are not mounted;
//! - some of `linux.resources`: see `limits`.

mod hooks;
mod invocation;
mod isolation;
mod limits;
mod mounts;
mod paths;
mod seccomp;
mod sysctls;
mod user_namespace;

use crate::bundle::{Bundle, Role};
use crate::settings::{Settings, narrower};
use oci_spec::runtime::{LinuxNamespaceType, LinuxResources, Process};
use plan::{Hooks, Invocation, Isolation, Limits, LinuxPlan, Listen, Mount, Numbering, Rlimit, RootAccess, User};
use std::path::PathBuf;

pub use hooks::Error as HookError;
pub use invocation::Error as InvocationError;
pub use isolation::Error as IsolationError;
pub use limits::Error as LimitError;
pub use mounts::Error as MountError;
pub use seccomp::Error as SeccompError;
pub use sysctls::Error as SysctlError;
pub use user_namespace::Error as UserNamespaceError;

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
    /// A hook.
    #[error(transparent)]
    Hook(#[from] HookError),
    /// Resources.
    #[error(transparent)]
    Limit(#[from] LimitError),
    /// An annotation widens what the spec narrows.
    #[error(
        "annotation rootfs = rw, but the root filesystem is read-only in the spec: remove the annotation or readOnlyRootFilesystem"
    )]
    WidenedRoot,
}

/// All of the plan but the wasm.
#[derive(Debug)]
pub(crate) struct Parts {
    pub(crate) root: RootAccess,
    pub(crate) mounts: Vec<Mount>,
    pub(crate) limits: Limits,
    pub(crate) isolation: Isolation,
    pub(crate) hooks: Hooks,
    pub(crate) termination_file: Option<PathBuf>,
    /// What the user should know and need not act on at once.
    pub(crate) warnings: Vec<String>,
}

/// Lowers the spec of container `id` in containerd's `namespace`.
pub(crate) fn lower(bundle: &Bundle, settings: &Settings, namespace: &str, id: &str) -> Result<Parts, Error> {
    let mut warnings = Vec::new();
    let mut isolation = isolation::lower(bundle, namespace, id, &mut warnings)?;
    let serves = bundle.role() == Role::Container;
    isolation.user.low_ports =
        serves && listens_low(&settings.http.listen) && isolation::may_have_low_ports(&bundle.process);
    let mounts = match bundle.role() {
        // Nobody looks at the files of a pause container.
        Role::Sandbox => Vec::new(),
        Role::Container => mounts::lower(bundle, isolation.user_namespace.as_ref(), &mut warnings)?,
    };
    let termination_file = mounts::termination_file(&bundle.annotations, &mounts);
    Ok(Parts {
        root: root(bundle, settings)?,
        limits: Limits {
            timeout: settings.timeout,
            fuel: settings.fuel,
            ..limits::lower(bundle.linux.resources().as_ref(), settings.memory_bytes, &mut warnings)?
        },
        isolation,
        hooks: hooks::lower(bundle)?,
        mounts,
        termination_file,
        warnings,
    })
}

/// Lowers what the program is called with.
pub(crate) fn lower_invocation(process: &Process) -> Result<Invocation, Error> {
    Ok(invocation::lower(process)?)
}

/// Who a process is, apart from its container.
#[derive(Debug)]
pub(crate) struct Identity {
    pub(crate) user: User,
    pub(crate) rlimits: Vec<Rlimit>,
    pub(crate) oom_score_adj: Option<i32>,
    pub(crate) apparmor: Option<String>,
}

/// Lowers who a process is.
pub(crate) fn lower_identity(process: &Process) -> Result<Identity, Error> {
    Ok(isolation::identity(process)?)
}

/// Lowers the little that has to be known of a container that runc makes of the same spec.
pub(crate) fn lower_linux(bundle: &Bundle, runtime: PathBuf, namespace: &str, id: &str) -> Result<LinuxPlan, Error> {
    let resources = bundle.linux.resources().as_ref();
    let memory = resources.and_then(|resources| resources.memory().as_ref()?.limit());
    let listed = bundle.linux.namespaces().iter().flatten();
    let own = listed.filter(|one| one.typ() == LinuxNamespaceType::Pid).any(|one| one.path().is_none());
    Ok(LinuxPlan {
        id: id.to_owned(),
        runtime,
        cgroup: isolation::cgroup(bundle.linux.cgroups_path().as_deref(), namespace, id)?,
        memory_limit_bytes: memory.and_then(|limit| u64::try_from(limit).ok()),
        numbering: if own { Numbering::Own } else { Numbering::Shared },
    })
}

/// Whether it is on a port that the kernel keeps for privileged processes.
fn listens_low(listen: &Listen) -> bool {
    const FIRST_FREE: u16 = 1024;
    matches!(listen, Listen::On(address) if (1..FIRST_FREE).contains(&address.port()))
}

/// Lowers the resources of an update: what they leave out stays as it is.
pub(crate) fn lower_update(resources: &LinuxResources, warnings: &mut Vec<String>) -> Result<Limits, Error> {
    Ok(limits::lower(Some(resources), None, warnings)?)
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
