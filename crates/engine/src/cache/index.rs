//! The digests of wasm files on the node's disks, so that a file is not hashed at each start.

use super::entry::present;
use super::{Cache, CacheError, dir};
use plan::{Digest, FileIdentity};
use serde::{Deserialize, Serialize};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

/// Files that are remembered. An entry takes a block of the disk; forgetting one costs a hash.
const ENTRIES: usize = 4096;
/// A file changed less than this long ago may change again without its ctime changing, whose steps are up to a second
/// on some filesystems (as git's "racily clean" entries).
const SETTLED_NS: i128 = 2_000_000_000;

#[derive(Serialize, Deserialize)]
struct Known {
    identity: FileIdentity,
    digest: Digest,
}

impl Cache {
    /// The digest of a file that was remembered and has not changed since.
    pub fn known_digest(&self, identity: &FileIdentity) -> Option<Digest> {
        let bytes = fs::read(self.index_path(identity)).ok()?;
        let known: Known = serde_json::from_slice(&bytes).ok()?;
        (known.identity == *identity).then_some(known.digest)
    }

    /// Remembers a file's digest. The identity has to be taken before hashing, and to be the same after it. A file that
    /// changed within the last two seconds is not remembered, because it could change again unnoticed.
    pub fn remember(&self, identity: &FileIdentity, digest: &Digest) -> Result<(), CacheError> {
        if now_ns() - identity.changed_ns < SETTLED_NS {
            return Ok(());
        }
        let known = Known { identity: *identity, digest: *digest };
        let content = serde_json::to_vec(&known).expect("a struct of numbers and strings is always valid JSON");
        self.note(&self.index_path(identity), &content)
    }

    fn index_path(&self, identity: &FileIdentity) -> PathBuf {
        let name = format!("{:x}-{:x}", identity.device, identity.inode);
        self.dir.join(dir::INDEX).join(name)
    }
}

/// Forgets the files that were remembered first, down to the number that is kept.
pub(super) fn trim(index: &Path) -> io::Result<()> {
    let mut entries = Vec::new();
    for item in fs::read_dir(index)? {
        let path = item?.path();
        if let Some(metadata) = present(fs::metadata(&path))? {
            entries.push((metadata.modified()?, path));
        }
    }
    entries.sort();
    let surplus = entries.len().saturating_sub(ENTRIES);
    for (_, path) in &entries[..surplus] {
        present(fs::remove_file(path))?;
    }
    Ok(())
}

fn now_ns() -> i128 {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i128::try_from(since_epoch.as_nanos()).unwrap_or(i128::MAX)
}
