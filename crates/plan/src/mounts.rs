//! The mounts that become the guest's filesystem.

use crate::IdMappings;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// How the guest sees the root filesystem.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum RootAccess {
    /// Preopened at `/`, read-write.
    ReadWrite,
    /// Preopened at `/`; the mount refuses writes.
    ReadOnly,
    /// Not preopened: the guest sees its mounts only.
    Hidden,
}

/// One mount of the container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {
    /// Absolute path inside the container, without `.` or `..`.
    pub destination: PathBuf,
    /// What is mounted there.
    pub source: MountSource,
    /// The options that hold for every kind of mount.
    pub flags: MountFlags,
    /// How the owners of its files are mapped, if they are: only of bind mounts.
    pub ids: Option<IdMappings>,
}

/// What is mounted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum MountSource {
    /// A file or directory of the node.
    Bind {
        /// Absolute path on the node.
        path: PathBuf,
        /// `rbind`: with the mounts below it.
        recursive: bool,
    },
    /// A filesystem in memory.
    Tmpfs {
        /// Options of tmpfs itself, joined by commas (`mode=755,size=65536k`).
        data: String,
    },
}

/// Per-mount flags (`mount(2)`). `nosuid` and `nodev` are none: every mount of a guest has them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MountFlags {
    /// `ro`.
    pub read_only: bool,
    /// `noexec`.
    pub noexec: bool,
    /// `noatime`.
    pub noatime: bool,
}
