//! Cases of choosing manifests and layers.

use super::*;

fn digest(number: usize) -> String {
    format!("sha256:{number:064x}")
}

fn index(platforms: &[Option<&str>]) -> Box<ImageIndex> {
    let manifests: Vec<_> = platforms
        .iter()
        .enumerate()
        .map(|(number, platform)| {
            let platform = platform.map(|platform| {
                let (os, architecture) = platform.split_once('/').unwrap();
                serde_json::json!({"os": os, "architecture": architecture})
            });
            let mut descriptor = serde_json::json!({
                "mediaType": "application/vnd.oci.image.manifest.v1+json",
                "digest": digest(number), "size": 1,
            });
            if let Some(platform) = platform {
                descriptor["platform"] = platform;
            }
            descriptor
        })
        .collect();
    let text = serde_json::json!({"schemaVersion": 2, "manifests": manifests}).to_string();
    match parse(text.as_bytes()).unwrap() {
        Document::Index(index) => index,
        Document::Manifest(_) => panic!("not an index: {text}"),
    }
}

fn check_candidates(platforms: &[Option<&str>], wanted: &[usize]) {
    let index = index(platforms);
    let got: Vec<_> =
        candidates(&index, Arch::Amd64).into_iter().map(|descriptor| descriptor.digest().to_string()).collect();
    let wanted: Vec<_> = wanted.iter().map(|number| digest(*number)).collect();
    assert_eq!(got, wanted, "{platforms:?}");
}

#[test]
fn wasi_goes_before_the_host_and_the_only_one_is_taken() {
    let (wasi, amd, arm) = (Some("wasi/wasm"), Some("linux/amd64"), Some("linux/arm64"));
    let unknown = Some("unknown/unknown");
    check_candidates(&[amd, arm, wasi], &[2, 0]);
    check_candidates(&[arm, amd], &[1]);
    check_candidates(&[wasi], &[0]);
    check_candidates(&[arm], &[0]);
    check_candidates(&[None], &[0]);
    check_candidates(&[arm, unknown], &[0]);
    check_candidates(&[unknown], &[]);
    check_candidates(&[arm, Some("linux/s390x")], &[]);
    check_candidates(&[Some("windows/amd64"), None], &[]);
    check_candidates(&[], &[]);
}

fn check_layers(types: &[&str], wasm: usize, unknown: &[&str]) {
    let layers: Vec<_> =
        types.iter().map(|kind| serde_json::json!({"mediaType": kind, "digest": digest(1), "size": 1})).collect();
    let text = serde_json::json!({
        "schemaVersion": 2,
        "config": {
            "mediaType": "application/vnd.wasm.config.v0+json", "digest": digest(2), "size": 2
        },
        "layers": layers,
    });
    let manifest = match parse(text.to_string().as_bytes()).unwrap() {
        Document::Manifest(manifest) => manifest,
        Document::Index(_) => panic!("not a manifest: {text}"),
    };
    let sorted = sort_layers(&manifest);
    assert_eq!(sorted.wasm.len(), wasm, "{types:?}");
    assert_eq!(sorted.unknown, unknown, "{types:?}");
}

#[test]
fn layers_are_sorted_by_media_type() {
    for wasm in WASM_TYPES {
        check_layers(&[wasm], 1, &[]);
    }
    let oci = "application/vnd.oci.image.layer.v1.tar";
    let gzip = "application/vnd.oci.image.layer.v1.tar+gzip";
    let docker = "application/vnd.docker.image.rootfs.diff.tar.gzip";
    let foreign = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip";
    check_layers(&[oci, gzip, docker, foreign], 0, &[]);
    check_layers(&[oci, "application/wasm", "application/wasm"], 2, &[]);
    let helm = "application/vnd.cncf.helm.chart.content.v1";
    check_layers(&[helm, oci], 0, &[helm]);
    check_layers(&[], 0, &[]);
}

#[test]
fn other_json_is_refused() {
    for text in ["{", "[]", "{}", r#"{"manifests":1}"#, r#"{"layers":[]}"#] {
        assert!(parse(text.as_bytes()).is_err(), "{text}");
    }
}
