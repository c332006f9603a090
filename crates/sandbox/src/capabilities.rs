//! Linux capabilities: the container process keeps none.

use caps::CapSet;
use caps::errors::CapsError;

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

/// Drops what a process of user id 0 still holds after [`drop_all`] and the change of identity.
pub(crate) fn drop_effective() -> Result<(), CapsError> {
    caps::clear(None, CapSet::Effective)?;
    caps::clear(None, CapSet::Permitted)
}
