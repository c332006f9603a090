//! Where the wasm comes from and how it is identified.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::path::PathBuf;

/// What a container process does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Program {
    /// It runs wasm.
    Wasm(Source),
    /// It holds the namespaces of a pod until it is ended, and is a part of the shim.
    Pause,
}

impl Program {
    /// The export to call, if it is not the world's own entry point.
    pub fn export(&self) -> Option<&str> {
        match self {
            Program::Wasm(source) => source.export.as_deref(),
            Program::Pause => None,
        }
    }
}

impl fmt::Display for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Program::Wasm(source) => source.origin.fmt(f),
            Program::Pause => f.write_str("the pause container"),
        }
    }
}

/// The wasm to run and the export to call.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Source {
    /// Where the bytes are.
    pub origin: Origin,
    /// The export to call (`path#export`), with its arguments if they are written so (`path#export(1, 2)`); the world's own
    /// entry point if absent.
    pub export: Option<String>,
}

/// Where the bytes of the wasm are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Origin {
    /// A file in the container's root filesystem.
    File {
        /// Absolute path inside the root filesystem, symlinks resolved.
        path: PathBuf,
        /// What the file is on the node's disk. Absent if the container could change it in place, so that its bytes
        /// have to be hashed at each start.
        identity: Option<FileIdentity>,
    },
    /// A layer of the image, in containerd's content store.
    Layer {
        /// The layer's digest, which containerd verified when it stored the blob.
        digest: Digest,
        /// Bytes.
        size: u64,
    },
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::File { path, .. } => write!(f, "{}", path.display()),
            Origin::Layer { digest, .. } => write!(f, "layer {digest}"),
        }
    }
}

/// Identifies an unchanged file without reading it. The kernel sets ctime at every change of content or metadata.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct FileIdentity {
    /// `st_dev` of the underlying filesystem, not of an overlay over it.
    pub device: u64,
    /// `st_ino`.
    pub inode: u64,
    /// `st_ctime` in nanoseconds since the epoch.
    pub changed_ns: i128,
    /// Bytes.
    pub size: u64,
}

/// A sha256 digest, the only algorithm accepted here (OCI image spec, "Digests").
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Digest([u8; 32]);

/// Why a text is not a digest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DigestError(String);

impl fmt::Display for DigestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "digest {:?} is not of the form sha256:<64 hex digits>", self.0)
    }
}

impl std::error::Error for DigestError {}

impl Digest {
    /// From the 32 bytes that sha256 gives.
    pub fn from_sha256(bytes: [u8; 32]) -> Self {
        Digest(bytes)
    }

    /// The 64 lower-case hex digits without the algorithm's name, fit for a file name.
    pub fn hex(&self) -> String {
        self.0.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

impl std::str::FromStr for Digest {
    type Err = DigestError;

    fn from_str(text: &str) -> Result<Self, DigestError> {
        let bad = || DigestError(text.to_owned());
        let hex = text.strip_prefix("sha256:").ok_or_else(bad)?;
        if hex.len() != 64 || !hex.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b)) {
            return Err(bad());
        }
        let mut bytes = [0; 32];
        for (index, byte) in bytes.iter_mut().enumerate() {
            *byte = u8::from_str_radix(&hex[index * 2..index * 2 + 2], 16).map_err(|_| bad())?;
        }
        Ok(Digest(bytes))
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", self.hex())
    }
}

impl Serialize for Digest {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}
