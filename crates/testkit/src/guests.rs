//! The guests: small programs in `crates/testkit/guests`, one per behaviour, built when a test asks for them.
//! Invariant: the same source and toolchain give the same bytes, and are built once per machine.
//!
//! A guest is named by its file. `p1_` guests are core modules of WASI preview 1; [`component`] gives the same program
//! as a `wasi:cli` component, through the adapter that belongs to the wasmtime in use.

mod generate;
mod toolchain;

use crate::{checkout, store};
use anyhow::{Context, Result, bail};
use std::fs;
use std::path::{Path, PathBuf};
use wasi_preview1_component_adapter_provider::{
    WASI_SNAPSHOT_PREVIEW1_ADAPTER_NAME, WASI_SNAPSHOT_PREVIEW1_COMMAND_ADAPTER,
};

pub use generate::{Work, compile_bomb, importing, many_functions, padded};

/// What no host offers, or what is no program, cannot become a component.
const NO_COMPONENT: [&str; 3] = ["p1_unknown_import.wat", "p1_no_start.wat", "p1_reactor.wat"];

/// Where the sources are.
pub fn folder() -> PathBuf {
    checkout::of_crate("testkit").join("guests")
}

/// The files of the guests, sorted.
pub fn all() -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(folder())? {
        names.push(entry?.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    Ok(names)
}

/// Builds all guests into a folder, for a machine without toolchains whose `WASM_TEST_GUESTS` names a copy of it.
pub fn build_into(target: &Path) -> Result<()> {
    for file in all()? {
        fs::write(target.join(format!("{file}.wasm")), module(&file)?)?;
        if !NO_COMPONENT.contains(&file.as_str()) {
            fs::write(target.join(format!("{file}.component.wasm")), component(&file)?)?;
        }
    }
    Ok(())
}

/// What another machine has built, if this one has no toolchains.
fn built(name: &str) -> Result<Option<Vec<u8>>> {
    let Some(folder) = std::env::var_os("WASM_TEST_GUESTS").map(PathBuf::from) else {
        return Ok(None);
    };
    let path = folder.join(name);
    fs::read(&path).map(Some).with_context(|| format!("read guest {}", path.display()))
}

/// The guest as a core module.
pub fn module(file: &str) -> Result<Vec<u8>> {
    if let Some(wasm) = built(&format!("{file}.wasm"))? {
        return Ok(wasm);
    }
    let path = folder().join(file);
    let source = fs::read(&path).with_context(|| format!("read guest {}", path.display()))?;
    let (_, extension) = file.rsplit_once('.').context("a guest with an extension")?;
    match extension {
        "wat" => wat::parse_bytes(&source).map(|wasm| wasm.into_owned()).with_context(|| format!("guest {file}")),
        "c" => toolchain::c(file, &path, &source),
        "go" => toolchain::go(file, &path, &source),
        other => bail!("guest {file}: no toolchain for .{other}"),
    }
}

/// The guest as a `wasi:cli` component.
pub fn component(file: &str) -> Result<Vec<u8>> {
    if let Some(wasm) = built(&format!("{file}.component.wasm"))? {
        return Ok(wasm);
    }
    let module = module(file)?;
    let key = store::key(&[b"component", &module, WASI_SNAPSHOT_PREVIEW1_COMMAND_ADAPTER]);
    store::cached("guests", &format!("{key}.wasm"), |output| {
        let wasm = componentize(&module).with_context(|| format!("guest {file} as component"))?;
        Ok(fs::write(output, wasm)?)
    })
}

fn componentize(module: &[u8]) -> Result<Vec<u8>> {
    wit_component::ComponentEncoder::default()
        .module(module)
        .and_then(|encoder| {
            encoder.adapter(WASI_SNAPSHOT_PREVIEW1_ADAPTER_NAME, WASI_SNAPSHOT_PREVIEW1_COMMAND_ADAPTER)
        })
        .and_then(|mut encoder| encoder.encode())
        .map_err(|error| anyhow::anyhow!("{error:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_guest_is_built_as_module_and_component() {
        for file in all().unwrap() {
            let wasm = module(&file).unwrap();
            assert_eq!(wasm[..8], *b"\0asm\x01\0\0\0", "{file}");
            if NO_COMPONENT.contains(&file.as_str()) {
                continue;
            }
            let wasm = component(&file).unwrap();
            assert_eq!(wasm[..8], *b"\0asm\x0d\0\x01\0", "{file}");
        }
    }

    #[test]
    fn every_guest_is_named_by_a_test_of_a_crate() {
        let crates = folder().join("../..");
        let mut tests = String::new();
        for entry in fs::read_dir(crates).unwrap() {
            collect(&entry.unwrap().path().join("tests"), &mut tests);
        }
        let idle: Vec<String> =
            all().unwrap().into_iter().filter(|guest| !tests.contains(&format!("\"{guest}\""))).collect();
        assert!(idle.is_empty(), "guests that no file under crates/*/tests names: {idle:?}: add a test or remove them");
    }

    fn collect(folder: &Path, text: &mut String) {
        for entry in fs::read_dir(folder).into_iter().flatten() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                collect(&path, text);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                text.push_str(&fs::read_to_string(path).unwrap());
            }
        }
    }
}
