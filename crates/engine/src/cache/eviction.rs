//! Keeps the cache within its size: the least recently used artifacts go first.

use super::entry::{self, present};
use super::{dir, index, temp};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

struct Candidate {
    path: PathBuf,
    size: u64,
    used: SystemTime,
}

/// Removes artifacts until all sum up to at most `size_bytes`, never `keep`; then what other writers left behind.
pub(super) fn run(cache: &Path, size_bytes: u64, keep: &Path) -> io::Result<()> {
    let mut candidates = Vec::new();
    for item in fs::read_dir(cache.join(dir::ARTIFACTS))? {
        let path = item?.path();
        match path.extension() {
            Some(_) => remove_orphan(&path)?,
            None => candidates.extend(candidate(path)?),
        }
    }
    let mut total: u64 = candidates.iter().map(|candidate| candidate.size).sum();
    candidates.sort_by_key(|candidate| candidate.used);
    for candidate in candidates {
        if total <= size_bytes {
            break;
        }
        if candidate.path != keep {
            entry::discard(&candidate.path)?;
            total -= candidate.size;
        }
    }
    temp::sweep(&cache.join(dir::TMP))?;
    index::trim(&cache.join(dir::INDEX))
}

fn candidate(path: PathBuf) -> io::Result<Option<Candidate>> {
    let Some(artifact) = present(fs::metadata(&path))? else {
        return Ok(None);
    };
    let used = match present(fs::metadata(entry::meta_path(&path)))? {
        Some(meta) => meta.modified()?,
        None => artifact.modified()?,
    };
    Ok(Some(Candidate { path, size: artifact.len(), used }))
}

/// Removes a meta file that lost its artifact an hour ago or more. A younger one may wait for its artifact, which is
/// put in place after it.
fn remove_orphan(meta: &Path) -> io::Result<()> {
    let Some(metadata) = present(fs::metadata(meta))? else {
        return Ok(());
    };
    let age = metadata.modified()?.elapsed().unwrap_or_default();
    if age.as_secs() >= 3600 && !meta.with_extension("").exists() {
        present(fs::remove_file(meta))?;
    }
    Ok(())
}
