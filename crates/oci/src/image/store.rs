//! Reads containerd's content store: by file where its directory is readable, else over gRPC.
//! Invariant: what came over gRPC, and every document, is checked against its digest before it is used.

use super::Error as ImageError;
use super::containerd::{self, Client};
use crate::Containerd;
use plan::{Digest, Size};
use sha2::{Digest as _, Sha256};
use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::path::PathBuf;

/// Registries refuse larger manifests (OCI distribution spec demands 4 MiB to work).
const MAX_DOCUMENT_BYTES: u64 = 8 << 20;
/// What tells wasm from other formats.
const FIRST_BYTES: usize = 8;

/// Why a blob cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Larger than a manifest may be.
    #[error("{digest} is larger than the {max} that a manifest may have: build the image again", max = Size(MAX_DOCUMENT_BYTES))]
    TooBig {
        /// Of the document.
        digest: Digest,
    },
    /// The bytes are not those of the digest.
    #[error("blob {expected} has the digest {found}: it is damaged, pull the image again")]
    Damaged {
        /// By the manifest.
        expected: Digest,
        /// Of the bytes.
        found: Digest,
    },
    /// More or fewer bytes than the manifest says.
    #[error("blob {digest} has {found} bytes, not the {expected} of the image: pull the image again")]
    Size {
        /// Of the blob.
        digest: Digest,
        /// Bytes read; reading stops above the expected size.
        found: u64,
        /// Bytes by the manifest.
        expected: u64,
    },
    /// A blob that is there cannot be read.
    #[error("read blob {path}")]
    Read {
        /// In the content store.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// The file that takes a streamed blob.
    #[error("write blob {digest} to a temporary file")]
    Temporary {
        /// Of the blob.
        digest: Digest,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
}

/// The content store of one containerd.
#[derive(Debug)]
pub(super) struct Store {
    client: Client,
    root: Option<PathBuf>,
}

impl Store {
    pub(super) async fn open(client: Client) -> Result<Self, ImageError> {
        let root = client.content_root().await?;
        Ok(Store { client, root })
    }

    /// The whole of an index or manifest, its digest checked; `None` if it is not in the store.
    pub(super) async fn document(&self, digest: &Digest) -> Result<Option<Vec<u8>>, ImageError> {
        let max = MAX_DOCUMENT_BYTES + 1;
        let text = match self.read_file(digest, max)? {
            Some((text, _)) => text,
            None => match self.fetch(digest, 0, max).await? {
                Some(text) => text,
                None => return Ok(None),
            },
        };
        if text.len() as u64 > MAX_DOCUMENT_BYTES {
            return Err(Error::TooBig { digest: *digest }.into());
        }
        check_digest(digest, Sha256::new().chain_update(&text))?;
        Ok(Some(text))
    }

    /// The first bytes of a layer, and its file if that is readable; `None` if it is not in the store.
    pub(super) async fn first_bytes(&self, digest: &Digest) -> Result<Option<(Vec<u8>, Option<PathBuf>)>, ImageError> {
        if let Some((bytes, path)) = self.read_file(digest, FIRST_BYTES as u64)? {
            return Ok(Some((bytes, Some(path))));
        }
        let bytes = self.fetch(digest, FIRST_BYTES as i64, FIRST_BYTES as u64);
        Ok(bytes.await?.map(|bytes| (bytes, None)))
    }

    /// Up to `max` bytes of a blob's file. `None` if there is no such file for us: containerd may still have it.
    fn read_file(&self, digest: &Digest, max: u64) -> Result<Option<(Vec<u8>, PathBuf)>, Error> {
        let Some(root) = &self.root else {
            return Ok(None);
        };
        let path = root.join("blobs/sha256").join(digest.hex());
        let Ok(file) = File::open(&path) else {
            return Ok(None);
        };
        let mut bytes = Vec::new();
        match file.take(max).read_to_end(&mut bytes) {
            Ok(_) => Ok(Some((bytes, path))),
            Err(source) => Err(Error::Read { path, source }),
        }
    }

    /// Up to `max` bytes of a blob, of which `length` are asked for (all if 0).
    async fn fetch(&self, digest: &Digest, length: i64, max: u64) -> Result<Option<Vec<u8>>, containerd::Error> {
        let mut bytes = Vec::new();
        let read = async {
            let mut blob = self.client.read(digest, length).await?;
            while let Some(part) = blob.next().await? {
                bytes.extend_from_slice(&part);
                if bytes.len() as u64 >= max {
                    break;
                }
            }
            Ok(())
        };
        match read.await {
            Ok(()) => {
                bytes.truncate(usize::try_from(max).unwrap_or(usize::MAX));
                Ok(Some(bytes))
            }
            Err(error) => absent_or(error),
        }
    }
}

fn absent_or<T>(error: containerd::Error) -> Result<Option<T>, containerd::Error> {
    if error.is_not_found() { Ok(None) } else { Err(error) }
}

/// Streams a blob into a file that has no name, from containerd; checks size and digest.
pub(crate) async fn stream(containerd: &Containerd, digest: &Digest, size: u64) -> Result<File, ImageError> {
    let temporary = |source| Error::Temporary { digest: *digest, source };
    let wrong_size = |found| Error::Size { digest: *digest, found, expected: size };
    let mut file = tempfile::tempfile().map_err(temporary)?;
    let client = Client::connect(containerd).await?;
    let mut blob = client.read(digest, 0).await?;
    let mut hash = Sha256::new();
    let mut length = 0;
    while let Some(part) = blob.next().await? {
        length += part.len() as u64;
        // The node's disk is not filled by a blob that is larger than its manifest says.
        if length > size {
            return Err(wrong_size(length).into());
        }
        hash.update(&part);
        file.write_all(&part).map_err(temporary)?;
    }
    if length != size {
        return Err(wrong_size(length).into());
    }
    check_digest(digest, hash)?;
    file.rewind().map_err(temporary)?;
    Ok(file)
}

fn check_digest(expected: &Digest, hash: Sha256) -> Result<(), Error> {
    let found = Digest::from_sha256(hash.finalize().into());
    if found != *expected {
        return Err(Error::Damaged { expected: *expected, found });
    }
    Ok(())
}
