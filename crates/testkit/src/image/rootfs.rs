//! The content of one filesystem layer.

use anyhow::Result;
use flate2::{Compression, write::GzEncoder};
use tar::{Builder, EntryType, Header};

/// Files, directories and symlinks, in the order they are added. Paths are relative to the root.
#[derive(Debug, Clone, Default)]
pub struct Rootfs {
    entries: Vec<Entry>,
}

#[derive(Debug, Clone)]
struct Entry {
    path: String,
    mode: u32,
    owner: (u64, u64),
    kind: Kind,
}

#[derive(Debug, Clone)]
enum Kind {
    File(Vec<u8>),
    Directory,
    Symlink(String),
}

impl Rootfs {
    /// Nothing in it.
    pub fn new() -> Self {
        Rootfs::default()
    }

    /// A file, 0755.
    pub fn file(self, path: &str, bytes: &[u8]) -> Self {
        self.entry(path, 0o755, Kind::File(bytes.to_vec()))
    }

    /// A directory, 0755.
    pub fn directory(self, path: &str) -> Self {
        self.entry(path, 0o755, Kind::Directory)
    }

    /// A symlink.
    pub fn symlink(self, path: &str, target: &str) -> Self {
        self.entry(path, 0o777, Kind::Symlink(target.to_owned()))
    }

    /// Owner of the entry added last.
    pub fn owned_by(mut self, uid: u64, gid: u64) -> Self {
        if let Some(entry) = self.entries.last_mut() {
            entry.owner = (uid, gid);
        }
        self
    }

    /// Mode of the entry added last.
    pub fn mode(mut self, mode: u32) -> Self {
        if let Some(entry) = self.entries.last_mut() {
            entry.mode = mode;
        }
        self
    }

    fn entry(mut self, path: &str, mode: u32, kind: Kind) -> Self {
        self.entries.push(Entry { path: path.trim_start_matches('/').to_owned(), mode, owner: (0, 0), kind });
        self
    }

    /// The tar, with times of zero so that equal content has equal digests.
    pub(super) fn tar(&self) -> Result<Vec<u8>> {
        let mut tar = Builder::new(Vec::new());
        for entry in &self.entries {
            let mut header = Header::new_gnu();
            header.set_mode(entry.mode);
            header.set_uid(entry.owner.0);
            header.set_gid(entry.owner.1);
            header.set_mtime(0);
            match &entry.kind {
                Kind::File(bytes) => {
                    header.set_size(bytes.len() as u64);
                    tar.append_data(&mut header, &entry.path, bytes.as_slice())?;
                }
                Kind::Directory => {
                    header.set_entry_type(EntryType::Directory);
                    header.set_size(0);
                    tar.append_data(&mut header, &entry.path, std::io::empty())?;
                }
                Kind::Symlink(target) => {
                    header.set_entry_type(EntryType::Symlink);
                    header.set_size(0);
                    tar.append_link(&mut header, &entry.path, target)?;
                }
            }
        }
        Ok(tar.into_inner()?)
    }
}

/// Gzipped at the fastest level: tests import it once.
pub(super) fn gzip(bytes: &[u8]) -> Result<Vec<u8>> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    std::io::Write::write_all(&mut encoder, bytes)?;
    Ok(encoder.finish()?)
}
