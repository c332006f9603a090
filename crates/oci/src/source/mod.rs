//! Finds what a container runs: the file that `args[0]` names in the root filesystem or on a volume, wasm or a Linux
//! program by its first bytes; else a layer of the container's image. A file needs no word with containerd, which keeps
//! the usual start quick. It must not read more of the wasm than its first bytes.

mod argument;
mod identity;
mod magic;
mod rootfs;
mod volumes;

use crate::Request;
use crate::image::{self, Layers};
use crate::wasm::Wasm;
use magic::{Foreign, Magic};
use oci_spec::runtime::Mount;
use plan::{Invocation, Origin, Size, Source};
use rootfs::{Found, Tree};
use std::fmt;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::SystemTime;

use image::Error as ImageError;
pub use rootfs::Error as RootfsError;

/// Why there is nothing to run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// `app.wasm#`.
    #[error("args[0] {0:?} names no export after #: remove the # or name an export")]
    NoExport(String),
    /// Two places name two exports.
    #[error("args[0] names the export {argument} and the setting invoke names {invoke}: give one")]
    TwoExports {
        /// After the `#`.
        argument: String,
        /// The setting.
        invoke: String,
    },
    /// Searching the root filesystem.
    #[error(transparent)]
    Rootfs(#[from] RootfsError),
    /// Reading what was found.
    #[error("read {name}")]
    Read {
        /// The file.
        name: String,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// Asking containerd for the image.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// Precompiled code would run unchecked.
    #[error("{0} is precompiled code, which is never loaded from an image: ship the .wasm, it is compiled on the node")]
    Precompiled(String),
    /// A version that the engine does not know.
    #[error("{name} is wasm of an unknown version ({version:02x?}): build a core module of version 1 or a component")]
    Version {
        /// The file or layer.
        name: String,
        /// The bytes after the magic.
        version: [u8; 4],
    },
    /// Shorter than a header.
    #[error("{0} is truncated wasm: build the image again")]
    Truncated(String),
    /// Larger than the operator allows.
    #[error(
        "{name} has {size} bytes, above wasm-size = {}: ship a smaller wasm, or raise wasm-size in [cache]",
        Size(*limit)
    )]
    TooBig {
        /// The file or layer.
        name: String,
        /// Bytes.
        size: u64,
        /// Bytes.
        limit: u64,
    },
    /// A layer whose type promises wasm.
    #[error("{name} is not wasm: {found}")]
    NotWasm {
        /// The layer.
        name: String,
        /// What it is.
        found: String,
    },
    /// Neither a file nor a layer.
    #[error(
        "no wasm in {image}: expected a layer of type application/wasm, or args[0] naming a .wasm file or a linux program ({found})"
    )]
    NoWasm {
        /// The image's name.
        image: String,
        /// What `args[0]` names.
        found: String,
    },
    /// Layers of types that we cannot unpack and that are no root filesystem.
    #[error("no wasm in {image}: unknown layer types {types}; expected application/wasm")]
    UnknownLayers {
        /// The image's name.
        image: String,
        /// Media types.
        types: String,
    },
}

/// The wasm of a container.
#[derive(Debug)]
pub(crate) struct Chosen {
    pub(crate) source: Source,
    pub(crate) wasm: Wasm,
    /// What the program is called where the spec has no arguments.
    pub(crate) name: Option<String>,
}

/// What the search depends on, apart from the request.
#[derive(Debug)]
pub(crate) struct Wanted<'a> {
    pub(crate) argument: Option<&'a str>,
    pub(crate) invoke: Option<&'a str>,
    /// The largest wasm that is compiled, bytes.
    pub(crate) max_bytes: u64,
}

/// What `args[0]` names.
#[derive(Debug)]
pub(crate) enum AtArgument {
    Nothing,
    Wasm(Box<Found>),
    /// An executable of Linux, or a script.
    Linux,
    /// What is neither may still be the entrypoint of an image whose wasm is a layer.
    Other(Foreign, Box<Found>),
}

/// Looks at what `args[0]` names, by the rules of `execvp`. What lies under a mount of the container's is there, not in its
/// root filesystem.
pub(crate) fn look(request: &Request<'_>, invocation: &Invocation, mounts: &[Mount]) -> Result<AtArgument, Error> {
    let text = invocation.args.first().map(String::as_str).unwrap_or_default();
    let argument = argument::split(text).ok_or_else(|| Error::NoExport(text.to_owned()))?;
    let mut rootfs = None;
    for place in argument::candidates(argument.file, Path::new(&invocation.cwd), &invocation.env) {
        let found = match volumes::covering(mounts, &place) {
            Some(volume) => volume.file()?,
            None => match &rootfs {
                Some(tree) => Tree::file(tree, &place)?,
                None => rootfs.insert(Tree::open(request.rootfs)?).file(&place)?,
            },
        };
        if let Some(found) = found {
            return classified(found);
        }
    }
    Ok(AtArgument::Nothing)
}

/// Finds the wasm of what does not run by itself.
pub(crate) async fn find(request: &Request<'_>, wanted: &Wanted<'_>, at: AtArgument) -> Result<Chosen, Error> {
    let text = wanted.argument.unwrap_or_default();
    let argument = argument::split(text).ok_or_else(|| Error::NoExport(text.to_owned()))?;
    let export = export(argument.export, wanted.invoke)?;
    let at = match at {
        AtArgument::Wasm(found) => {
            check_size(&found.path.display().to_string(), found.metadata.len(), wanted.max_bytes)?;
            let identity = identity::identify(&found, request.rootfs_mounts, SystemTime::now());
            let origin = Origin::File { path: found.path, identity };
            return Ok(Chosen { source: Source { origin, export }, wasm: Wasm::file(found.file), name: None });
        }
        other => other,
    };
    match image::layers(request.containerd, request.id).await? {
        Layers::Wasm(layer) => {
            let name = format!("layer {} of {}", layer.digest, layer.image);
            check_size(&name, layer.size, wanted.max_bytes)?;
            if let Some(foreign) = runnable(&name, magic::classify(&layer.first_bytes))? {
                let found = foreign.to_string();
                return Err(Error::NotWasm { name, found });
            }
            let origin = Origin::Layer { digest: layer.digest, size: layer.size };
            Ok(Chosen {
                source: Source { origin, export },
                name: Some(image::base_name(&layer.image).to_owned()),
                wasm: Wasm::layer(layer, request.containerd.clone()),
            })
        }
        Layers::None { image, unknown } => Err(nothing(image, unknown, text, &at)),
    }
}

fn nothing(image: String, unknown: Vec<String>, text: &str, at: &AtArgument) -> Error {
    match at {
        _ if !unknown.is_empty() => Error::UnknownLayers { image, types: unknown.join(", ") },
        AtArgument::Other(foreign, found) => {
            Error::NoWasm { image, found: format!("{} is {foreign}", found.path.display()) }
        }
        _ if text.is_empty() => Error::NoWasm { image, found: "args is empty".to_owned() },
        _ => Error::NoWasm { image, found: format!("no file {text} in the root filesystem") },
    }
}

fn export(argument: Option<&str>, invoke: Option<&str>) -> Result<Option<String>, Error> {
    match (argument, invoke) {
        (Some(argument), Some(invoke)) if argument != invoke => {
            Err(Error::TwoExports { argument: argument.to_owned(), invoke: invoke.to_owned() })
        }
        (argument, invoke) => Ok(argument.or(invoke).map(str::to_owned)),
    }
}

/// What a file is, by its first bytes.
fn classified(found: Found) -> Result<AtArgument, Error> {
    let name = found.path.display().to_string();
    let mut first_bytes = [0; magic::LENGTH];
    let mut length = 0;
    while length < first_bytes.len() {
        let rest = &mut first_bytes[length..];
        match found.file.read_at(rest, length as u64) {
            Ok(0) => break,
            Ok(read) => length += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(source) => return Err(Error::Read { name, source }),
        }
    }
    Ok(match runnable(&name, magic::classify(&first_bytes[..length]))? {
        None => AtArgument::Wasm(Box::new(found)),
        Some(Foreign::Elf | Foreign::Script) => AtArgument::Linux,
        Some(foreign) => AtArgument::Other(foreign, Box::new(found)),
    })
}

fn runnable(name: &str, magic: Magic) -> Result<Option<Foreign>, Error> {
    match magic {
        Magic::Module | Magic::Component => Ok(None),
        Magic::Foreign(foreign) => Ok(Some(foreign)),
        Magic::Precompiled => Err(Error::Precompiled(name.to_owned())),
        Magic::TruncatedWasm => Err(Error::Truncated(name.to_owned())),
        Magic::OtherWasm(version) => Err(Error::Version { name: name.to_owned(), version }),
    }
}

fn check_size(name: &str, size: u64, limit: u64) -> Result<(), Error> {
    if size > limit {
        return Err(Error::TooBig { name: name.to_owned(), size, limit });
    }
    Ok(())
}

impl fmt::Display for Foreign {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Foreign::Elf => "a linux program",
            Foreign::Script => "a script",
            Foreign::Empty => "empty",
            Foreign::Unknown => "a file of another format",
        })
    }
}

#[cfg(test)]
mod fuzz_tests;
#[cfg(test)]
#[path = "find_tests.rs"]
mod tests;
