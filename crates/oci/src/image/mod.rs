//! Finds the wasm layer of a container's image.
//! It must not know the root filesystem.

mod containerd;
mod manifest;
mod store;

use crate::Containerd;
use containerd::Client;
use manifest::Document;
use oci_spec::image::ImageManifest;
use plan::{Digest, DigestError};
use std::path::PathBuf;
use store::Store;

pub use containerd::Error as ContainerdError;
pub use store::Error as StoreError;

pub(crate) use store::stream;

/// Indexes and manifests that one search reads at most: an index of indexes must not lead around in a circle.
const MAX_DOCUMENTS: usize = 16;

/// Why the layers of an image are not known.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Asking containerd.
    #[error(transparent)]
    Containerd(#[from] ContainerdError),
    /// Reading its content store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// `ctr run --rootfs`.
    #[error("container {0} has no image: run it from an image, or let args[0] name a .wasm file")]
    NoImage(String),
    /// Not an index or a manifest.
    #[error("{digest} of {image} is neither an image index nor an image manifest: build the image again")]
    Document {
        /// The image's name.
        image: String,
        /// Of the document.
        digest: Digest,
        /// The place and the reason.
        #[source]
        source: serde_json::Error,
    },
    /// A digest of another algorithm.
    #[error("{image} has a digest that is not supported")]
    Digest {
        /// The image's name.
        image: String,
        /// Which.
        #[source]
        source: DigestError,
    },
    /// No manifest for this node, or containerd did not fetch it.
    #[error(
        "{image} has no manifest for wasi/wasm or {host} in containerd's store (it lists {listed}): pull or build it for one of them"
    )]
    NoManifest {
        /// The image's name.
        image: String,
        /// The node's platform.
        host: String,
        /// The platforms that the image's index lists.
        listed: String,
    },
    /// Composition of several layers comes with a later issue.
    #[error("{image} has {count} wasm layers: several layers are not built yet, ship one")]
    SeveralLayers {
        /// The image's name.
        image: String,
        /// Wasm layers.
        count: usize,
    },
    /// The manifest names a blob that is not there.
    #[error("layer {digest} of {image} is not in containerd's store: pull the image again")]
    NoBlob {
        /// The image's name.
        image: String,
        /// Of the layer.
        digest: Digest,
    },
}

/// What wasm an image has as layers.
#[derive(Debug)]
pub(crate) enum Layers {
    /// Exactly one.
    Wasm(WasmLayer),
    /// None.
    None {
        /// The image's name.
        image: String,
        /// Media types of layers that are neither wasm nor a part of a root filesystem.
        unknown: Vec<String>,
    },
}

/// A wasm layer of an image.
#[derive(Debug)]
pub(crate) struct WasmLayer {
    /// The image's name.
    pub(crate) image: String,
    pub(crate) digest: Digest,
    /// Bytes.
    pub(crate) size: u64,
    /// The blob in the content store, if it is readable.
    pub(crate) blob: Option<PathBuf>,
    pub(crate) first_bytes: Vec<u8>,
}

/// Looks up the wasm layers of the container's image.
pub(crate) async fn layers(containerd: &Containerd, id: &str) -> Result<Layers, Error> {
    let client = Client::connect(containerd).await?;
    let image = client.image_of(id).await?;
    if image.is_empty() {
        return Err(Error::NoImage(id.to_owned()));
    }
    let target = parse_digest(&image, &client.target_of(&image).await?)?;
    let store = Store::open(client).await?;
    let manifest = read_manifest(&store, &image, target).await?;
    let sorted = manifest::sort_layers(&manifest);
    match sorted.wasm.as_slice() {
        [] => Ok(Layers::None { image, unknown: sorted.unknown }),
        [layer] => {
            let digest = parse_digest(&image, layer.digest().as_ref())?;
            match store.first_bytes(&digest).await? {
                Some((first_bytes, blob)) => {
                    Ok(Layers::Wasm(WasmLayer { image, digest, size: layer.size(), blob, first_bytes }))
                }
                None => Err(Error::NoBlob { image, digest }),
            }
        }
        several => Err(Error::SeveralLayers { count: several.len(), image }),
    }
}

/// The last part of an image's name without tag and digest: `hello` of `ghcr.io/acme/hello:1@sha256:…`.
pub(crate) fn base_name(image: &str) -> &str {
    let name = image.split_once('@').map_or(image, |(name, _)| name);
    let last = name.rsplit('/').next().unwrap_or(name);
    last.split_once(':').map_or(last, |(base, _)| base)
}

/// Walks from the image's target to the first manifest that fits the node and is in the store. containerd fetches only
/// the platforms it was asked for, so that an index may list more than there is.
async fn read_manifest(store: &Store, image: &str, target: Digest) -> Result<Box<ImageManifest>, Error> {
    let mut listed = Vec::new();
    let mut open = vec![target];
    for _ in 0..MAX_DOCUMENTS {
        let Some(digest) = open.pop() else { break };
        let Some(text) = store.document(&digest).await? else {
            continue;
        };
        let document =
            manifest::parse(&text).map_err(|source| Error::Document { image: image.to_owned(), digest, source })?;
        match document {
            Document::Manifest(manifest) => return Ok(manifest),
            Document::Index(index) => {
                listed.extend(manifest::platforms(&index));
                // The last is taken first.
                for descriptor in manifest::candidates(&index, manifest::host()).iter().rev() {
                    open.push(parse_digest(image, descriptor.digest().as_ref())?);
                }
            }
        }
    }
    Err(Error::NoManifest {
        image: image.to_owned(),
        host: format!("linux/{}", manifest::host()),
        listed: match listed.is_empty() {
            true => "none".to_owned(),
            false => listed.join(", "),
        },
    })
}

fn parse_digest(image: &str, text: &str) -> Result<Digest, Error> {
    text.parse().map_err(|source| Error::Digest { image: image.to_owned(), source })
}

#[cfg(test)]
mod fuzz_tests;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base_name_drops_registry_tag_and_digest() {
        let cases = [
            ("ghcr.io/acme/hello:1.2", "hello"),
            ("localhost:5000/hello", "hello"),
            ("hello@sha256:00", "hello"),
            ("docker.io/library/hello:latest@sha256:00", "hello"),
            ("hello", "hello"),
        ];
        for (image, base) in cases {
            assert_eq!(base_name(image), base, "{image}");
        }
    }
}
