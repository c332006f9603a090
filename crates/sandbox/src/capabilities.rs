//! Linux capabilities: the container process keeps none, or the one to listen on low ports.

use caps::errors::CapsError;
use caps::{CapSet, Capability, CapsHashSet};

/// Drops every capability from every set, the bounding set first while that is still allowed.
pub(crate) fn drop_all() -> Result<(), CapsError> {
    for capability in caps::all() {
        // A kernel older than this list does not know the newest ones, and then nobody can hold them.
        if caps::has_cap(None, CapSet::Bounding, capability).unwrap_or(false) {
            caps::drop(None, CapSet::Bounding, capability)?;
        }
    }
    caps::clear(None, CapSet::Ambient)?;
    caps::clear(None, CapSet::Inheritable)
}

/// Drops what a process still holds after [`drop_all`] and the change of identity, but these.
pub(crate) fn keep(kept: &[Capability]) -> Result<(), CapsError> {
    let kept: CapsHashSet = kept.iter().copied().collect();
    caps::set(None, CapSet::Effective, &CapsHashSet::new())?;
    caps::set(None, CapSet::Permitted, &kept)?;
    caps::set(None, CapSet::Effective, &kept)
}
