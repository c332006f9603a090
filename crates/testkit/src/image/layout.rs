//! The OCI image layout: blobs by digest, one index that names the image (OCI image spec, "Image Layout").

use super::{ConfigForm, Image, Layer, rootfs};
use crate::store;
use anyhow::Result;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io::Write;
use tar::{Builder, Header};

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const PLAIN_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const EMPTY_CONFIG: &str = "application/vnd.oci.empty.v1+json";
const WASM_CONFIG: &str = "application/vnd.wasm.config.v0+json";
const FILES: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

/// What a test may want to know of the blobs that were written.
#[derive(Debug, Clone)]
pub struct Digests {
    /// Of each layer as stored, in the order of the manifest.
    pub layers: Vec<String>,
    /// The chain id of the filesystem layers, which is the key of their snapshot; empty if there is none.
    pub chain_id: String,
}

/// The blobs of a layout, by digest.
#[derive(Debug, Default)]
struct Blobs(BTreeMap<String, Vec<u8>>);

/// An image as blobs.
#[derive(Debug)]
pub(crate) struct Layout {
    blobs: Blobs,
    /// Digest and type of each manifest, and last of what the image's name leads to.
    manifests: Vec<(String, String)>,
    /// The descriptor of that.
    named: Value,
    digests: Digests,
}

impl Layout {
    /// Configs and layers by digest.
    pub(crate) fn blobs(&self) -> impl Iterator<Item = (&str, &[u8])> {
        let manifest = |digest: &str| self.manifests.iter().any(|(known, _)| known == digest);
        let all = self.blobs.0.iter().map(|(digest, bytes)| (digest.as_str(), bytes.as_slice()));
        all.filter(move |(digest, _)| !manifest(digest))
    }

    /// Digest, type and text of each manifest, and last of what the image's name leads to.
    pub(crate) fn manifests(&self) -> impl Iterator<Item = (&str, &str, &[u8])> {
        self.manifests.iter().map(|(digest, kind)| (digest.as_str(), kind.as_str(), self.blobs.0[digest].as_slice()))
    }
}

impl Blobs {
    /// Stores the bytes and gives their descriptor.
    fn add(&mut self, media_type: &str, bytes: Vec<u8>) -> Value {
        let digest = store::digest(&bytes);
        let size = bytes.len();
        self.0.insert(digest.clone(), bytes);
        json!({ "mediaType": media_type, "digest": digest, "size": size })
    }

    fn add_json(&mut self, media_type: &str, value: &Value) -> Value {
        self.add(media_type, value.to_string().into_bytes())
    }
}

pub(super) fn of(image: &Image) -> Result<Layout> {
    let mut blobs = Blobs::default();
    let mut layers = Vec::new();
    let mut diff_ids = Vec::new();
    for layer in &image.layers {
        layers.push(match layer {
            Layer::Files(rootfs) => {
                let tar = rootfs.tar()?;
                diff_ids.push(store::digest(&tar));
                blobs.add(FILES, rootfs::gzip(&tar)?)
            }
            Layer::Blob { media_type, bytes } => {
                if image.config == ConfigForm::Counting {
                    diff_ids.push(store::digest(bytes));
                }
                blobs.add(media_type, bytes.clone())
            }
        });
    }
    let mut manifests = Vec::new();
    for (os, architecture) in &image.platforms {
        let config = match image.config {
            ConfigForm::Empty => blobs.add_json(EMPTY_CONFIG, &json!({})),
            ConfigForm::Plain | ConfigForm::Counting => {
                blobs.add_json(PLAIN_CONFIG, &plain_config(image, os, architecture, &diff_ids))
            }
            ConfigForm::Wasm => {
                let config = json!({
                    "created": "1970-01-01T00:00:00Z", "architecture": architecture, "os": os,
                    "layerDigests": layers.iter().map(|layer| &layer["digest"]).collect::<Vec<_>>(),
                });
                blobs.add_json(WASM_CONFIG, &config)
            }
        };
        let manifest = json!({
            "schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": layers,
        });
        let mut descriptor = blobs.add_json(MANIFEST, &manifest);
        descriptor["platform"] = json!({ "os": os, "architecture": architecture });
        manifests.push(descriptor);
    }
    let digest = |blob: &Value| blob["digest"].as_str().unwrap_or_default().to_owned();
    let mut known: Vec<_> = manifests.iter().map(|manifest| (digest(manifest), MANIFEST.to_owned())).collect();
    let named = match manifests.as_slice() {
        [manifest] if image.bare => manifest.clone(),
        _ => {
            let index = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": manifests });
            let index = blobs.add_json(INDEX, &index);
            known.push((digest(&index), INDEX.to_owned()));
            index
        }
    };
    let digests = Digests { layers: layers.iter().map(digest).collect(), chain_id: chain_id(&diff_ids) };
    Ok(Layout { blobs, manifests: known, named, digests })
}

pub(super) fn write(image: &Image, output: impl Write) -> Result<Digests> {
    let Layout { blobs, mut named, digests, .. } = of(image)?;
    named["annotations"] = json!({
        "io.containerd.image.name": image.reference,
        "org.opencontainers.image.ref.name": image.reference,
    });
    let top = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": [named] });
    let mut tar = Builder::new(output);
    append(&mut tar, "oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)?;
    append(&mut tar, "index.json", top.to_string().as_bytes())?;
    for (digest, bytes) in &blobs.0 {
        append(&mut tar, &format!("blobs/{}", digest.replace(':', "/")), bytes)?;
    }
    tar.finish()?;
    Ok(digests)
}

fn plain_config(image: &Image, os: &str, architecture: &str, diff_ids: &[String]) -> Value {
    let process = &image.process;
    let mut config = json!({ "Entrypoint": process.entrypoint, "Env": process.env });
    if let Some(workdir) = &process.workdir {
        config["WorkingDir"] = json!(workdir);
    }
    if let Some(user) = &process.user {
        config["User"] = json!(user);
    }
    json!({
        "created": "1970-01-01T00:00:00Z", "architecture": architecture, "os": os, "config": config,
        "rootfs": { "type": "layers", "diff_ids": diff_ids },
    })
}

/// OCI image spec, "Layer ChainID".
fn chain_id(diff_ids: &[String]) -> String {
    let mut chain = String::new();
    for diff_id in diff_ids {
        chain = if chain.is_empty() { diff_id.clone() } else { store::digest(format!("{chain} {diff_id}").as_bytes()) };
    }
    chain
}

fn append(tar: &mut Builder<impl Write>, path: &str, bytes: &[u8]) -> Result<()> {
    let mut header = Header::new_gnu();
    header.set_mode(0o644);
    header.set_size(bytes.len() as u64);
    Ok(tar.append_data(&mut header, path, bytes)?)
}
