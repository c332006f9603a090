//! The node's files, as this process sees them: below a root of its own when it runs in a pod. Paths that others give and
//! get are the node's; the root is added here and nowhere else.
//! Invariant: a file is whole before it has its name, so that a kill leaves the old one or the new one.

use sha2::{Digest, Sha256};
use std::fs::{self, File, Permissions, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

/// What the names of files begin with until they are whole.
const TEMPORARY: &str = ".wasm-node-";

/// Between two looks whether a lock is free.
const LOOK: Duration = Duration::from_millis(200);

/// Where the node's root is.
#[derive(Debug, Clone)]
pub(crate) struct Host {
    root: PathBuf,
}

/// Held as long as this lives.
#[derive(Debug)]
pub(crate) struct Lock {
    _file: File,
}

/// What became impossible with a file of the node.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HostError {
    #[error("{doing} {path}")]
    File {
        doing: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{0} is a symbolic link: name what it leads to in its place (--config, --install-dir, `imports`)")]
    Link(PathBuf),
    #[error("another wasm-node works on this node: it holds {0}; wait for it to end")]
    Busy(PathBuf),
}

/// The rights of a file that is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    Text,
    Program,
}

impl Host {
    pub(crate) fn new(root: &Path) -> Host {
        Host { root: root.to_owned() }
    }

    /// Where this process finds a path of the node.
    pub(crate) fn at(&self, path: &Path) -> PathBuf {
        self.root.join(path.strip_prefix("/").unwrap_or(path))
    }

    /// What the file has; none if it is not there.
    pub(crate) fn read(&self, path: &Path) -> Result<Option<Vec<u8>>, HostError> {
        match fs::read(self.at(path)) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(failed("read", path)(error)),
        }
    }

    /// Gives the file this content, with its own rights where it has some, and makes its directory.
    pub(crate) fn write(&self, path: &Path, bytes: &[u8], mode: Mode) -> Result<(), HostError> {
        self.no_link(path)?;
        let place = self.at(path);
        let dir = place.parent().unwrap_or(&self.root);
        fs::create_dir_all(dir).map_err(failed("make the directory of", path))?;
        // Of a run that was killed: one works at a time.
        for stale in self.matching(&format!("{}/{TEMPORARY}*", path.parent().unwrap_or(Path::new("/")).display())) {
            self.remove(&stale)?;
        }
        let existing = fs::metadata(&place).ok().map(|metadata| metadata.permissions());
        let rights =
            existing.unwrap_or_else(|| Permissions::from_mode(if mode == Mode::Program { 0o755 } else { 0o644 }));
        let mut file = tempfile::Builder::new().prefix(TEMPORARY).tempfile_in(dir).map_err(failed("write", path))?;
        let written = file.write_all(bytes).and_then(|()| file.as_file().set_permissions(rights));
        written.and_then(|()| file.as_file().sync_all()).map_err(failed("write", path))?;
        file.persist(&place).map_err(|error| failed("write", path)(error.error))?;
        File::open(dir).and_then(|dir| dir.sync_all()).map_err(failed("write", path))
    }

    /// Removes the file; it need not be there.
    pub(crate) fn remove(&self, path: &Path) -> Result<(), HostError> {
        absent_is_fine(fs::remove_file(self.at(path))).map_err(failed("remove", path))
    }

    /// Removes the directory with all that it has; it need not be there.
    pub(crate) fn remove_all(&self, path: &Path) -> Result<(), HostError> {
        absent_is_fine(fs::remove_dir_all(self.at(path))).map_err(failed("remove", path))
    }

    /// Removes the directory if it is empty. A mount point of this process is left, empty as it is.
    pub(crate) fn remove_if_empty(&self, path: &Path) {
        let _ = fs::remove_dir(self.at(path));
    }

    /// When the file last changed in any way, its name included; none if it is not there.
    pub(crate) fn changed_at(&self, path: &Path) -> Option<SystemTime> {
        let metadata = fs::metadata(self.at(path)).ok()?;
        let (seconds, nanos) = (u64::try_from(metadata.ctime()).ok()?, u32::try_from(metadata.ctime_nsec()).ok()?);
        Some(SystemTime::UNIX_EPOCH + Duration::new(seconds, nanos))
    }

    /// The files that a pattern of the node names, sorted.
    pub(crate) fn matching(&self, pattern: &str) -> Vec<PathBuf> {
        let pattern = self.at(Path::new(pattern));
        let found = glob::glob(&pattern.to_string_lossy()).into_iter().flatten().flatten();
        found.filter_map(|path| Some(Path::new("/").join(path.strip_prefix(&self.root).ok()?))).collect()
    }

    /// As [`Host::lock`], and waits for who has it; `told` hears that it waits.
    pub(crate) fn lock_within(&self, patience: Duration, path: &Path, told: impl Fn()) -> Result<Lock, HostError> {
        let deadline = Instant::now() + patience;
        let mut waits = false;
        loop {
            match self.lock(path) {
                Err(HostError::Busy(_)) if Instant::now() < deadline => {}
                answer => return answer,
            }
            if !waits {
                told();
                waits = true;
            }
            thread::sleep(LOOK);
        }
    }

    /// Takes the lock, or says who has it.
    pub(crate) fn lock(&self, path: &Path) -> Result<Lock, HostError> {
        let place = self.at(path);
        if let Some(dir) = place.parent() {
            fs::create_dir_all(dir).map_err(failed("make the directory of", path))?;
        }
        let file =
            File::options().create(true).truncate(false).write(true).open(&place).map_err(failed("open", path))?;
        match file.try_lock() {
            Ok(()) => Ok(Lock { _file: file }),
            Err(TryLockError::WouldBlock) => Err(HostError::Busy(path.to_owned())),
            Err(TryLockError::Error(error)) => Err(failed("lock", path)(error)),
        }
    }

    /// Fails unless files can be made in the folder of this one: before anything is changed.
    pub(crate) fn writable(&self, path: &Path) -> Result<(), HostError> {
        self.no_link(path)?;
        let place = self.at(path);
        let existing = place.ancestors().skip(1).find(|folder| folder.is_dir()).unwrap_or(&self.root);
        tempfile::Builder::new().prefix(TEMPORARY).tempfile_in(existing).map(drop).map_err(failed("write", path))
    }

    /// Fails if the path is a symbolic link: to where, only the node knows, and a new file would take its place. Where the
    /// node's root is below this process's, neither may its folders be.
    pub(crate) fn no_link(&self, path: &Path) -> Result<(), HostError> {
        let names = path.components().count().saturating_sub(1);
        let looked_at = if self.root == Path::new("/") { 1 } else { names };
        let is_link = |path: &&Path| fs::symlink_metadata(self.at(path)).is_ok_and(|metadata| metadata.is_symlink());
        path.ancestors().take(looked_at).find(is_link).map_or(Ok(()), |link| Err(HostError::Link(link.to_owned())))
    }
}

/// What files are compared by, in hexadecimal.
pub(crate) fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn absent_is_fine(done: io::Result<()>) -> io::Result<()> {
    match done {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        done => done,
    }
}

fn failed(doing: &'static str, path: &Path) -> impl Fn(io::Error) -> HostError {
    let path = path.to_owned();
    move |source| HostError::File { doing, path: path.clone(), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_below_the_root_and_keep_their_rights() {
        let dir = tempfile::tempdir().unwrap();
        let host = Host::new(dir.path());
        let path = Path::new("/etc/x/config.toml");
        assert_eq!(host.read(path).unwrap(), None);
        host.write(path, b"one", Mode::Text).unwrap();
        let place = dir.path().join("etc/x/config.toml");
        fs::set_permissions(&place, Permissions::from_mode(0o600)).unwrap();
        host.write(path, b"two", Mode::Text).unwrap();
        assert_eq!(host.read(path).unwrap().unwrap(), b"two");
        assert_eq!(fs::metadata(&place).unwrap().mode() & 0o777, 0o600);
        assert_eq!(host.matching("/etc/*/*.toml"), [path]);
        assert_eq!(fs::read_dir(dir.path().join("etc/x")).unwrap().count(), 1, "a temporary file is left");
        host.remove(path).unwrap();
        host.remove(path).unwrap();
    }

    #[test]
    fn a_link_is_not_replaced() {
        let dir = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("elsewhere", dir.path().join("link")).unwrap();
        let error = Host::new(dir.path()).write(Path::new("/link"), b"", Mode::Text).unwrap_err();
        assert_eq!(
            error.to_string(),
            "/link is a symbolic link: name what it leads to in its place (--config, --install-dir, `imports`)"
        );
        let folder = Host::new(dir.path()).writable(Path::new("/link/conf.d/ours.toml")).unwrap_err();
        assert_eq!(folder.to_string(), error.to_string());
        let own = Host::new(Path::new("/"));
        own.no_link(&dir.path().join("link/ours.toml")).unwrap();
        assert!(own.no_link(&dir.path().join("link")).is_err());
    }

    #[test]
    fn one_holds_the_lock() {
        let dir = tempfile::tempdir().unwrap();
        let host = Host::new(dir.path());
        let lock = host.lock(Path::new("/state/lock")).unwrap();
        assert!(matches!(host.lock(Path::new("/state/lock")), Err(HostError::Busy(_))));
        drop(lock);
        host.lock(Path::new("/state/lock")).unwrap();
    }
}
