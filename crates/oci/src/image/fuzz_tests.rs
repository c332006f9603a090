//! Any document of an image is walked to wasm layers with digests, or refused in one line.

use super::*;
use crate::source::Error as SourceError;
use oci_spec::image::Arch;
use testkit::fuzz::{Form, Fuzz, assert_told};

const IMAGE: &str = "ghcr.io/acme/app:1";

fn told(error: &dyn std::error::Error) {
    assert_told(&plan::one_line(error));
}

/// As the way from an index to its manifests goes on.
fn check_digest(text: &str) {
    match parse_digest(IMAGE, text) {
        // It becomes a path in the content store.
        Ok(digest) => assert!(digest.hex().len() == 64 && digest.to_string() == text, "{text:?}"),
        Err(error) => told(&error),
    }
}

fn check_index(index: &oci_spec::image::ImageIndex) {
    let listed = manifest::platforms(index);
    for host in [Arch::Amd64, Arch::ARM64] {
        let candidates = manifest::candidates(index, host);
        assert!(candidates.len() <= index.manifests().len());
        candidates.iter().for_each(|one| check_digest(one.digest().as_ref()));
    }
    told(&Error::NoManifest { image: IMAGE.to_owned(), host: "linux/amd64".to_owned(), listed: listed.join(", ") });
}

fn check_manifest(manifest: &ImageManifest) {
    let sorted = manifest::sort_layers(manifest);
    assert!(sorted.wasm.len() + sorted.unknown.len() <= manifest.layers().len());
    sorted.wasm.iter().for_each(|layer| check_digest(layer.digest().as_ref()));
    if !sorted.unknown.is_empty() {
        told(&SourceError::UnknownLayers { image: IMAGE.to_owned(), types: sorted.unknown.join(", ") });
    }
}

#[test]
fn any_document_is_walked_or_refused_in_one_line() {
    let digest = Digest::from_sha256([0xab; 32]);
    let fuzz = Fuzz::new(env!("CARGO_PKG_NAME"), "image", Form::Json, 6000);
    fuzz.run(|text| match manifest::parse(text) {
        Ok(Document::Index(index)) => check_index(&index),
        Ok(Document::Manifest(manifest)) => check_manifest(&manifest),
        Err(source) => told(&Error::Document { image: IMAGE.to_owned(), digest, source }),
    });
}

#[test]
fn any_image_name_has_a_base_without_slashes() {
    let fuzz = Fuzz::new(env!("CARGO_PKG_NAME"), "name", Form::Bytes, 15_000);
    fuzz.run(|name| {
        let name = String::from_utf8_lossy(name);
        let base = base_name(&name);
        assert!(!base.contains(['/', ':', '@']) && name.contains(base), "{name:?} {base:?}");
        check_digest(&name);
    });
}
