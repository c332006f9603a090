//! The shim's socket: where it is, who listens, and how it goes away again.
//! There is one for each group of containers: a pod, or a container by itself.

use crate::bootstrap::Bootstrap;
use prologue::{ADDRESS, SCHEME};
use sha2::{Digest, Sha256};
use std::ffi::OsStr;
use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// What a unix socket's path may measure (unix(7)), less the terminating zero.
const LONGEST_PATH: usize = 107;
/// How long it may stay unclear whether a listener is to stay.
const UNCLEAR: Duration = Duration::from_secs(1);
/// Between two looks.
const PAUSE: Duration = Duration::from_millis(1);

/// Where a group's shim listens.
#[derive(Debug, Clone)]
pub(crate) struct Address(PathBuf);

/// A group of containers that one shim serves.
#[derive(Debug)]
pub(crate) struct Group {
    pub(crate) address: Address,
    /// Of its first container: of a pod, the sandbox.
    pub(crate) bundle: PathBuf,
}

/// What [`Address::claim`] found.
pub(crate) enum Claim {
    /// Nobody listens: the server that the caller forks is to, see [`Address::listen`].
    Ours(Held),
    /// The group's shim listens already.
    Served,
}

/// The right to listen: nobody else makes or removes a socket while a process has this open.
pub(crate) struct Held(File);

impl From<Held> for OwnedFd {
    fn from(held: Held) -> OwnedFd {
        held.0.into()
    }
}

/// Why there is no socket.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AddressError {
    #[error("shim socket {path} is longer than {LONGEST_PATH} bytes: give containerd a shorter state directory")]
    TooLong { path: PathBuf },
    #[error("the shim's server ended before it listened on {path}: the log of containerd says why")]
    Silent { path: PathBuf },
    #[error("{action} {path}")]
    Io {
        action: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

impl Address {
    /// The address of `group` of the shim that starts.
    pub(crate) fn of_group(bootstrap: &Bootstrap, group: &str) -> Result<Address, AddressError> {
        Address::at(&bootstrap.grpc, &bootstrap.namespace, group, bootstrap.socket_dir.as_deref())
    }

    /// The address of `group`: in the directory that containerd names, else in `s` beside containerd's own socket.
    pub(crate) fn at(
        grpc: &Path,
        namespace: &str,
        group: &str,
        socket_dir: Option<&Path>,
    ) -> Result<Address, AddressError> {
        let beside = || grpc.parent().unwrap_or(Path::new("/run/containerd")).join("s");
        let dir = socket_dir.map(Path::to_owned).unwrap_or_else(beside);
        let mut hash = Sha256::new();
        for part in [grpc.to_string_lossy().as_ref(), namespace, group] {
            hash.update(part);
            hash.update([0]);
        }
        let name: String = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
        let path = dir.join(name);
        match path.as_os_str().len() > LONGEST_PATH {
            true => Err(AddressError::TooLong { path }),
            false => Ok(Address(path)),
        }
    }

    /// Looks whether a shim listens there already. A socket that nobody listens on is removed.
    pub(crate) fn claim(&self) -> Result<Claim, AddressError> {
        let dir = self.0.parent().unwrap_or(Path::new("/"));
        DirBuilder::new().recursive(true).mode(0o711).create(dir).map_err(|e| failed("make", dir, e))?;
        let held = self.lock()?;
        if self.is_served() {
            return Ok(Claim::Served);
        }
        self.remove()?;
        Ok(Claim::Ours(Held(held)))
    }

    /// Listens there, in the server: the start action may be killed at any moment, by containerd when its client gives
    /// up, and must not leave a socket that nobody serves. `held` ends here.
    pub(crate) fn listen(&self, held: OwnedFd) -> Result<UnixListener, AddressError> {
        let listener = UnixListener::bind(&self.0).map_err(|error| failed("listen on", &self.0, error));
        drop(held);
        listener
    }

    /// Waits in the start action, which has let go of what the server holds, until that listens.
    pub(crate) fn await_listener(&self) -> Result<(), AddressError> {
        let _lock = self.lock()?;
        match self.0.exists() {
            true => Ok(()),
            false => Err(AddressError::Silent { path: self.0.clone() }),
        }
    }

    /// Held while a socket is looked at and then made or removed: two who find it dead must not take away each other's.
    fn lock(&self) -> Result<File, AddressError> {
        let dir = self.0.parent().unwrap_or(Path::new("/"));
        let lock = File::open(dir).map_err(|error| failed("open", dir, error))?;
        lock.lock().map_err(|error| failed("lock", dir, error))?;
        Ok(lock)
    }

    /// Whether a shim listens there that is to stay. The listener of one that is being killed, or was just forked, is
    /// looked at again until it is clear which.
    pub(crate) fn is_served(&self) -> bool {
        let deadline = Instant::now() + UNCLEAR;
        loop {
            match UnixStream::connect(&self.0) {
                Err(_) => return false,
                Ok(connection) if sandbox::process::serves(&connection) => return true,
                Ok(_) if Instant::now() > deadline => return true,
                Ok(_) => sleep(PAUSE),
            }
        }
    }

    /// Removes the socket. Already gone is fine.
    pub(crate) fn remove(&self) -> Result<(), AddressError> {
        match fs::remove_file(&self.0) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed("remove", &self.0, error)),
            _ => Ok(()),
        }
    }

    /// Removes the socket if nobody listens on it: its shim was killed.
    pub(crate) fn remove_if_dead(&self) -> Result<(), AddressError> {
        // As after every delete that went well: others' starts need not wait for this.
        if !self.0.exists() {
            return Ok(());
        }
        let _lock = self.lock()?;
        match self.is_served() {
            true => Ok(()),
            false => self.remove(),
        }
    }

    /// Leaves the address in a bundle.
    pub(crate) fn save(&self, bundle: &Path) -> Result<(), AddressError> {
        let path = file(bundle);
        fs::write(&path, self.to_string()).map_err(|error| failed("write", &path, error))
    }

    /// Whether one was left there.
    pub(crate) fn is_saved(bundle: &Path) -> bool {
        file(bundle).exists()
    }

    /// The address left in a bundle.
    pub(crate) fn load(bundle: &Path) -> Option<Address> {
        let text = fs::read_to_string(file(bundle)).ok()?;
        text.strip_prefix(SCHEME).map(|path| Address(path.into()))
    }
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{SCHEME}{}", self.0.display())
    }
}

/// Where a bundle has it.
fn file(bundle: &Path) -> PathBuf {
    bundle.join(OsStr::from_bytes(ADDRESS.to_bytes()))
}

fn failed(action: &'static str, path: &Path, source: io::Error) -> AddressError {
    AddressError::Io { action, path: path.to_owned(), source }
}
