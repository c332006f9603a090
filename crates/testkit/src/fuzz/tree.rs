//! What a directory holds, and what this process has open there: a call that only reads leaves both as they were.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// A directory for the inputs of one target, in memory where there is a place for it: a disk is slow to take the same
/// file anew.
pub fn scratch() -> TempDir {
    let in_memory = tempfile::tempdir_in("/dev/shm");
    in_memory.or_else(|_| tempfile::tempdir()).expect("a temporary directory can be made")
}

/// A directory at one moment.
#[derive(Debug, PartialEq, Eq)]
pub struct Tree {
    files: Vec<(PathBuf, u64, u64, i64, i64)>,
    open: Vec<PathBuf>,
}

impl Tree {
    /// Looks at `dir` now. Descriptors count that lead below it; those of tests beside this one do not.
    pub fn of(dir: &Path) -> Tree {
        let mut files = Vec::new();
        walk(dir, &mut files);
        files.sort();
        let fds = fs::read_dir("/proc/self/fd").into_iter().flatten().flatten();
        let links = fds.filter_map(|fd| fs::read_link(fd.path()).ok());
        let mut open: Vec<PathBuf> = links.filter(|path| path.starts_with(dir)).collect();
        open.sort();
        Tree { files, open }
    }
}

fn walk(dir: &Path, files: &mut Vec<(PathBuf, u64, u64, i64, i64)>) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        let Ok(metadata) = path.symlink_metadata() else { continue };
        files.push((path.clone(), metadata.ino(), metadata.len(), metadata.ctime(), metadata.ctime_nsec()));
        if metadata.is_dir() {
            walk(&path, files);
        }
    }
}
