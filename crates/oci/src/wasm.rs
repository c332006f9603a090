//! Gives the bytes of a container's wasm to whoever has to compile or hash it.
//! It must not know how the wasm was chosen.

use crate::Containerd;
use crate::image::{self, WasmLayer};
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::path::PathBuf;

/// Why the wasm cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A descriptor of the file that was found cannot be made.
    #[error("open the wasm file a second time")]
    Reopen(#[source] io::Error),
    /// A blob of containerd's content store has another size than the image says.
    #[error("blob {path} has {found} bytes, not the {expected} of the image: pull the image again")]
    Size {
        /// In the content store.
        path: PathBuf,
        /// Bytes on disk.
        found: u64,
        /// Bytes by the manifest.
        expected: u64,
    },
    /// The blob was readable before, and is not any more.
    #[error("read blob {path}")]
    Blob {
        /// In the content store.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// Streaming it from containerd.
    #[error(transparent)]
    Image(#[from] image::Error),
}

/// Where the bytes of a container's wasm are, found and checked by its first bytes.
#[derive(Debug)]
pub struct Wasm(Place);

#[derive(Debug)]
enum Place {
    File(File),
    Layer(WasmLayer, Containerd),
}

impl Wasm {
    pub(crate) fn file(file: File) -> Self {
        Wasm(Place::File(file))
    }

    pub(crate) fn layer(layer: WasmLayer, containerd: Containerd) -> Self {
        Wasm(Place::Layer(layer, containerd))
    }

    /// The wasm's bytes, from offset 0, with an offset of its own.
    ///
    /// A layer is read from containerd's content store by file where that is readable (containerd verified its digest
    /// when it stored it), else streamed into a file without a name, its size and digest checked.
    pub async fn open(&self) -> Result<File, crate::Error> {
        Ok(self.open_place().await?)
    }

    async fn open_place(&self) -> Result<File, Error> {
        match &self.0 {
            // Not `try_clone`, which would share the offset with the file that stays here.
            Place::File(file) => File::open(format!("/proc/self/fd/{}", file.as_raw_fd())).map_err(Error::Reopen),
            Place::Layer(layer, containerd) => match &layer.blob {
                Some(path) => open_blob(path.clone(), layer.size),
                None => Ok(image::stream(containerd, &layer.digest, layer.size).await?),
            },
        }
    }
}

fn open_blob(path: PathBuf, expected: u64) -> Result<File, Error> {
    let opened = File::open(&path).and_then(|file| {
        let found = file.metadata()?.len();
        Ok((file, found))
    });
    match opened {
        Ok((file, found)) if found == expected => Ok(file),
        Ok((_, found)) => Err(Error::Size { path, found, expected }),
        Err(source) => Err(Error::Blob { path, source }),
    }
}
