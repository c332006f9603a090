//! What the compiler's settings hash to, kept per node. Computing it starts the compiler, which costs each shim ten times
//! the 40 microseconds of reading a file, and memory for as long as it lives.

use super::entry;
use super::{Cache, CacheError};
use crate::config::Variant;
use crate::key;
use plan::FileIdentity;
use serde::{Deserialize, Serialize};
use std::fs::{self, File};
use std::io;

/// Holds for one build of this software on one processor. The processor's features change at a boot only.
#[derive(Serialize, Deserialize)]
struct Known {
    boot: String,
    executable: FileIdentity,
    hash: String,
}

pub(super) fn find_or_compute(cache: &Cache, variant: Variant) -> Result<String, CacheError> {
    let path = cache.dir.join(format!("compatibility-{}", variant.name()));
    let (boot, executable) = this_run().map_err(|source| cache.file_error("read what identifies", &path, source))?;
    let known: Option<Known> = fs::read(&path).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok());
    if let Some(known) = known
        && known.boot == boot
        && known.executable == executable
    {
        return Ok(known.hash);
    }
    let hash = key::compatibility(variant).map_err(|error| CacheError::Compiler { reason: format!("{error:#}") })?;
    let known = Known { boot, executable, hash };
    let content = serde_json::to_vec(&known).expect("a struct of numbers and strings is always valid JSON");
    cache.note(&path, &content)?;
    Ok(known.hash)
}

fn this_run() -> io::Result<(String, FileIdentity)> {
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
    let executable = entry::identity(&File::open("/proc/self/exe")?)?;
    Ok((boot.trim().to_owned(), executable))
}
