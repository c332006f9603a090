//! Builds OCI images as tars of the OCI layout, good ones and odd ones, without any container tool.
//! It knows the image format and nothing about wasm: what a layer holds is the caller's choice.

mod layout;
mod rootfs;

use anyhow::{Context, Result};
use std::fs::File;
use std::path::Path;

pub use layout::Digests;
pub use rootfs::Rootfs;

/// The layer types that carry wasm (OCI wasm artifact guidance, and what runwasi and component registries write).
pub const WASM_LAYERS: [&str; 3] = [
    "application/wasm",
    "application/vnd.wasm.content.layer.v1+wasm",
    "application/vnd.bytecodealliance.wasm.component.layer.v0+wasm",
];

/// An image to be written. Starts empty: no layer, no entrypoint, platforms linux/amd64 and linux/arm64.
#[derive(Debug, Clone)]
pub struct Image {
    reference: String,
    platforms: Vec<(String, String)>,
    config: ConfigForm,
    layers: Vec<Layer>,
    process: Process,
    bare: bool,
}

/// Which config blob the manifest names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConfigForm {
    /// `application/vnd.oci.image.config.v1+json`; `diff_ids` count the filesystem layers only.
    Plain,
    /// The same, its `diff_ids` with the layers that are no filesystem among them, as some builders write it.
    Counting,
    /// `application/vnd.wasm.config.v0+json`.
    Wasm,
    /// `application/vnd.oci.empty.v1+json`, as for an artifact without a config.
    Empty,
}

#[derive(Debug, Clone)]
enum Layer {
    /// A gzipped tar.
    Files(Rootfs),
    /// Bytes as they are.
    Blob { media_type: String, bytes: Vec<u8> },
}

/// The process part of a plain config.
#[derive(Debug, Clone, Default)]
struct Process {
    entrypoint: Vec<String>,
    env: Vec<String>,
    workdir: Option<String>,
    user: Option<String>,
}

impl Image {
    /// An empty image called `reference`, for example `test.local/hello:1`.
    pub fn new(reference: &str) -> Self {
        let platform = |architecture: &str| ("linux".to_owned(), architecture.to_owned());
        Image {
            reference: reference.to_owned(),
            platforms: vec![platform("amd64"), platform("arm64")],
            config: ConfigForm::Plain,
            layers: Vec::new(),
            process: Process::default(),
            bare: false,
        }
    }

    /// The image recipe that works everywhere: the wasm as the file `/app.wasm`, which is also the entrypoint.
    pub fn with_file(reference: &str, wasm: &[u8]) -> Self {
        Image::new(reference).rootfs(Rootfs::new().file("app.wasm", wasm)).entrypoint(["/app.wasm"])
    }

    /// The wasm as a layer of its own, platform wasi/wasm.
    pub fn with_layer(reference: &str, media_type: &str, wasm: &[u8]) -> Self {
        Image::new(reference).platform("wasi", "wasm").blob_layer(media_type, wasm).entrypoint(["app.wasm"])
    }

    /// The same by another name.
    pub fn named(mut self, reference: &str) -> Self {
        reference.clone_into(&mut self.reference);
        self
    }

    /// Its blobs.
    pub(crate) fn layout(&self) -> Result<layout::Layout> {
        layout::of(self)
    }

    /// Its name in the tar.
    pub fn reference(&self) -> &str {
        &self.reference
    }

    /// Its entrypoint.
    pub(crate) fn command(&self) -> &[String] {
        &self.process.entrypoint
    }

    /// For one platform only.
    pub fn platform(mut self, os: &str, architecture: &str) -> Self {
        self.platforms = vec![(os.to_owned(), architecture.to_owned())];
        self
    }

    /// Without an index around its manifest, as tools write images of one platform.
    pub fn bare(mut self) -> Self {
        self.bare = true;
        self
    }

    /// With this form of config.
    pub fn config(mut self, config: ConfigForm) -> Self {
        self.config = config;
        self
    }

    /// One more filesystem layer.
    pub fn rootfs(mut self, rootfs: Rootfs) -> Self {
        self.layers.push(Layer::Files(rootfs));
        self
    }

    /// One more layer of any media type, its bytes as they are.
    pub fn blob_layer(mut self, media_type: &str, bytes: &[u8]) -> Self {
        self.layers.push(Layer::Blob { media_type: media_type.to_owned(), bytes: bytes.to_vec() });
        self
    }

    /// `Entrypoint`.
    pub fn entrypoint<const N: usize>(mut self, entrypoint: [&str; N]) -> Self {
        self.process.entrypoint = entrypoint.map(str::to_owned).to_vec();
        self
    }

    /// One more `Env` entry, `NAME=VALUE`.
    pub fn env(mut self, entry: &str) -> Self {
        self.process.env.push(entry.to_owned());
        self
    }

    /// `WorkingDir`.
    pub fn workdir(mut self, path: &str) -> Self {
        self.process.workdir = Some(path.to_owned());
        self
    }

    /// `User`, as `uid`, `uid:gid` or a name of the image's `/etc/passwd`.
    pub fn user(mut self, user: &str) -> Self {
        self.process.user = Some(user.to_owned());
        self
    }

    /// Writes the tar.
    pub fn write(&self, path: &Path) -> Result<Digests> {
        let file = File::create(path).with_context(|| format!("create {}", path.display()))?;
        layout::write(self, file).with_context(|| format!("write image {}", path.display()))
    }
}
