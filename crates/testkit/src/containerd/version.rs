//! The versions of containerd, and what they are called.

use crate::store;
use std::fmt;
use std::path::PathBuf;

/// The versions that tests run on; `test/containerd.sh` fetches them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Version {
    /// Task service v2 only; its `ctr` lacks some options.
    V1_6,
    /// Task service v2 only.
    V1_7,
    /// Task service v3, parameters as flags.
    V2_1,
    /// Task service v3, bootstrap parameters on stdin; the line with long support.
    V2_3,
    /// As 2.3.
    V2_4,
}

/// Which of its two forms containerd's configuration has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    /// Of containerd 1.x: version 2, one CRI plugin.
    One,
    /// Of containerd 2.x: version 3, CRI plugins for images and for the runtime.
    Two,
}

impl Version {
    /// Where its binaries are.
    pub fn bin(self) -> PathBuf {
        store::dir().join(format!("containerd-{self}")).join("bin")
    }

    /// Its name as the path of a test: `v1_7`.
    pub fn module(self) -> &'static str {
        match self {
            Version::V1_6 => "v1_6",
            Version::V1_7 => "v1_7",
            Version::V2_1 => "v2_1",
            Version::V2_3 => "v2_3",
            Version::V2_4 => "v2_4",
        }
    }

    pub(crate) fn form(self) -> Form {
        match self {
            Version::V1_6 | Version::V1_7 => Form::One,
            Version::V2_1 | Version::V2_3 | Version::V2_4 => Form::Two,
        }
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Version::V1_6 => "1.6",
            Version::V1_7 => "1.7",
            Version::V2_1 => "2.1",
            Version::V2_3 => "2.3",
            Version::V2_4 => "2.4",
        })
    }
}
