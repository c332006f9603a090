//! What a spec may ask for and this build cannot do yet. Each check goes when its issue is built.
//! It must not turn anything into a plan.

use crate::bundle::Bundle;

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
    /// `linux.sysctl`.
    #[error("sysctls are not built yet: remove {0} from the spec")]
    Sysctl(String),
}

/// Refuses what the rest of this crate would otherwise have to ignore.
pub(crate) fn refuse(bundle: &Bundle) -> Result<(), Error> {
    // Issue 7 (pods through CRI) replaces this check by a plan for the pause container.
    if bundle.annotations.get(CONTAINER_TYPE).is_some_and(|kind| kind == "sandbox") {
        return Err(Error::Sandbox);
    }
    if bundle.process.terminal() == Some(true) {
        return Err(Error::Terminal);
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
