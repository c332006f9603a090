//! What a spec may ask for and this build cannot do yet. Each check goes when its issue is built.
//! It must not turn anything into a plan.

use crate::bundle::Bundle;
use std::path::PathBuf;

/// `sandbox` for the pause container of a pod, `container` for the others (containerd, `internal/cri/annotations`).
const CONTAINER_TYPE: &str = "io.kubernetes.cri.container-type";

/// What was asked for and is not built yet.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The pause container of a pod.
    #[error("pods are not built yet: run the container with ctr, without a pod sandbox")]
    Sandbox,
    /// `process.terminal`.
    #[error("terminals are not built yet: run the container without a tty")]
    Terminal,
    /// OCI hooks, which must not be skipped silently.
    #[error("oci hooks are not built yet: remove {0} from the spec")]
    Hooks(&'static str),
    /// `root.path` outside of the bundle: `ctr run --rootfs`.
    #[error("root filesystem {0} outside of the bundle is not built yet: run the container from an image")]
    Rootfs(PathBuf),
    /// `linux.sysctl`.
    #[error("sysctls are not built yet: remove {0} from the spec")]
    Sysctl(String),
}

/// Refuses what the rest of this crate would otherwise have to ignore.
pub(crate) fn refuse(bundle: &Bundle) -> Result<(), Error> {
    if bundle.annotations.get(CONTAINER_TYPE).is_some_and(|kind| kind == "sandbox") {
        return Err(Error::Sandbox);
    }
    if bundle.process.terminal() == Some(true) {
        return Err(Error::Terminal);
    }
    if let Some(root) = foreign_root(bundle) {
        return Err(Error::Rootfs(root));
    }
    if let Some(hook) = first_hook(bundle) {
        return Err(Error::Hooks(hook));
    }
    let sysctls = bundle.linux.sysctl().iter().flat_map(|all| all.keys());
    match sysctls.min() {
        Some(name) => Err(Error::Sysctl(name.clone())),
        None => Ok(()),
    }
}

/// A root filesystem elsewhere than containerd mounts the image's.
fn foreign_root(bundle: &Bundle) -> Option<PathBuf> {
    let path = bundle.spec.root().as_ref()?.path();
    let inside = bundle.path.join(path) == bundle.path.join("rootfs");
    (!inside && !path.as_os_str().is_empty()).then(|| path.clone())
}

fn first_hook(bundle: &Bundle) -> Option<&'static str> {
    let hooks = bundle.spec.hooks().as_ref()?;
    let kinds = [
        ("hooks.prestart", hooks.prestart()),
        ("hooks.createRuntime", hooks.create_runtime()),
        ("hooks.createContainer", hooks.create_container()),
        ("hooks.startContainer", hooks.start_container()),
        ("hooks.poststart", hooks.poststart()),
        ("hooks.poststop", hooks.poststop()),
    ];
    kinds.into_iter().find(|(_, list)| list.as_ref().is_some_and(|list| !list.is_empty())).map(|(name, _)| name)
}
