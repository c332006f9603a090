//! The node's cache of compiled code: the directory and what may be in it.
//!
//! ```text
//! <dir>/artifacts/<key>         compiled code, mode 0400, renamed into place whole
//! <dir>/artifacts/<key>.meta    its size, sha256 and identity; its mtime is the last use
//! <dir>/index/<device>-<inode>  the digest of a wasm file, so that it is not hashed at each start
//! <dir>/locks/<000 to fff>      held while a wasm whose digest starts so is compiled
//! <dir>/tmp/                    files being written, each locked by its writer
//! <dir>/compatibility-<variant> what the compiler's settings hash to
//! ```
//!
//! Locks: one lock file serves 1/4096 of all digests and is never removed, so whoever opened it has the one that
//! everybody else opens; two different modules that share one merely compile one after the other. A temp file is locked
//! (flock) by its writer from before it has content until it is renamed or its writer is gone, and is removed by whoever
//! can lock it: see [`temp`]. Artifacts are looked up, replaced and removed without a lock, because each is one rename
//! or unlink; a process that has one open or mapped keeps it.
//!
//! Invariant: an artifact is trusted if its identity is the recorded one, or else if its sha256 is.

mod compatibility;
mod dir;
mod entry;
mod eviction;
mod index;
mod temp;

use crate::artifact::Artifact;
use crate::compile::is_full;
use crate::config::Variant;
use crate::hash::hash;
use crate::key::ArtifactKey;
use entry::{Found, Meta};
use plan::{CacheSettings, Calls};
use std::fs::{File, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use temp::TempFile;

/// The cache of compiled code of this node.
#[derive(Debug)]
pub struct Cache {
    dir: PathBuf,
    size_bytes: u64,
    /// What the settings of each variant hash to.
    compatibility: [OnceLock<String>; Variant::COUNT],
}

/// Why the cache cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CacheError {
    /// A directory of the cache could not be made or read.
    #[error("use cache directory {dir}: make it writable for root or set another one")]
    Directory {
        /// The directory.
        dir: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The directory belongs to somebody else.
    #[error("cache directory {dir} belongs to user {owner}, not to {user}: chown {user} {dir}")]
    Owner {
        /// The directory.
        dir: PathBuf,
        /// Its owner's user id.
        owner: u32,
        /// The user id of this process.
        user: u32,
    },
    /// Others may change what is in the directory.
    #[error("cache directory {dir} is open to others (mode {mode:04o}): chmod {remedy} {dir}")]
    Open {
        /// The directory, or one above it.
        dir: PathBuf,
        /// Its mode.
        mode: u32,
        /// The mode that it should have, as chmod takes it.
        remedy: &'static str,
    },
    /// The disk or the quota is full.
    #[error("no space for compiled code in cache directory {dir}: free some or set another one")]
    Full {
        /// The directory.
        dir: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A file of the cache could not be read or written.
    #[error("{action} {path} of the cache")]
    File {
        /// What was tried.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The compiler does not start on this node.
    #[error("start the compiler: {reason}")]
    Compiler {
        /// Wasmtime's reason.
        reason: String,
    },
}

/// An artifact that is being made. Dropping it removes what was written.
#[derive(Debug)]
pub struct Pending {
    /// The lock of the key, open and not locked. Keep it until the artifact is committed.
    pub lock: File,
    /// The file to write the artifact to.
    pub output: File,
    temp: TempFile,
    key: ArtifactKey,
}

impl Cache {
    /// Opens the cache, making its directory (mode 0700, also those above that are missing).
    pub fn open(settings: &CacheSettings) -> Result<Cache, CacheError> {
        let dir = dir::prepare(&settings.dir)?;
        Ok(Cache { dir, size_bytes: settings.size_bytes, compatibility: Default::default() })
    }

    /// The artifact of a key, if there is one to be trusted, and marks it as used now; else the one of the same source with
    /// asynchronous calls. An entry that is damaged or written by another version of this software is removed.
    pub async fn lookup(&self, key: &ArtifactKey) -> Result<Option<Artifact>, CacheError> {
        if let Some(artifact) = self.find(key).await? {
            return Ok(Some(artifact));
        }
        self.find(&key.calling(self, Calls::Asynchronous)?).await
    }

    async fn find(&self, key: &ArtifactKey) -> Result<Option<Artifact>, CacheError> {
        let path = self.artifact_path(key);
        let read_error = |source| self.file_error("read", &path, source);
        let found = match entry::find(&path).map_err(read_error)? {
            Found::Nothing => return Ok(None),
            Found::Invalid(file) => {
                entry::remove(&path, &file).map_err(read_error)?;
                return Ok(None);
            }
            Found::Entry(entry) => entry,
        };
        let identity = entry::identity(&found.file).map_err(read_error)?;
        if found.meta.identity != Some(identity) {
            // Copied, restored from a backup, or committed a moment ago: the content decides.
            let digest = hash(&found.file, found.meta.size).await.ok();
            if digest != Some(found.meta.sha256) {
                entry::remove(&path, &found.file).map_err(read_error)?;
                return Ok(None);
            }
            let meta = Meta::new(identity.size, found.meta.sha256, Some(identity));
            self.note(&entry::meta_path(&path), &meta.encode())?;
        }
        entry::mark_used(&path).map_err(read_error)?;
        Artifact::from_cache(found.file, key.variant).map(Some).map_err(read_error)
    }

    /// Opens what is needed to make the artifact of a key: the key's lock and a file for the output. Takes no lock of
    /// the key, because that could wait.
    pub fn begin(&self, key: &ArtifactKey) -> Result<Pending, CacheError> {
        let lock_path = self.dir.join(dir::LOCKS).join(key.lock_name());
        let lock = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&lock_path)
            .map_err(|source| self.file_error("open lock", &lock_path, source))?;
        let temp_dir = self.dir.join(dir::TMP);
        let (temp, output) =
            TempFile::create(&temp_dir).map_err(|source| self.file_error("create a file in", &temp_dir, source))?;
        Ok(Pending { lock, output, temp, key: key.clone() })
    }

    /// Puts a finished artifact in place and removes the least recently used ones that no longer fit.
    ///
    /// Call it when the process that wrote the output is gone, so that nobody can write to it any more. `calls` is what it
    /// said of the code.
    pub async fn commit(&self, pending: Pending, calls: Calls) -> Result<Artifact, CacheError> {
        let key = pending.key.calling(self, calls)?;
        let path = self.artifact_path(&key);
        let written = pending.temp.path().to_owned();
        let error = |source| self.file_error("write", &written, source);
        let sha256 = hash(&pending.output, u64::MAX).await.map_err(|source| error(io::Error::other(source)))?;
        let size = pending.output.metadata().map_err(error)?.len();
        let output = &pending.output;
        output.set_permissions(Permissions::from_mode(0o400)).and_then(|()| output.sync_all()).map_err(error)?;
        // The description that was open for writing ends here; what is handed out can only be read.
        let file = File::open(&written).map_err(error)?;
        // First the meta file without an identity, so that an artifact in place always has one to be verified by.
        let meta_path = entry::meta_path(&path);
        self.write(&meta_path, &Meta::new(size, sha256, None).encode())?;
        pending.temp.persist(&path).map_err(|source| self.file_error("put in place", &path, source))?;
        // Renaming changes ctime, so the identity is taken now.
        let identity = entry::identity(&file).map_err(error)?;
        self.note(&meta_path, &Meta::new(size, sha256, Some(identity)).encode())?;
        entry::mark_used(&path).map_err(error)?;
        eviction::run(&self.dir, self.size_bytes, &path)
            .map_err(|source| self.file_error("evict from", &self.dir, source))?;
        Artifact::from_cache(file, key.variant).map_err(|source| self.file_error("read", &path, source))
    }

    /// Removes the artifact of a key, after a process found that it cannot be loaded.
    pub fn discard(&self, key: &ArtifactKey) -> Result<(), CacheError> {
        for calls in [Calls::Synchronous, Calls::Asynchronous] {
            let path = self.artifact_path(&key.calling(self, calls)?);
            entry::discard(&path).map_err(|source| self.file_error("remove", &path, source))?;
        }
        Ok(())
    }

    /// What to say when the writer of a [`Pending`] found no room for it.
    pub fn full(&self) -> CacheError {
        CacheError::Full { dir: self.dir.clone(), source: io::ErrorKind::StorageFull.into() }
    }

    /// The hash of the compiler's settings for this build and processor, from the cache if it is there.
    pub(crate) fn compatibility(&self, variant: Variant) -> Result<String, CacheError> {
        let cell = &self.compatibility[variant.index()];
        if let Some(known) = cell.get() {
            return Ok(known.clone());
        }
        let found = compatibility::find_or_compute(self, variant)?;
        Ok(cell.get_or_init(|| found).clone())
    }

    fn artifact_path(&self, key: &ArtifactKey) -> PathBuf {
        self.dir.join(dir::ARTIFACTS).join(key.file_name())
    }

    /// Replaces a small file in one step.
    fn write(&self, path: &Path, content: &[u8]) -> Result<(), CacheError> {
        temp::replace(&self.dir.join(dir::TMP), path, content).map_err(|source| self.file_error("write", path, source))
    }

    /// As [`Cache::write`], for what only saves work the next time: a full disk keeps nobody from running code that is
    /// there.
    fn note(&self, path: &Path, content: &[u8]) -> Result<(), CacheError> {
        match self.write(path, content) {
            Err(error @ CacheError::Full { .. }) => {
                tracing::warn!(path = %path.display(), error = plan::one_line(&error), "not noted");
                Ok(())
            }
            noted => noted,
        }
    }

    fn file_error(&self, action: &'static str, path: &Path, source: io::Error) -> CacheError {
        let dir = || self.dir.clone();
        match source.kind() {
            _ if is_full(&source) => CacheError::Full { dir: dir(), source },
            // The kernel makes a disk read-only after an error.
            io::ErrorKind::ReadOnlyFilesystem => CacheError::Directory { dir: dir(), source },
            _ => CacheError::File { action, path: path.to_owned(), source },
        }
    }
}
