//! Files being written, and how those of dead writers are told from those of live ones.
//!
//! A writer creates its file and locks it (flock) before anything else; the lock goes when all processes that have the
//! file open are gone. So a file that can be locked belongs to nobody and may be removed. A file just created, not
//! locked yet, may be taken for such a one: then its writer finds that it cannot lock it, or that its name is gone, and
//! takes another name.

use std::fs::{self, File, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use super::entry::present;

/// Tells apart the files of one process.
static COUNTER: AtomicU64 = AtomicU64::new(0);

/// The name of a file being written. Dropping it removes the file.
#[derive(Debug)]
pub(super) struct TempFile {
    path: Option<PathBuf>,
}

impl TempFile {
    /// Creates and locks a file for reading and writing, mode 0600.
    pub(super) fn create(dir: &Path) -> io::Result<(TempFile, File)> {
        loop {
            let number = COUNTER.fetch_add(1, Ordering::Relaxed);
            let path = dir.join(format!("{}-{number}", std::process::id()));
            let created = File::options().read(true).write(true).create_new(true).mode(0o600).open(&path);
            let file = match created {
                Ok(file) => file,
                // Left by a process that had the same id: this one takes the next number.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => continue,
                Err(error) => return Err(error),
            };
            if is_locked(&file)? && is_at(&file, &path)? {
                return Ok((TempFile { path: Some(path) }, file));
            }
        }
    }

    /// Where the file is.
    pub(super) fn path(&self) -> &Path {
        self.path.as_deref().expect("the path is taken by persist and drop only, which consume the value")
    }

    /// Renames the file into its place.
    pub(super) fn persist(mut self, place: &Path) -> io::Result<()> {
        fs::rename(self.path(), place)?;
        self.path = None;
        Ok(())
    }
}

impl Drop for TempFile {
    fn drop(&mut self) {
        if let Some(path) = self.path.take()
            && let Err(error) = present(fs::remove_file(&path))
        {
            tracing::warn!(path = %path.display(), %error, "could not remove a temporary file of the cache");
        }
    }
}

/// Replaces a small file in one step. It is not synced: if a crash leaves it empty, it is garbage and made anew.
pub(super) fn replace(dir: &Path, place: &Path, content: &[u8]) -> io::Result<()> {
    let (temp, mut file) = TempFile::create(dir)?;
    file.write_all(content)?;
    temp.persist(place)
}

/// Removes what dead writers left.
pub(super) fn sweep(dir: &Path) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        let Some(file) = present(File::open(&path))? else {
            continue;
        };
        // Locked until after the removal, so that a writer that has just created it notices.
        if is_locked(&file)? && is_at(&file, &path)? {
            present(fs::remove_file(&path))?;
        }
    }
    Ok(())
}

fn is_locked(file: &File) -> io::Result<bool> {
    match file.try_lock() {
        Ok(()) => Ok(true),
        Err(TryLockError::WouldBlock) => Ok(false),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

fn is_at(file: &File, path: &Path) -> io::Result<bool> {
    let Some(named) = present(fs::metadata(path))? else {
        return Ok(false);
    };
    let open = file.metadata()?;
    Ok((open.dev(), open.ino()) == (named.dev(), named.ino()))
}
