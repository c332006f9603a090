//! A create request, decoded once.

use containerd_shim_protos::api::CreateTaskRequest;
use sandbox::rootfs::Layer;
use std::path::PathBuf;

/// What containerd asks to create.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) id: String,
    pub(crate) bundle: PathBuf,
    pub(crate) layers: Vec<Layer>,
    pub(crate) stdin: String,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
    pub(crate) options: Option<oci::RuntimeOptions>,
    /// A checkpoint to restore from; we have none to give.
    pub(crate) checkpoint: Option<String>,
}

impl From<CreateTaskRequest> for Request {
    fn from(request: CreateTaskRequest) -> Request {
        let layers = request.rootfs.into_iter().map(|mount| Layer {
            kind: mount.type_,
            source: mount.source,
            target: mount.target,
            options: mount.options,
        });
        let options = request.options.into_option();
        Request {
            id: request.id,
            bundle: request.bundle.into(),
            layers: layers.collect(),
            stdin: request.stdin,
            stdout: request.stdout,
            stderr: request.stderr,
            options: options.map(|any| oci::RuntimeOptions { type_url: any.type_url, value: any.value }),
            checkpoint: Some(request.checkpoint).filter(|checkpoint| !checkpoint.is_empty()),
        }
    }
}
