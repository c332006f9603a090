//! The node's own settings for the cache of compiled code; no image and no pod chooses them.

use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// Where compiled code is kept and what compiling may cost.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CacheSettings {
    /// Directory of the cache, root-owned, 0700; not on a `noexec` mount.
    pub dir: PathBuf,
    /// What all artifacts may sum up to, bytes; the least recently used go first.
    pub size_bytes: u64,
    /// Bounds of one compilation.
    pub compile: CompileBounds,
}

/// Bounds of the compile child.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct CompileBounds {
    /// Address space, bytes.
    pub memory_bytes: u64,
    /// Wall-clock time, milliseconds, without the wait for another compilation of the same wasm.
    pub time_ms: u64,
    /// The largest wasm that is compiled, bytes.
    pub wasm_bytes: u64,
}
