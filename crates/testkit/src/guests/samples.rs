//! Builds users' own samples, the folders of `images/`, each from its one source in its language. What their images are
//! made with is `images/build.sh`'s to know.

use super::python::{World, component as python_component};
use super::{PROGRAMS, built, crate_in, toolchain};
use crate::checkout;
use anyhow::{Context, Result, bail};
use std::fs;
use std::path::{Path, PathBuf};

/// What a sample's source is called, or how its name ends; the installer's image has none of these.
const SOURCES: [&str; 5] = ["Cargo.toml", "app.py", "main.go", ".c", ".wat"];
/// The installer's image is no sample: its program is for `wasm-node`.
const NODE: &str = "node";

/// The sample `images/NAME`: a component of Rust or of Python (18 MB large), a core module of the other languages.
pub fn sample(name: &str) -> Result<Vec<u8>> {
    let kind = if PROGRAMS.contains(&name) { "wasm" } else { "component.wasm" };
    if let Some(wasm) = built(&format!("{name}.{kind}"))? {
        return Ok(wasm);
    }
    program(name).with_context(|| format!("sample {name}"))
}

/// Builds these samples and the installer's program, or all, each as `TARGET/NAME/app.wasm`.
pub(super) fn build_into(target: &Path, names: &[&str]) -> Result<()> {
    for entry in fs::read_dir(folder())? {
        let path = entry?.path();
        if !path.is_dir() {
            continue;
        }
        let name = path.file_name().context("a folder with a name")?.to_string_lossy().into_owned();
        if !names.is_empty() && !names.contains(&name.as_str()) {
            continue;
        }
        let wasm = program(&name).with_context(|| format!("sample {name}"))?;
        let place = target.join(&name);
        fs::create_dir_all(&place).with_context(|| format!("create {}", place.display()))?;
        let file = if name == NODE { "verify.wasm" } else { "app.wasm" };
        fs::write(place.join(file), wasm).with_context(|| format!("write {}", place.join(file).display()))?;
    }
    Ok(())
}

fn folder() -> PathBuf {
    checkout::root().join("images")
}

fn program(name: &str) -> Result<Vec<u8>> {
    let folder = folder().join(name);
    let path = source(&folder)?;
    let file = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let text = fs::read(&path).with_context(|| format!("read {}", path.display()))?;
    match path.extension().and_then(|extension| extension.to_str()) {
        Some("toml") => crate_in(&name.replace('-', "_"), &folder),
        Some("py") => python_component(std::str::from_utf8(&text)?, World::Proxy),
        Some("go") => toolchain::go(&file, &path, &text),
        Some("c") => toolchain::c(&file, &path, &text),
        _ => Ok(wat::parse_bytes(&text)?.into_owned()),
    }
}

fn source(folder: &Path) -> Result<PathBuf> {
    let entries = fs::read_dir(folder).with_context(|| format!("read {}", folder.display()))?;
    let paths = entries.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
    let is_source = |path: &&PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        SOURCES.iter().any(|source| name == *source || source.starts_with('.') && name.ends_with(source))
    };
    match paths.iter().filter(is_source).collect::<Vec<_>>().as_slice() {
        [path] => Ok((*path).clone()),
        found => bail!("{} has {} of {SOURCES:?}: a sample has one source", folder.display(), found.len()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_sample_has_one_source_and_a_dockerfile() {
        let folders = fs::read_dir(folder()).unwrap().map(|entry| entry.unwrap().path()).filter(|path| path.is_dir());
        let folders: Vec<PathBuf> = folders.collect();
        assert!(folders.len() > 7, "{folders:?}");
        for folder in folders {
            source(&folder).unwrap();
            let dockerfile = fs::read_to_string(folder.join("Dockerfile")).unwrap();
            assert!(dockerfile.lines().any(|line| line == "FROM scratch"), "{}: {dockerfile}", folder.display());
        }
    }
}
