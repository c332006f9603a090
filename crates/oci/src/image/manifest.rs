//! Reads image indexes and manifests: which manifest fits the node, which layers are wasm.
//! It must not do I/O.

use oci_spec::image::{Arch, Descriptor, ImageIndex, ImageManifest};
use serde::Deserialize;

/// Wasm as a layer, in the forms that tools write today (CNCF TAG Runtime's Wasm OCI artifact, and its two forerunners).
const WASM_TYPES: [&str; 3] = [
    "application/wasm",
    "application/vnd.wasm.content.layer.v1+wasm",
    "application/vnd.bytecodealliance.wasm.component.layer.v0+wasm",
];
/// BuildKit lists its attestations as manifests of this platform.
const NO_PLATFORM: &str = "unknown/unknown";

/// A document of an image, told by its fields: media types in the wild are missing or wrong too often.
#[derive(Debug)]
pub(super) enum Document {
    Index(Box<ImageIndex>),
    Manifest(Box<ImageManifest>),
}

/// The layers of a manifest that are not a root filesystem's.
#[derive(Debug)]
pub(super) struct Sorted<'a> {
    pub(super) wasm: Vec<&'a Descriptor>,
    /// Media types.
    pub(super) unknown: Vec<String>,
}

/// Parses an index or a manifest.
pub(super) fn parse(text: &[u8]) -> Result<Document, serde_json::Error> {
    #[derive(Deserialize)]
    struct Shape {
        manifests: Option<serde::de::IgnoredAny>,
    }
    let shape: Shape = serde_json::from_slice(text)?;
    if shape.manifests.is_some() {
        serde_json::from_slice(text).map(|index| Document::Index(Box::new(index)))
    } else {
        serde_json::from_slice(text).map(|manifest| Document::Manifest(Box::new(manifest)))
    }
}

/// The manifests to try, in this order: `wasi/wasm`, the node's platform; if the index has neither, its only one.
pub(super) fn candidates(index: &ImageIndex, host: Arch) -> Vec<&Descriptor> {
    let host = format!("linux/{host}");
    let of = |wanted: &str| {
        let all = index.manifests().iter();
        all.filter(|one| platform(one).as_deref() == Some(wanted)).collect::<Vec<_>>()
    };
    let mut fitting = of("wasi/wasm");
    fitting.extend(of(&host));
    if !fitting.is_empty() {
        return fitting;
    }
    let runnable = index.manifests().iter();
    let runnable: Vec<_> = runnable.filter(|one| platform(one).as_deref() != Some(NO_PLATFORM)).collect();
    match runnable.as_slice() {
        [_] => runnable,
        _ => Vec::new(),
    }
}

/// The platforms an index lists, for telling the user.
pub(super) fn platforms(index: &ImageIndex) -> Vec<String> {
    let all = index.manifests().iter();
    all.filter_map(platform).filter(|platform| platform != NO_PLATFORM).collect()
}

/// The node's architecture, as images name it.
pub(super) fn host() -> Arch {
    Arch::default()
}

/// Tells wasm layers, and those of unknown types, from the layers of a root filesystem.
pub(super) fn sort_layers(manifest: &ImageManifest) -> Sorted<'_> {
    let mut sorted = Sorted { wasm: Vec::new(), unknown: Vec::new() };
    for layer in manifest.layers() {
        let media_type = layer.media_type().as_ref();
        if WASM_TYPES.contains(&media_type) {
            sorted.wasm.push(layer);
        } else if !is_tar(media_type) {
            sorted.unknown.push(media_type.to_owned());
        }
    }
    sorted
}

/// `application/vnd.oci.image.layer.v1.tar+gzip`, `application/vnd.docker.image.rootfs.diff.tar.gzip` and their kin.
fn is_tar(media_type: &str) -> bool {
    media_type.split(['.', '+']).any(|part| part == "tar")
}

fn platform(descriptor: &Descriptor) -> Option<String> {
    let platform = descriptor.platform().as_ref()?;
    Some(format!("{}/{}", platform.os(), platform.architecture()))
}

#[cfg(test)]
#[path = "manifest_tests.rs"]
mod tests;
