//! Where the WIT files of WASI 0.2 are: in the package that the Rust guest takes its bindings from.

use super::rust::cargo;
use super::toolchain::run;
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::path::{Path, PathBuf};

/// The package; its name says it is of WASI 0.2.
const PACKAGE: &str = "wasip2";
/// The version of the WIT files, which worlds are named with.
const VERSION: &str = "0.2.12";

/// A world of WASI, as tools take it.
pub(super) fn world(name: &str) -> String {
    format!("{name}@{VERSION}")
}

/// The folder of WIT files, which cargo fetches if need be.
pub(super) fn folder() -> Result<PathBuf> {
    let guest = super::rust_folder().join("http_service");
    let told = run(cargo(&guest).args(["metadata", "--locked", "--format-version", "1"]), "install cargo")?;
    let told: Value = serde_json::from_slice(&told).context("read what cargo metadata says")?;
    let packages = told["packages"].as_array().context("cargo metadata names no packages")?;
    let package = packages.iter().find(|package| package["name"] == PACKAGE);
    let package = package.with_context(|| format!("{} has no {PACKAGE}", guest.display()))?;
    let version = package["version"].as_str().unwrap_or_default();
    ensure!(
        version.ends_with(VERSION),
        "{PACKAGE} {version} has no WIT files of {VERSION}: change the version in wit.rs"
    );
    let manifest = package["manifest_path"].as_str().with_context(|| format!("no manifest of {PACKAGE}"))?;
    let wit = Path::new(manifest).with_file_name("wit");
    ensure!(wit.is_dir(), "{PACKAGE} has no WIT files at {}", wit.display());
    Ok(wit)
}
