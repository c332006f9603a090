//! One artifact of the cache and its meta file.

use plan::{Digest, FileIdentity};
use serde::{Deserialize, Serialize};
use std::fs::{self, File, FileTimes};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// The version of the meta file's format; another one is recompiled, not migrated.
const FORMAT: u32 = 1;

/// What is known of an artifact.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Meta {
    format: u32,
    /// Bytes.
    pub(super) size: u64,
    /// Of the artifact's content.
    pub(super) sha256: Digest,
    /// Of the artifact in its place; absent until it is there.
    pub(super) identity: Option<FileIdentity>,
}

/// An artifact and what is known of it. They do not have to agree.
pub(super) struct Entry {
    pub(super) file: File,
    pub(super) meta: Meta,
}

/// What is at an artifact's path.
pub(super) enum Found {
    /// No artifact, or one whose meta file is not there (yet).
    Nothing,
    /// An artifact of another size than recorded, or with a meta file that cannot be read.
    Invalid(File),
    /// An artifact that may be good.
    Entry(Entry),
}

impl Meta {
    pub(super) fn new(size: u64, sha256: Digest, identity: Option<FileIdentity>) -> Self {
        Meta { format: FORMAT, size, sha256, identity }
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("a struct of numbers and strings is always valid JSON")
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let meta: Meta = serde_json::from_slice(bytes).ok()?;
        (meta.format == FORMAT).then_some(meta)
    }
}

/// The meta file of an artifact.
pub(super) fn meta_path(artifact: &Path) -> PathBuf {
    artifact.with_added_extension("meta")
}

/// Reads an artifact's meta file and opens the artifact.
pub(super) fn find(path: &Path) -> io::Result<Found> {
    let Some(file) = present(File::open(path))? else {
        return Ok(Found::Nothing);
    };
    let Some(bytes) = present(fs::read(meta_path(path)))? else {
        return Ok(Found::Nothing);
    };
    match Meta::decode(&bytes) {
        Some(meta) if file.metadata()?.len() == meta.size => Ok(Found::Entry(Entry { file, meta })),
        _ => Ok(Found::Invalid(file)),
    }
}

/// Removes an artifact if it still is the one that was opened.
pub(super) fn remove(path: &Path, opened: &File) -> io::Result<()> {
    let Some(now) = present(fs::metadata(path))? else {
        return Ok(());
    };
    let opened = opened.metadata()?;
    if (now.dev(), now.ino()) != (opened.dev(), opened.ino()) {
        return Ok(());
    }
    discard(path)
}

/// Removes an artifact, if it is there, and its meta file. The artifact goes first: without a meta file it would never
/// be found again.
pub(super) fn discard(path: &Path) -> io::Result<()> {
    present(fs::remove_file(path))?;
    present(fs::remove_file(meta_path(path)))?;
    Ok(())
}

/// Records a use on the meta file, because the artifact's own times are part of its identity.
pub(super) fn mark_used(path: &Path) -> io::Result<()> {
    let Some(meta) = present(File::open(meta_path(path)))? else {
        return Ok(());
    };
    meta.set_times(FileTimes::new().set_modified(SystemTime::now()))
}

/// The identity of an open file.
pub(super) fn identity(file: &File) -> io::Result<FileIdentity> {
    let metadata = file.metadata()?;
    Ok(FileIdentity {
        device: metadata.dev(),
        inode: metadata.ino(),
        changed_ns: i128::from(metadata.ctime()) * 1_000_000_000 + i128::from(metadata.ctime_nsec()),
        size: metadata.len(),
    })
}

/// A missing file is an answer, not an error.
pub(super) fn present<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}
