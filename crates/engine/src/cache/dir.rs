//! The directory of the cache: made, and checked to be out of others' reach, because code is executed from it.

use super::CacheError;
use std::fs::{self, DirBuilder, Metadata};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

pub(super) const ARTIFACTS: &str = "artifacts";
pub(super) const INDEX: &str = "index";
pub(super) const LOCKS: &str = "locks";
pub(super) const TMP: &str = "tmp";

/// Write permission for group and others.
const WRITABLE: u32 = 0o022;
/// Any permission for group and others.
const OPEN: u32 = 0o077;
/// Only the owner of an entry may remove or rename it.
const STICKY: u32 = 0o1000;

/// Makes what is missing and gives the path without symbolic links.
pub(super) fn prepare(dir: &Path) -> Result<PathBuf, CacheError> {
    let failed = |source| CacheError::Directory { dir: dir.to_owned(), source };
    make(dir).map_err(failed)?;
    let dir = fs::canonicalize(dir).map_err(failed)?;
    let user = user().map_err(failed)?;
    let metadata = fs::metadata(&dir).map_err(failed)?;
    check_owner(&dir, &metadata, user)?;
    check_mode(&dir, &metadata, OPEN, "0700")?;
    for parent in dir.ancestors().skip(1) {
        let metadata = fs::metadata(parent).map_err(failed)?;
        // Whoever can rename a directory above can put another one in its place.
        if metadata.mode() & STICKY == 0 {
            check_mode(parent, &metadata, WRITABLE, "go-w")?;
        }
    }
    for name in [ARTIFACTS, INDEX, LOCKS, TMP] {
        make(&dir.join(name)).map_err(failed)?;
    }
    Ok(dir)
}

fn make(dir: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(dir)
}

fn check_owner(dir: &Path, metadata: &Metadata, user: u32) -> Result<(), CacheError> {
    if metadata.uid() == user {
        return Ok(());
    }
    Err(CacheError::Owner { dir: dir.to_owned(), owner: metadata.uid(), user })
}

fn check_mode(dir: &Path, metadata: &Metadata, forbidden: u32, remedy: &'static str) -> Result<(), CacheError> {
    let mode = metadata.mode() & 0o7777;
    if mode & forbidden == 0 {
        return Ok(());
    }
    Err(CacheError::Open { dir: dir.to_owned(), mode, remedy })
}

/// The user that this process runs as: the owner of its entry in `/proc` (proc(5)).
fn user() -> io::Result<u32> {
    fs::metadata("/proc/self").map(|metadata| metadata.uid())
}
