//! A create request, decoded once.

use super::process::Streams;
use containerd_shim_protos::api::CreateTaskRequest;
use sandbox::rootfs::Layer;
use std::path::PathBuf;

/// What containerd asks to create.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) id: String,
    pub(crate) bundle: PathBuf,
    pub(crate) layers: Vec<Layer>,
    pub(crate) streams: Streams,
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
            streams: Streams {
                stdin: request.stdin,
                stdout: request.stdout,
                stderr: request.stderr,
                terminal: request.terminal,
            },
            options: options.map(|any| oci::RuntimeOptions { type_url: any.type_url, value: any.value }),
            checkpoint: Some(request.checkpoint).filter(|checkpoint| !checkpoint.is_empty()),
        }
    }
}

impl Request {
    /// Where the root filesystem is mounted.
    pub(crate) fn rootfs(&self) -> PathBuf {
        self.bundle.join("rootfs")
    }

    /// What the root filesystem consists of.
    pub(crate) fn rootfs_mounts(&self) -> Vec<oci::RootfsMount> {
        let layers = self.layers.iter().cloned();
        layers.map(|Layer { kind, source, options, .. }| oci::RootfsMount { kind, source, options }).collect()
    }
}
