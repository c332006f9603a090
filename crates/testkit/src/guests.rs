//! The guests: small programs in `crates/testkit/guests`, one per behaviour, built when a test asks for them.
//! Invariant: the same source and toolchain give the same bytes, and are built once per machine.
//!
//! A guest is named by its file, and a crate by its folder in `rust`. `p1_` guests are core modules of WASI preview 1;
//! [`component`] gives the same program as a `wasi:cli` component, through the adapter that belongs to the wasmtime in use.
//! Guests that are components from the start are in folders named after their languages, [`rust`] and [`javascript()`]:
//! `http_` ones of `wasi:http/proxy` 0.2, `cli_` ones of `wasi:cli/command` 0.2, `async_` ones of WASI 0.3. Users' own
//! samples, in `images/`, are guests too: [`sample`].

mod generate;
mod javascript;
mod python;
mod rust;
mod samples;
mod toolchain;
mod wit;

use crate::{checkout, store};
use anyhow::{Context, Result, bail};
use std::fs;
use std::path::{Path, PathBuf};
use wasi_preview1_component_adapter_provider::{
    WASI_SNAPSHOT_PREVIEW1_ADAPTER_NAME, WASI_SNAPSHOT_PREVIEW1_COMMAND_ADAPTER, WASI_SNAPSHOT_PREVIEW1_REACTOR_ADAPTER,
};

pub use generate::{Work, compile_bomb, importing, many_functions, padded};
pub use python::{World, component as python_component};
pub use samples::sample;

/// What no host offers, or what is no program, cannot become a component.
const NO_COMPONENT: [&str; 5] =
    ["p1_unknown_import.wat", "p1_no_start.wat", "p1_reactor.wat", "p1_reactor.c", "p1_reactor.go"];

/// What follows the magic number of a component.
const COMPONENT: [u8; 4] = [0x0d, 0, 1, 0];

/// The samples that are components from the start.
const SAMPLES: [&str; 2] = ["http-python", "http-rust"];
/// The samples that are core modules of WASI preview 1, and run by a test.
const PROGRAMS: [&str; 3] = ["hello-c", "hello-wat", "show-go"];

/// Where the sources are.
pub fn folder() -> PathBuf {
    checkout::of_crate("testkit").join("guests")
}

fn rust_folder() -> PathBuf {
    folder().join("rust")
}

/// The guests of WASI preview 1: files, then crates.
pub fn all() -> Result<Vec<String>> {
    let mut all = names(&folder(), Path::is_file)?;
    all.extend(names(&rust_folder(), is_module)?);
    Ok(all)
}

/// Whether this crate is of WASI preview 1.
fn is_module(folder: &Path) -> bool {
    folder.file_name().is_some_and(|name| name.to_string_lossy().starts_with("p1_"))
}

/// Every guest that is a component from the start.
pub fn services() -> Result<Vec<Service>> {
    let script = |path: &Path| path.extension().is_some_and(|found| found == "js");
    let rust = names(&rust_folder(), |path| path.is_dir() && !is_module(path))?.into_iter().map(Service::Rust);
    let javascript = names(&folder().join("javascript"), script)?.into_iter().map(Service::Javascript);
    let samples = SAMPLES.map(|name| Service::Sample(name.to_owned()));
    Ok(rust.chain(javascript).chain(samples).collect())
}

fn names(folder: &Path, wanted: impl Fn(&Path) -> bool) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(folder).with_context(|| format!("read {}", folder.display()))? {
        let entry = entry?;
        if wanted(&entry.path()) {
            names.push(entry.file_name().to_string_lossy().into_owned());
        }
    }
    names.sort();
    Ok(names)
}

/// A guest that is a component from the start, by the language it is written in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Service {
    /// A crate, by its folder.
    Rust(String),
    /// A file.
    Javascript(String),
    /// A folder of `images/`.
    Sample(String),
}

impl Service {
    /// What tests name it by.
    pub fn name(&self) -> &str {
        let (Service::Rust(name) | Service::Javascript(name) | Service::Sample(name)) = self;
        name
    }

    /// The component.
    pub fn component(&self) -> Result<Vec<u8>> {
        match self {
            Service::Rust(name) => rust(name),
            Service::Javascript(file) => javascript(file),
            Service::Sample(name) => sample(name),
        }
    }
}

/// Builds all guests into a folder, for a machine without toolchains whose `WASM_TEST_GUESTS` names a copy of it.
pub fn build_into(target: &Path) -> Result<()> {
    for file in all()? {
        fs::write(target.join(format!("{file}.wasm")), module(&file)?)?;
        if !NO_COMPONENT.contains(&file.as_str()) {
            fs::write(target.join(format!("{file}.component.wasm")), component(&file)?)?;
        }
    }
    for service in services()? {
        fs::write(target.join(format!("{}.component.wasm", service.name())), service.component()?)?;
    }
    for name in PROGRAMS {
        fs::write(target.join(format!("{name}.wasm")), sample(name)?)?;
    }
    Ok(())
}

/// Builds the users' samples and the installer's program, each as `TARGET/NAME/app.wasm`.
pub fn build_samples_into(target: &Path, names: &[&str]) -> Result<()> {
    samples::build_into(target, names)
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
    let Some((_, extension)) = file.rsplit_once('.') else {
        return rust::build(file, &rust_folder().join(file), rust::MODULES);
    };
    let path = folder().join(file);
    let source = fs::read(&path).with_context(|| format!("read guest {}", path.display()))?;
    match extension {
        "wat" => wat::parse_bytes(&source).map(|wasm| wasm.into_owned()).with_context(|| format!("guest {file}")),
        "c" => toolchain::c(file, &path, &source),
        "go" => toolchain::go(file, &path, &source),
        other => bail!("guest {file}: no toolchain for .{other}"),
    }
}

/// A module or component from its text.
pub fn wat(text: &str) -> Result<Vec<u8>> {
    Ok(wat::parse_str(text)?)
}

/// The guest as a `wasi:cli` component.
pub fn component(file: &str) -> Result<Vec<u8>> {
    if let Some(wasm) = built(&format!("{file}.component.wasm"))? {
        return Ok(wasm);
    }
    let module = module(file)?;
    as_component(&module, WASI_SNAPSHOT_PREVIEW1_COMMAND_ADAPTER).with_context(|| format!("guest {file} as component"))
}

/// The crate `rust/NAME` as a component.
pub fn rust(name: &str) -> Result<Vec<u8>> {
    if let Some(wasm) = built(&format!("{name}.component.wasm"))? {
        return Ok(wasm);
    }
    crate_in(name, &rust_folder().join(name))
}

fn crate_in(name: &str, folder: &Path) -> Result<Vec<u8>> {
    let wasm = rust::build(name, folder, rust::COMPONENTS)?;
    if wasm.get(4..8) == Some(&COMPONENT) {
        return Ok(wasm);
    }
    as_component(&wasm, WASI_SNAPSHOT_PREVIEW1_REACTOR_ADAPTER).with_context(|| format!("guest {name} as component"))
}

/// The service `javascript/FILE` as a component, 13 MB large.
pub fn javascript(file: &str) -> Result<Vec<u8>> {
    if let Some(wasm) = built(&format!("{file}.component.wasm"))? {
        return Ok(wasm);
    }
    let path = folder().join("javascript").join(file);
    let source = fs::read(&path).with_context(|| format!("read guest {}", path.display()))?;
    javascript::proxy(&path, &source).with_context(|| format!("guest {file}"))
}

/// A core module as a component; the adapter stands in for WASI preview 1, if the module imports it.
fn as_component(module: &[u8], adapter: &[u8]) -> Result<Vec<u8>> {
    let key = store::key(&[b"component", module, adapter]);
    store::cached("guests", &format!("{key}.wasm"), |output| {
        let wasm = wit_component::ComponentEncoder::default()
            .module(module)
            .and_then(|encoder| encoder.adapter(WASI_SNAPSHOT_PREVIEW1_ADAPTER_NAME, adapter))
            .and_then(|mut encoder| encoder.encode())
            .map_err(|error| anyhow::anyhow!("{error:?}"))?;
        Ok(fs::write(output, wasm)?)
    })
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
    fn every_component_of_a_language_is_built_for_its_world() {
        let services = services().unwrap();
        assert!(services.len() >= 3, "{services:?}");
        for service in services {
            let wasm = service.component().unwrap();
            assert_eq!(wasm[..8], *b"\0asm\x0d\0\x01\0", "{service:?}");
            let exports: [&[u8]; 4] = [
                b"wasi:http/incoming-handler@0.2.12",
                b"wasi:http/handler@0.3.0",
                b"wasi:cli/run@0.2.",
                b"wasi:cli/run@0.3.0",
            ];
            let has = |export: &[u8]| wasm.windows(export.len()).any(|part| part == export);
            assert!(exports.into_iter().any(has), "{service:?}");
        }
    }

    #[test]
    fn every_guest_is_named_by_a_test_of_a_crate() {
        let crates = folder().join("../..");
        let mut tests = String::new();
        for entry in fs::read_dir(crates).unwrap() {
            collect(&entry.unwrap().path().join("tests"), &mut tests);
        }
        let services: Vec<String> = services().unwrap().iter().map(|service| service.name().to_owned()).collect();
        let guests = all().unwrap().into_iter().chain(services).chain(PROGRAMS.map(str::to_owned));
        let idle: Vec<String> = guests.filter(|guest| !tests.contains(&format!("\"{guest}\""))).collect();
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
