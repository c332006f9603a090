//! What a guest may reach over the container's network.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::net::IpAddr;

/// What a guest may reach.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum NetworkAccess {
    /// Whatever the container's network namespace leads to; it may listen too.
    #[default]
    Any,
    /// What one of these says, and nothing if there is none. It listens nowhere by itself.
    Only(Vec<NetworkRule>),
}

/// What may be reached.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkRule {
    /// By which means.
    pub protocol: Protocol,
    /// Where.
    pub host: HostRule,
    /// `None` for any port.
    pub port: Option<u16>,
}

/// Means to reach something.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Protocol {
    /// A stream socket.
    Tcp,
    /// A datagram socket.
    Udp,
    /// A request of `wasi:http`, with or without TLS.
    Http,
}

/// A host, or many.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum HostRule {
    /// All of them.
    Any,
    /// The addresses that this name has when the guest asks; lower case.
    Name(String),
    /// The addresses that begin with as many bits of this one.
    Network(IpAddr, u8),
}

impl HostRule {
    /// Whether it is of this address, which a name is only by way of a lookup.
    pub fn contains(&self, address: IpAddr) -> bool {
        match self {
            HostRule::Any => true,
            HostRule::Name(_) => false,
            HostRule::Network(network, bits) => prefix(*network, *bits) == prefix(address, *bits),
        }
    }
}

/// The first bits of an address, and which version it is of.
fn prefix(address: IpAddr, bits: u8) -> (bool, u128) {
    let (is_v6, value, width) = match address.to_canonical() {
        IpAddr::V4(address) => (false, u128::from(address.to_bits()), 32),
        IpAddr::V6(address) => (true, address.to_bits(), 128),
    };
    let dropped = u32::from(width - bits.min(width));
    (is_v6, value.checked_shr(dropped).unwrap_or_default())
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
            Protocol::Http => "http",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_contain_what_begins_alike() {
        let contains = |network: &str, bits, address: &str| {
            HostRule::Network(network.parse().unwrap(), bits).contains(address.parse().unwrap())
        };
        assert!(contains("10.0.0.0", 8, "10.255.0.1"));
        assert!(!contains("10.0.0.0", 8, "11.0.0.1"));
        assert!(contains("10.1.2.3", 32, "10.1.2.3") && !contains("10.1.2.3", 32, "10.1.2.2"));
        assert!(contains("0.0.0.0", 0, "192.0.2.1") && !contains("0.0.0.0", 0, "2001:db8::1"));
        assert!(contains("10.0.0.0", 8, "::ffff:10.0.0.1"));
        assert!(contains("2001:db8::", 32, "2001:db8:1::1") && !contains("2001:db8::", 32, "2001:db9::1"));
    }
}
