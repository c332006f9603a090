//! Finds and opens files in the container's root filesystem, as a process inside it would.
//! Invariant: no path, symlink or `..` of an image leads out of the root. `pathrs` resolves with
//! `openat2(RESOLVE_IN_ROOT)`, and in small checked steps where the kernel lacks that call.

use pathrs::Root;
use pathrs::error::ErrorKind;
use std::fs::{File, Metadata};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

/// `ENOENT`, `ENOTDIR` and `ENAMETOOLONG` of Linux: no such file, so the next place is tried (execvp(3)).
const ABSENT: [i32; 3] = [2, 20, 36];

/// Why the root filesystem cannot be searched.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The root itself.
    #[error("open root filesystem {path}")]
    Root {
        /// On the node.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: pathrs::error::Error,
    },
    /// Anything but absence, such as a loop of symlinks.
    #[error("find {path} in the root filesystem")]
    Resolve {
        /// Inside the root.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: pathrs::error::Error,
    },
    /// On a filesystem that may keep the shim waiting.
    #[error(
        "{path} lies on a volume of type {kind}, where no program is looked for: ship it in the image, or have an init container copy it to an emptyDir"
    )]
    Slow {
        /// In the container.
        path: PathBuf,
        /// The type of the filesystem.
        kind: String,
    },
    /// The file was found, and cannot be read.
    #[error("open {path} in the root filesystem")]
    Open {
        /// Inside the root.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
}

/// A regular file in the root.
#[derive(Debug)]
pub(crate) struct Found {
    /// Open for reading.
    pub(crate) file: File,
    /// Absolute inside the root, without symlinks.
    pub(crate) path: PathBuf,
    pub(crate) metadata: Metadata,
    pub(crate) place: Place,
}

/// Where a file was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// In the root filesystem.
    Rootfs,
    /// On a volume, whose files anybody may have made.
    Volume,
}

/// A root, in which paths are looked up.
#[derive(Debug)]
pub(crate) struct Tree(Root);

impl Tree {
    /// The one at `path` on the node.
    pub(crate) fn open(path: &Path) -> Result<Tree, Error> {
        Root::open(path).map(Tree).map_err(|source| Error::Root { path: path.to_owned(), source })
    }

    /// Opens the regular file at `path`; `None` if there is none.
    ///
    /// The executable bit is not asked for: it means nothing for wasm, and `COPY` keeps the mode of a compiler's output.
    pub(crate) fn file(&self, path: &Path) -> Result<Option<Found>, Error> {
        let Tree(root) = self;
        let handle = match root.resolve(path) {
            Ok(handle) => handle,
            Err(error) if is_absent(&error) => return Ok(None),
            Err(source) => return Err(Error::Resolve { path: path.to_owned(), source }),
        };
        let found = open(root, File::from(OwnedFd::from(handle)));
        found.map_err(|source| Error::Open { path: path.to_owned(), source })
    }
}

/// Whether resolving failed because there is no such file.
pub(super) fn is_absent(error: &pathrs::error::Error) -> bool {
    matches!(error.kind(), ErrorKind::OsError(Some(errno)) if ABSENT.contains(&errno))
}

/// Opens what the path handle stands for. A device or FIFO of the image is not opened: that can have effects.
fn open(root: &Root, handle: File) -> io::Result<Option<Found>> {
    let metadata = handle.metadata()?;
    if !metadata.is_file() {
        return Ok(None);
    }
    let path = path_of(&handle)?;
    let root = path_of(root)?;
    let inside = path.strip_prefix(&root).map_err(|_| {
        let text = format!("{} is not below {}", path.display(), root.display());
        io::Error::new(io::ErrorKind::InvalidData, text)
    })?;
    let (file, path) = (File::open(link_of(&handle))?, Path::new("/").join(inside));
    Ok(Some(Found { file, path, metadata, place: Place::Rootfs }))
}

fn path_of(fd: &impl AsFd) -> io::Result<PathBuf> {
    std::fs::read_link(link_of(fd))
}

fn link_of(fd: &impl AsFd) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", fd.as_fd().as_raw_fd()))
}

#[cfg(test)]
#[path = "rootfs_tests.rs"]
mod tests;
