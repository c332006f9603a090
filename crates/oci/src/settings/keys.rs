//! The keys that operators and pod authors may set, each with its value's form.
//! It must not know where a value was written.

use super::units;
use plan::{RootAccess, Size};

const MEMORY: &str = "limits.memory";
const ROOTFS: &str = "rootfs";
const INVOKE: &str = "invoke";
/// Keys that are designed and refused until they are built.
const NOT_BUILT: [&str; 12] = [
    "http.listen",
    "http.max-concurrency",
    "http.request-timeout",
    "http.reuse",
    "http.drain-delay",
    "limits.fuel",
    "limits.timeout",
    "network.allow",
    "deterministic",
    "config.from",
    "keyvalue",
    "coredump",
];

/// Why a key or its value is refused.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// No such key.
    #[error("unknown key {0}: known keys are {MEMORY}, {ROOTFS}, {INVOKE}")]
    Unknown(String),
    /// A key of the design that has no code behind it yet.
    #[error("{0} is not built yet: remove it; built keys are {MEMORY}, {ROOTFS}, {INVOKE}")]
    NotBuilt(String),
    /// The value does not have the key's form.
    #[error("bad value {value:?} of {key}: expected {expected}")]
    BadValue {
        /// The key.
        key: String,
        /// What was written.
        value: String,
        /// The form the key takes.
        expected: &'static str,
    },
    /// A maximum for a key whose values have no order.
    #[error("{0} cannot have a maximum: only {MEMORY} and {ROOTFS} can")]
    NoMaximum(String),
    /// More than the operator allows.
    #[error("{key} = {asked} is above the maximum {maximum}: ask for less, or raise it in [maxima]")]
    AboveMaximum {
        /// The key.
        key: &'static str,
        /// What was asked for.
        asked: String,
        /// What the operator allows.
        maximum: String,
    },
}

/// What one place of settings chooses; what is absent is left to the next place.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Choices {
    pub(crate) memory_bytes: Option<u64>,
    pub(crate) rootfs: Option<RootAccess>,
    pub(crate) invoke: Option<String>,
}

impl Choices {
    /// Takes one key with its value.
    pub(crate) fn set(&mut self, key: &str, value: &str) -> Result<(), KeyError> {
        let bad = |expected| KeyError::BadValue { key: key.to_owned(), value: value.to_owned(), expected };
        match key {
            MEMORY => {
                let bytes = units::size(value).ok_or_else(|| bad(units::SIZE_FORM))?;
                self.memory_bytes = Some(bytes);
            }
            ROOTFS => {
                let access = access(value).ok_or_else(|| bad("rw, ro or none"))?;
                self.rootfs = Some(access);
            }
            INVOKE if value.is_empty() => return Err(bad("the name of an export")),
            INVOKE => self.invoke = Some(value.to_owned()),
            _ if NOT_BUILT.contains(&key) => return Err(KeyError::NotBuilt(key.to_owned())),
            _ => return Err(KeyError::Unknown(key.to_owned())),
        }
        Ok(())
    }

    /// These choices, and those of the next place where nothing is chosen here.
    pub(crate) fn or(self, next: Choices) -> Choices {
        Choices {
            memory_bytes: self.memory_bytes.or(next.memory_bytes),
            rootfs: self.rootfs.or(next.rootfs),
            invoke: self.invoke.or(next.invoke),
        }
    }

    /// Refuses choices above `maxima`.
    pub(crate) fn within(&self, maxima: &Maxima) -> Result<(), KeyError> {
        if let (Some(asked), Some(maximum)) = (self.memory_bytes, maxima.memory_bytes)
            && asked > maximum
        {
            return Err(KeyError::AboveMaximum {
                key: MEMORY,
                asked: Size(asked).to_string(),
                maximum: Size(maximum).to_string(),
            });
        }
        if let (Some(asked), Some(maximum)) = (self.rootfs, maxima.rootfs)
            && width(asked) > width(maximum)
        {
            return Err(KeyError::AboveMaximum {
                key: ROOTFS,
                asked: access_name(asked).to_owned(),
                maximum: access_name(maximum).to_owned(),
            });
        }
        Ok(())
    }
}

/// What the operator allows at most; what is absent is not bounded.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Maxima {
    pub(crate) memory_bytes: Option<u64>,
    pub(crate) rootfs: Option<RootAccess>,
}

impl Maxima {
    /// Takes one key with its maximum.
    pub(crate) fn set(&mut self, key: &str, value: &str) -> Result<(), KeyError> {
        let mut choices = Choices::default();
        choices.set(key, value)?;
        if choices.invoke.is_some() {
            return Err(KeyError::NoMaximum(key.to_owned()));
        }
        self.memory_bytes = choices.memory_bytes.or(self.memory_bytes);
        self.rootfs = choices.rootfs.or(self.rootfs);
        Ok(())
    }
}

/// The narrower of two accesses to the root filesystem.
pub(crate) fn narrower(one: RootAccess, other: RootAccess) -> RootAccess {
    if width(other) < width(one) { other } else { one }
}

/// How much an access allows, for comparing.
fn width(access: RootAccess) -> u8 {
    match access {
        RootAccess::Hidden => 0,
        RootAccess::ReadOnly => 1,
        RootAccess::ReadWrite => 2,
    }
}

fn access(text: &str) -> Option<RootAccess> {
    [RootAccess::Hidden, RootAccess::ReadOnly, RootAccess::ReadWrite]
        .into_iter()
        .find(|access| access_name(*access) == text)
}

fn access_name(access: RootAccess) -> &'static str {
    match access {
        RootAccess::Hidden => "none",
        RootAccess::ReadOnly => "ro",
        RootAccess::ReadWrite => "rw",
    }
}
