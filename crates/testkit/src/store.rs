//! The project's cache outside the checkout: versions of containerd (filled by `test/containerd.sh`), built guests, and
//! tools that build them.
//! Invariant: a file appears in it whole or not at all; a tool's folder is not given out before it is whole.

use anyhow::{Context, Result};
use nix::fcntl::{Flock, FlockArg};
use sha2::{Digest, Sha256};
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

/// The cache's directory: `${XDG_CACHE_HOME:-$HOME/.cache}/containerd-shim-wasm`, as `test/containerd.sh` has it.
pub fn dir() -> PathBuf {
    let base = std::env::var_os("XDG_CACHE_HOME").filter(|dir| !dir.is_empty());
    let base = base
        .map(PathBuf::from)
        .unwrap_or_else(|| PathBuf::from(std::env::var_os("HOME").unwrap_or_else(|| "/root".into())).join(".cache"));
    base.join("containerd-shim-wasm")
}

/// The lower-case hex sha256 of the parts, each with its length before it.
pub fn key(parts: &[&[u8]]) -> String {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    hex(&hash.finalize())
}

/// Lower-case hex digits.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The sha256 of `bytes` in the form of an OCI digest.
pub fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", hex(&Sha256::digest(bytes)))
}

/// The file `folder/name` of the cache, made by `make` (which receives a path to write to) if it is not there yet.
pub fn cached(folder: &str, name: &str, make: impl FnOnce(&Path) -> Result<()>) -> Result<Vec<u8>> {
    let folder = dir().join(folder);
    let target = folder.join(name);
    if let Ok(bytes) = fs::read(&target) {
        return Ok(bytes);
    }
    fs::create_dir_all(&folder).with_context(|| format!("create {}", folder.display()))?;
    let work = tempfile::Builder::new().prefix(".making-").tempdir_in(&folder)?;
    let output = work.path().join("output");
    make(&output)?;
    let bytes = fs::read(&output).with_context(|| format!("read {}", output.display()))?;
    fs::rename(&output, &target).with_context(|| format!("rename to {}", target.display()))?;
    Ok(bytes)
}

/// The folder `folder/name` of the cache, filled by `install` if it is not whole. It is filled where it stays, since tools
/// write down their own paths.
pub fn installed(folder: &str, name: &str, install: impl FnOnce(&Path) -> Result<()>) -> Result<PathBuf> {
    let folder = dir().join(folder);
    let target = folder.join(name);
    let whole = target.join(".whole");
    if whole.exists() {
        return Ok(target);
    }
    fs::create_dir_all(&folder).with_context(|| format!("create {}", folder.display()))?;
    let lock = folder.join(format!("{name}.lock"));
    let file = File::create(&lock).with_context(|| format!("create {}", lock.display()))?;
    // Held until the end of this call: another process waits for it, and then finds the folder whole.
    let _held = Flock::lock(file, FlockArg::LockExclusive)
        .map_err(|(_, errno)| errno)
        .with_context(|| format!("lock {}", lock.display()))?;
    if whole.exists() {
        return Ok(target);
    }
    if target.exists() {
        fs::remove_dir_all(&target).with_context(|| format!("remove {}", target.display()))?;
    }
    fs::create_dir(&target).with_context(|| format!("create {}", target.display()))?;
    install(&target)?;
    File::create(&whole).with_context(|| format!("create {}", whole.display()))?;
    Ok(target)
}

/// Writes a file whole: to a temporary name beside it, then renamed.
pub fn write_whole(path: &Path, bytes: &[u8]) -> Result<()> {
    let folder = path.parent().context("a file path with a folder")?;
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    file.write_all(bytes)?;
    file.persist(path).with_context(|| format!("rename to {}", path.display()))?;
    Ok(())
}
