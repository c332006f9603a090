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
#[derive(Default)]
struct Blobs(BTreeMap<String, Vec<u8>>);

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

pub(super) fn write(image: &Image, output: impl Write) -> Result<Digests> {
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
            Layer::Blob { media_type, bytes } => blobs.add(media_type, bytes.clone()),
        });
    }
    let mut manifests = Vec::new();
    for (os, architecture) in &image.platforms {
        let config = match image.config {
            ConfigForm::Plain => blobs.add_json(PLAIN_CONFIG, &plain_config(image, os, architecture, &diff_ids)),
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
    let mut named = match manifests.as_slice() {
        [manifest] if image.bare => manifest.clone(),
        _ => blobs.add_json(INDEX, &json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": manifests })),
    };
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
    let digest = |layer: &Value| layer["digest"].as_str().map(str::to_owned);
    Ok(Digests { layers: layers.iter().filter_map(digest).collect(), chain_id: chain_id(&diff_ids) })
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
