//! Compiled code as a file, and the two unsafe calls that map it. The only module with `unsafe`.
//! Invariant: an [`Artifact`] is a file that the cache wrote or verified: made by the cache, or the same file in a child
//! process.

use crate::compile::one_line;
use crate::config::Variant;
use plan::Failure;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use wasmtime::component::Component;
use wasmtime::{Engine, Module, Precompiled};

/// An open artifact of the cache, read-only.
#[derive(Debug)]
pub struct Artifact {
    file: File,
    /// Device and inode; a file of the cache never changes its content.
    identity: (u64, u64),
    variant: Variant,
}

impl Artifact {
    /// `file` is an artifact that the cache wrote whole and that nobody but root can change.
    pub(crate) fn from_cache(file: File, variant: Variant) -> io::Result<Self> {
        let identity = identity(&file)?;
        Ok(Artifact { file, identity, variant })
    }

    /// This artifact in a forked child, where it has another descriptor. Code from the file is executed as it is, so no
    /// other file is taken.
    pub fn inherit(&self, file: File) -> Result<Artifact, Failure> {
        match identity(&file) {
            Ok(identity) if identity == self.identity => Ok(Artifact { file, identity, variant: self.variant }),
            Ok(_) => Err(Failure::Message("the artifact handed to the child is another file".to_owned())),
            Err(error) => Err(Failure::Message(one_line("look at the artifact", &error))),
        }
    }

    /// The kind of its code.
    pub fn variant(&self) -> Variant {
        self.variant
    }

    /// The open file.
    pub fn file(&self) -> &File {
        &self.file
    }
}

fn identity(file: &File) -> io::Result<(u64, u64)> {
    let metadata = file.metadata()?;
    Ok((metadata.dev(), metadata.ino()))
}

/// Code that is mapped, not yet linked.
pub(crate) enum Code {
    Module(Module),
    Component(Component),
}

/// Maps an artifact. All processes that map it share one copy of its code and of the guest's initial memory.
///
/// Needs `/proc` and has to run before the cache's files are out of reach.
pub(crate) fn map(engine: &Engine, artifact: &Artifact) -> Result<Code, Failure> {
    // A component can be mapped by path only. The path leads to the file that is open, whatever happened to its name.
    let path = format!("/proc/self/fd/{}", artifact.file.as_raw_fd());
    let kind = Engine::detect_precompiled_file(&path).map_err(failure)?;
    match kind {
        Some(Precompiled::Module) => {
            let file = artifact
                .file
                .try_clone()
                .map_err(|error| Failure::Message(one_line("duplicate the artifact's descriptor", &error)))?;
            map_module(engine, file).map(Code::Module).map_err(failure)
        }
        Some(Precompiled::Component) => map_component(engine, &path).map(Code::Component).map_err(failure),
        None => Err(Failure::StaleArtifact("the cached file is not compiled code".to_owned())),
    }
}

#[allow(unsafe_code)]
fn map_module(engine: &Engine, file: File) -> wasmtime::Result<Module> {
    // SAFETY: the file must be the unmodified output of Wasmtime's compiler, and must not change while it is mapped.
    // `Artifact` is made by the cache, or from the same file across a fork (`inherit`). The cache takes files
    // from the compile child, compares their identity (device, inode, ctime, size) or their sha256 with what it recorded
    // at that time, and keeps them in a directory of mode 0700 owned by the user it runs as. Artifacts are never written
    // in place: they are renamed into place when whole, and only ever unlinked. Code from images or users never gets
    // here. Output of another version of Wasmtime, or of other settings, is refused by Wasmtime itself.
    unsafe { Module::deserialize_open_file(engine, file) }
}

#[allow(unsafe_code)]
fn map_component(engine: &Engine, path: &str) -> wasmtime::Result<Component> {
    // SAFETY: as for `map_module`. The path names the descriptor that the caller holds open, so it is the same file.
    unsafe { Component::deserialize_file(engine, path) }
}

/// The system refusing a call says nothing about the artifact; everything else means that it has to be made again.
fn failure(error: wasmtime::Error) -> Failure {
    // Wasmtime reports system calls as errors of several types, which have only this text in common.
    let refused = error.chain().any(|cause| cause.to_string().contains("(os error "));
    let line = one_line("map compiled code of the cache", error.as_ref());
    if refused {
        Failure::Message(format!(
            "{line} (the cache directory must not be on a noexec mount, and /proc must be mounted)"
        ))
    } else {
        Failure::StaleArtifact(line)
    }
}
