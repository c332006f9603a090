//! From wasm to an artifact. Runs in a child process that has nothing but the descriptors of its job, because a
//! compiler reads bytes from strangers.

use crate::config::{Metering, Role, Variant, config};
use plan::{Calls, Digest, Failure, Report};
use sha2::{Digest as _, Sha256};
use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use wasmparser::{
    CanonicalFunction, CanonicalOption, ComponentDefinedType, ComponentType, ComponentTypeDeclaration,
    InstanceTypeDeclaration, Parser, Payload,
};
use wasmtime::Engine;

/// The first bytes of every wasm.
const MAGIC: &[u8] = b"\0asm";
/// Version and layer of a core module, which follow the magic.
const MODULE: [u8; 4] = [1, 0, 0, 0];
/// Version and layer of a component.
const COMPONENT: [u8; 4] = [0x0d, 0, 1, 0];

/// What a compile child is given.
#[derive(Debug)]
pub struct CompileJob {
    /// The wasm, a core module or a component.
    pub wasm: File,
    /// Where the artifact is written; empty.
    pub output: File,
    /// The lock of the artifact's key.
    pub lock: File,
    /// What the code is to count. How it calls is up to the wasm.
    pub metering: Metering,
}

/// Compiles a job. Waits for the job's lock, reports `Locked`, asks `go` (which blocks, and says no if somebody else
/// has made the artifact meanwhile), then reports `Compiled` or `Failed`.
///
/// The lock belongs to the open file description: it holds as long as this process or the one that gave the
/// descriptor has it open, so that the artifact can be put in place under it.
pub fn compile(job: CompileJob, go: impl FnOnce() -> bool, report: &mut dyn FnMut(Report)) {
    if let Err(source) = job.lock.lock() {
        let line = one_line("lock the cache entry", &source);
        return report(Report::Failed(Failure::Message(line)));
    }
    report(Report::Locked);
    if !go() {
        return;
    }
    match write_artifact(&job) {
        Ok((wasm, calls)) => report(Report::Compiled { wasm, calls }),
        Err(failure) => report(Report::Failed(failure)),
    }
}

fn write_artifact(job: &CompileJob) -> Result<(Digest, Calls), Failure> {
    let wasm = read(&job.wasm).map_err(|error| Failure::Message(one_line("read wasm", &error)))?;
    let digest = Digest::from_sha256(Sha256::digest(&wasm).into());
    let (code, calls) = translate(&wasm, job.metering).map_err(Failure::Message)?;
    drop(wasm);
    let mut output = &job.output;
    // Synced here, where waiting for the disk holds up nobody.
    match output.write_all(&code).and_then(|()| output.sync_all()) {
        Ok(()) => Ok((digest, calls)),
        Err(error) if is_full(&error) => Err(Failure::NoSpace),
        Err(error) => Err(Failure::Message(one_line("write compiled code to the cache", &error))),
    }
}

/// Whether a write failed because the disk, or the quota, is full.
pub(crate) fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// Reads from the start, wherever the cursor is: the description may be shared with a process that hashed the file.
fn read(file: &File) -> io::Result<Vec<u8>> {
    let size = usize::try_from(file.metadata()?.len()).unwrap_or(usize::MAX);
    let mut bytes = Vec::new();
    bytes.try_reserve_exact(size).map_err(|_| io::Error::from(io::ErrorKind::OutOfMemory))?;
    bytes.resize(size, 0);
    file.read_exact_at(&mut bytes, 0)?;
    Ok(bytes)
}

fn translate(wasm: &[u8], metering: Metering) -> Result<(Vec<u8>, Calls), String> {
    let Some(version) = wasm.strip_prefix(MAGIC) else {
        return Err(not_wasm(wasm));
    };
    let compiler = |calls| {
        Engine::new(&config(Role::Compile, Variant { calls, metering }))
            .map_err(|error| one_line("start the compiler", error.as_ref()))
    };
    if version.starts_with(&MODULE) {
        let code = compiler(Calls::Synchronous)?.precompile_module(wasm);
        Ok((code.map_err(|error| one_line("invalid wasm module", error.as_ref()))?, Calls::Synchronous))
    } else if version.starts_with(&COMPONENT) {
        let calls = calls(wasm);
        let code = compiler(calls)?.precompile_component(wasm);
        Ok((code.map_err(|error| one_line("invalid wasm component", error.as_ref()))?, calls))
    } else if version.len() < 4 {
        Err("invalid wasm: it ends within its first 8 bytes".to_owned())
    } else {
        Err(format!(
            "invalid wasm: unknown version {:02x?}, expected a core module of version 1 or a component",
            &version[..4]
        ))
    }
}

/// How a component calls: its imports and exports say so, and the types that only asynchronous ones have.
fn calls(component: &[u8]) -> Calls {
    let is_async = |payload: &Payload<'_>| match payload {
        Payload::ComponentImportSection(imports) => {
            imports.clone().into_iter().flatten().any(|import| is_of_wasi_0_3(import.name.name))
        }
        Payload::ComponentExportSection(exports) => {
            exports.clone().into_iter().flatten().any(|export| is_of_wasi_0_3(export.name.name))
        }
        Payload::ComponentCanonicalSection(functions) => functions.clone().into_iter().flatten().any(|function| {
            let options = match &function {
                CanonicalFunction::Lift { options, .. } | CanonicalFunction::Lower { options, .. } => options,
                CanonicalFunction::ResourceNew { .. }
                | CanonicalFunction::ResourceDrop { .. }
                | CanonicalFunction::ResourceRep { .. } => return false,
                // Of tasks, streams, futures and what else there is beside calls that wait.
                _ => return true,
            };
            options.contains(&CanonicalOption::Async)
        }),
        Payload::ComponentTypeSection(types) => types.clone().into_iter().flatten().any(|ty| is_asynchronous(&ty)),
        _ => false,
    };
    // What cannot be read here is refused by the compiler, in its own words.
    match Parser::new(0).parse_all(component).flatten().any(|payload| is_async(&payload)) {
        true => Calls::Asynchronous,
        false => Calls::Synchronous,
    }
}

fn is_asynchronous(ty: &ComponentType<'_>) -> bool {
    match ty {
        ComponentType::Func(function) => function.async_,
        ComponentType::Defined(defined) => {
            matches!(defined, ComponentDefinedType::Future(_) | ComponentDefinedType::Stream(_))
        }
        ComponentType::Instance(declarations) => declarations.iter().any(|declaration| match declaration {
            InstanceTypeDeclaration::Type(ty) => is_asynchronous(ty),
            _ => false,
        }),
        ComponentType::Component(declarations) => declarations.iter().any(|declaration| match declaration {
            ComponentTypeDeclaration::Type(ty) => is_asynchronous(ty),
            _ => false,
        }),
        ComponentType::Resource { .. } => false,
    }
}

fn is_of_wasi_0_3(name: &str) -> bool {
    name.starts_with("wasi:") && name.contains("@0.3.")
}

fn not_wasm(bytes: &[u8]) -> String {
    if Engine::detect_precompiled(bytes).is_some() {
        "precompiled code is never loaded from an image: put the .wasm itself into the image".to_owned()
    } else {
        "invalid wasm: it does not start with the magic bytes \\0asm".to_owned()
    }
}

/// What failed and why, in one line.
pub(crate) fn one_line(what: &str, error: &(dyn std::error::Error + 'static)) -> String {
    let line = format!("{what}: {}", plan::one_line(error));
    // Messages of the compiler are indented.
    line.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
#[path = "compile_fuzz_tests.rs"]
mod fuzz_tests;
