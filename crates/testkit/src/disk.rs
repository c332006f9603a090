//! A small disk of a test's own: it can be filled to the last block and made read-only, and nobody else notices.
//! Invariant: it is unmounted when its value is dropped.

use anyhow::{Context, Result, ensure};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

/// What takes up the room.
const BALLAST: &str = "ballast";

/// A mounted tmpfs.
#[derive(Debug)]
pub struct Disk {
    path: PathBuf,
}

impl Disk {
    /// Mounts one of this size on a directory that is there.
    pub fn mount(path: &Path, kib: u64) -> Result<Disk> {
        let options = format!("size={kib}k,mode=755");
        mount(Some("tmpfs"), path, Some("tmpfs"), MsFlags::empty(), Some(options.as_str()))
            .with_context(|| format!("mount a tmpfs on {}", path.display()))?;
        Ok(Disk { path: path.to_owned() })
    }

    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Fills it up to so many KiB; a page is the least there is.
    pub fn fill_but(&self, kib: u64) -> Result<()> {
        let mut ballast = File::create(self.path.join(BALLAST))?;
        let block = [b'.'; 4096];
        let full = loop {
            if let Err(error) = ballast.write_all(&block) {
                break error;
            }
        };
        ensure!(full.kind() == ErrorKind::StorageFull, "fill {}: {full}", self.path.display());
        let size = ballast.metadata()?.len();
        ballast.set_len(size.saturating_sub(kib << 10)).context("leave some room")
    }

    /// Takes back what [`Disk::fill_but`] put there.
    pub fn make_room(&self) -> Result<()> {
        fs::remove_file(self.path.join(BALLAST)).context("make room")
    }

    /// Refuses every change from now on, as the kernel does after an error of the disk.
    pub fn make_read_only(&self) -> Result<()> {
        let flags = MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
        mount(None::<&str>, &self.path, None::<&str>, flags, None::<&str>)
            .with_context(|| format!("remount {} read-only", self.path.display()))
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // An error says that it is gone already.
        let _ = umount2(&self.path, MntFlags::MNT_DETACH);
    }
}
