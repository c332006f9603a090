//! The AppArmor profile of the container process.
//! It must not know what a profile holds: the node's administrator loads them.

use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;

/// Whether the kernel has AppArmor, and has it on.
const ENABLED: &str = "/sys/module/apparmor/parameters/enabled";
/// Takes the order to change this process's profile.
const ATTRIBUTE: &str = "/proc/self/attr/apparmor/current";

/// Why the profile could not be taken on.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AppArmorError {
    /// The kernel's interface is not there.
    #[error("open {ATTRIBUTE} for apparmor profile {profile}")]
    Open {
        /// The profile asked for.
        profile: String,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// The profile is not there, or this process may not change to it.
    #[error("change to apparmor profile {profile}: load it on the node (apparmor_parser), or name another")]
    Change {
        /// The profile asked for.
        profile: String,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
}

/// Whether profiles can be applied on this node.
pub(crate) fn is_enabled() -> bool {
    fs::read_to_string(ENABLED).is_ok_and(|text| text.starts_with('Y'))
}

/// A change of profile that is prepared while `/proc` is there.
#[derive(Debug)]
pub(crate) struct Change<'a> {
    profile: &'a str,
    attribute: OwnedFd,
}

/// Prepares the change to `profile`.
pub(crate) fn prepare(profile: &str) -> Result<Change<'_>, AppArmorError> {
    let attribute = open(ATTRIBUTE, OFlag::O_WRONLY | OFlag::O_CLOEXEC, Mode::empty());
    let attribute =
        attribute.map_err(|errno| AppArmorError::Open { profile: profile.to_owned(), source: errno.into() })?;
    Ok(Change { profile, attribute })
}

impl Change<'_> {
    /// Changes this process's profile. At once, since there is no exec to wait for.
    pub(crate) fn apply(self) -> Result<(), AppArmorError> {
        let order = format!("changeprofile {}", self.profile);
        // The kernel takes the whole order in one write.
        let written = nix::unistd::write(&self.attribute, order.as_bytes());
        written
            .map(drop)
            .map_err(|errno| AppArmorError::Change { profile: self.profile.to_owned(), source: errno.into() })
    }
}
