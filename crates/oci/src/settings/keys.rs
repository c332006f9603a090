//! The keys that operators and pod authors may set, each with its value's form.
//! It must not know where a value was written.

use super::{network, units};
use plan::{NetworkAccess, RootAccess, Size};
use std::cmp::Ordering;
use std::fmt::{self, Display};
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::time::Duration;

const MEMORY: &str = "limits.memory";
const TIMEOUT: &str = "limits.timeout";
const FUEL: &str = "limits.fuel";
const ROOTFS: &str = "rootfs";
const INVOKE: &str = "invoke";
const LISTEN: &str = "http.listen";
const CONCURRENCY: &str = "http.max-concurrency";
const CONNECTIONS: &str = "http.max-connections";
const REQUEST_TIMEOUT: &str = "http.request-timeout";
const REUSE: &str = "http.reuse";
const DRAIN_DELAY: &str = "http.drain-delay";
const NETWORK: &str = "network.allow";
/// The form of a count.
const COUNT_FORM: &str = "a whole number above 0";
/// The form of an address to listen on.
pub(super) const ADDRESS_FORM: &str = "an address with a port such as [::]:8080, 0.0.0.0:80 or 127.0.0.1:8080";
/// The keys that have an order, and thus may have a maximum.
const ORDERED: [&str; 10] =
    [MEMORY, TIMEOUT, FUEL, ROOTFS, CONCURRENCY, CONNECTIONS, REQUEST_TIMEOUT, REUSE, DRAIN_DELAY, NETWORK];
/// The others.
const UNORDERED: [&str; 2] = [INVOKE, LISTEN];
/// Keys that are designed and refused until they are built.
const NOT_BUILT: [&str; 4] = ["deterministic", "config.from", "keyvalue", "coredump"];

/// Why a key or its value is refused.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// No such key.
    #[error("unknown key {0}: known keys are {known}", known = known())]
    Unknown(String),
    /// A key of the design that has no code behind it yet.
    #[error("{0} is not built yet: remove it; built keys are {known}", known = known())]
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
    #[error("{0} cannot have a maximum: only {ordered} can", ordered = ORDERED.join(", "))]
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
    /// A rule of a list that no rule of the operator's list covers.
    #[error(
        "rule {rule} of network.allow is not within the maximum {maximum}: remove it or ask for less, or widen it in [maxima]"
    )]
    BeyondMaximum {
        /// The rule.
        rule: String,
        /// What the operator allows.
        maximum: String,
    },
}

/// What one place of settings chooses; what is absent is left to the next place.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Choices {
    pub(crate) memory_bytes: Option<u64>,
    pub(crate) timeout: Option<Duration>,
    pub(crate) fuel: Option<u64>,
    pub(crate) rootfs: Option<RootAccess>,
    pub(crate) invoke: Option<String>,
    pub(crate) listen: Option<SocketAddr>,
    pub(crate) max_concurrency: Option<NonZeroU32>,
    pub(crate) max_connections: Option<NonZeroU32>,
    pub(crate) request_timeout: Option<Duration>,
    pub(crate) reuse: Option<NonZeroU32>,
    pub(crate) drain_delay: Option<Duration>,
    pub(crate) network: Option<NetworkAccess>,
}

impl Choices {
    /// Takes one key with its value.
    pub(crate) fn set(&mut self, key: &str, value: &str) -> Result<(), KeyError> {
        let bad = |expected| KeyError::BadValue { key: key.to_owned(), value: value.to_owned(), expected };
        let size = || units::size(value).ok_or_else(|| bad(units::SIZE_FORM)).map(Some);
        let duration = || units::duration(value).ok_or_else(|| bad(units::DURATION_FORM)).map(Some);
        let count = || value.parse().map_err(|_| bad(COUNT_FORM)).map(Some);
        match key {
            MEMORY => self.memory_bytes = size()?,
            TIMEOUT => self.timeout = duration()?,
            FUEL => {
                let fuel = value.parse().ok().filter(|fuel| *fuel > 0);
                self.fuel = Some(fuel.ok_or_else(|| bad(COUNT_FORM))?);
            }
            ROOTFS => self.rootfs = access(value).ok_or_else(|| bad("rw, ro or none")).map(Some)?,
            INVOKE if value.is_empty() => return Err(bad("the name of an export")),
            INVOKE => self.invoke = Some(value.to_owned()),
            LISTEN => self.listen = value.parse().map_err(|_| bad(ADDRESS_FORM)).map(Some)?,
            CONCURRENCY => self.max_concurrency = count()?,
            CONNECTIONS => self.max_connections = count()?,
            REQUEST_TIMEOUT => self.request_timeout = duration()?,
            REUSE => self.reuse = count()?,
            // None is a choice here: endpoints may be gone before the signal comes.
            DRAIN_DELAY if value == "0s" => self.drain_delay = Some(Duration::ZERO),
            DRAIN_DELAY => self.drain_delay = duration()?,
            NETWORK => self.network = network::parse(value).ok_or_else(|| bad(network::FORM)).map(Some)?,
            _ if NOT_BUILT.contains(&key) => return Err(KeyError::NotBuilt(key.to_owned())),
            _ => return Err(KeyError::Unknown(key.to_owned())),
        }
        Ok(())
    }

    /// These choices, and those of the next place where nothing is chosen here.
    pub(crate) fn or(self, next: Choices) -> Choices {
        Choices {
            memory_bytes: self.memory_bytes.or(next.memory_bytes),
            timeout: self.timeout.or(next.timeout),
            fuel: self.fuel.or(next.fuel),
            rootfs: self.rootfs.or(next.rootfs),
            invoke: self.invoke.or(next.invoke),
            listen: self.listen.or(next.listen),
            max_concurrency: self.max_concurrency.or(next.max_concurrency),
            max_connections: self.max_connections.or(next.max_connections),
            request_timeout: self.request_timeout.or(next.request_timeout),
            reuse: self.reuse.or(next.reuse),
            drain_delay: self.drain_delay.or(next.drain_delay),
            network: self.network.or(next.network),
        }
    }

    /// Refuses choices above `maxima`.
    pub(crate) fn within(&self, maxima: &Maxima) -> Result<(), KeyError> {
        let Maxima(most) = maxima;
        let width = |access: &Option<RootAccess>| access.map(Width);
        bound(MEMORY, self.memory_bytes.map(Size), most.memory_bytes.map(Size))?;
        bound(TIMEOUT, self.timeout.map(Time), most.timeout.map(Time))?;
        bound(FUEL, self.fuel, most.fuel)?;
        bound(ROOTFS, width(&self.rootfs), width(&most.rootfs))?;
        bound(CONCURRENCY, self.max_concurrency, most.max_concurrency)?;
        bound(CONNECTIONS, self.max_connections, most.max_connections)?;
        bound(REQUEST_TIMEOUT, self.request_timeout.map(Time), most.request_timeout.map(Time))?;
        bound(REUSE, self.reuse, most.reuse)?;
        bound(DRAIN_DELAY, self.drain_delay.map(Time), most.drain_delay.map(Time))?;
        match (&self.network, &most.network) {
            (Some(asked), Some(most)) => asked
                .beyond(most)
                .map_or(Ok(()), |rule| Err(KeyError::BeyondMaximum { rule, maximum: most.to_string() })),
            _ => Ok(()),
        }
    }
}

fn bound<T: PartialOrd + Display>(key: &'static str, asked: Option<T>, maximum: Option<T>) -> Result<(), KeyError> {
    match (asked, maximum) {
        (Some(asked), Some(maximum)) if asked > maximum => {
            Err(KeyError::AboveMaximum { key, asked: asked.to_string(), maximum: maximum.to_string() })
        }
        _ => Ok(()),
    }
}

/// What the operator allows at most; what is absent is not bounded. Only ordered keys are set.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Maxima(pub(crate) Choices);

impl Maxima {
    /// Takes one key with its maximum.
    pub(crate) fn set(&mut self, key: &str, value: &str) -> Result<(), KeyError> {
        match UNORDERED.contains(&key) {
            true => Err(KeyError::NoMaximum(key.to_owned())),
            false => self.0.set(key, value),
        }
    }
}

fn known() -> String {
    [ORDERED.as_slice(), UNORDERED.as_slice()].concat().join(", ")
}

/// A duration as operators and pod authors write it.
#[derive(PartialEq, PartialOrd)]
struct Time(Duration);

impl Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.subsec_millis() {
            0 => write!(f, "{}s", self.0.as_secs()),
            _ => write!(f, "{}ms", self.0.as_millis()),
        }
    }
}

/// An access to the root filesystem by how much it allows.
struct Width(RootAccess);

impl PartialEq for Width {
    fn eq(&self, other: &Self) -> bool {
        self.0 == other.0
    }
}

impl PartialOrd for Width {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        width(self.0).partial_cmp(&width(other.0))
    }
}

impl Display for Width {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(access_name(self.0))
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
