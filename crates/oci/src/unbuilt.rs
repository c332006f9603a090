//! What a spec may ask for and this build cannot do yet. Each check goes when its issue is built.
//! It must not turn anything into a plan.

use crate::bundle::Bundle;
use std::path::PathBuf;

/// What was asked for and is not built yet.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// `root.path` outside of the bundle: `ctr run --rootfs`.
    #[error("root filesystem {0} outside of the bundle is not built yet: run the container from an image")]
    Rootfs(PathBuf),
}

/// Refuses a root filesystem that containerd did not mount, which the rest of this crate would otherwise ignore.
pub(crate) fn refuse(bundle: &Bundle) -> Result<(), Error> {
    match foreign_root(bundle) {
        Some(root) => Err(Error::Rootfs(root)),
        None => Ok(()),
    }
}

/// A root filesystem elsewhere than containerd mounts the image's.
fn foreign_root(bundle: &Bundle) -> Option<PathBuf> {
    let path = bundle.spec.root().as_ref()?.path();
    let inside = bundle.path.join(path) == bundle.path.join("rootfs");
    (!inside && !path.as_os_str().is_empty()).then(|| path.clone())
}
