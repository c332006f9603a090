//! The digest of a wasm, made without holding up the thread.

use plan::Digest;
use sha2::{Digest as _, Sha256};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// Bytes hashed between two yields: well below a millisecond.
const CHUNK: usize = 128 << 10;

/// Why a file has no digest.
#[derive(Debug, thiserror::Error)]
pub enum HashError {
    /// The file could not be read.
    #[error("read wasm")]
    Read(#[source] io::Error),
    /// The file is larger than what would be compiled.
    #[error("wasm is larger than {limit_bytes} bytes: raise the node's limit on wasm size, or make it smaller")]
    TooLarge {
        /// The limit, bytes.
        limit_bytes: u64,
    },
}

/// The sha256 of the whole file, wherever its cursor is. Lets other tasks of the thread run after each chunk.
pub async fn hash(file: &File, limit_bytes: u64) -> Result<Digest, HashError> {
    let mut sha = Sha256::new();
    let mut buffer = vec![0; CHUNK];
    let mut offset = 0;
    loop {
        let count = match file.read_at(&mut buffer, offset) {
            Ok(0) => return Ok(Digest::from_sha256(sha.finalize().into())),
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(HashError::Read(error)),
        };
        sha.update(&buffer[..count]);
        offset += count as u64;
        if offset > limit_bytes {
            return Err(HashError::TooLarge { limit_bytes });
        }
        tokio::task::yield_now().await;
    }
}
