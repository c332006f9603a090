//! The key of an artifact: what was compiled, by which compiler and for which processor.

use crate::cache::{Cache, CacheError};
use crate::config::{Metering, Role, Variant, config};
use plan::{Calls, Digest};
use sha2::{Digest as _, Sha256};
use std::hash::{Hash, Hasher};
use wasmtime::Engine;

/// Names an artifact in the cache.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ArtifactKey {
    source: Digest,
    compatibility: String,
    pub(crate) variant: Variant,
}

impl ArtifactKey {
    /// The key of the code that this build makes on this node from a source. How the source calls is known once it is
    /// compiled: until then it counts as synchronous, which most are.
    ///
    /// Needs the cache because it keeps what the compiler's settings hash to: finding that out starts the compiler.
    pub fn new(cache: &Cache, source: &Digest, metering: Metering) -> Result<Self, CacheError> {
        ArtifactKey::of(cache, source, Variant { calls: Calls::Synchronous, metering })
    }

    fn of(cache: &Cache, source: &Digest, variant: Variant) -> Result<Self, CacheError> {
        Ok(ArtifactKey { source: *source, compatibility: cache.compatibility(variant)?, variant })
    }

    /// The key of what is made of the same source if it calls so.
    pub(crate) fn calling(&self, cache: &Cache, calls: Calls) -> Result<Self, CacheError> {
        if calls == self.variant.calls {
            return Ok(self.clone());
        }
        ArtifactKey::of(cache, &self.source, Variant { calls, ..self.variant })
    }

    /// The digest of the wasm that the artifact is made from.
    pub fn source(&self) -> &Digest {
        &self.source
    }

    /// The file name of the artifact.
    pub(crate) fn file_name(&self) -> String {
        format!("{}-{}-{}", self.source.hex(), self.compatibility, self.variant.name())
    }

    /// The file name of the lock. One lock serves 1/4096 of all sources, so that lock files need never be removed.
    pub(crate) fn lock_name(&self) -> String {
        self.source.hex()[..3].to_owned()
    }
}

impl std::fmt::Display for ArtifactKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.file_name())
    }
}

/// Hashes everything that decides whether code of this build runs on this processor: Wasmtime's version, its settings,
/// the compiler's settings and the processor's features. The compiler has to be on, otherwise the last two are left out.
pub(crate) fn compatibility(variant: Variant) -> wasmtime::Result<String> {
    let engine = Engine::new(&config(Role::Compile, variant))?;
    let mut hasher = Sha256Hasher(Sha256::new());
    engine.precompile_compatibility_hash().hash(&mut hasher);
    let digest = hasher.0.finalize();
    Ok(digest[..8].iter().map(|byte| format!("{byte:02x}")).collect())
}

/// `std::hash` over sha256, because the default hasher may change between versions of Rust.
struct Sha256Hasher(Sha256);

impl Hasher for Sha256Hasher {
    fn write(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    fn finish(&self) -> u64 {
        let digest = self.0.clone().finalize();
        let mut first = [0; 8];
        first.copy_from_slice(&digest[..8]);
        u64::from_ne_bytes(first)
    }
}
