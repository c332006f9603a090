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

impl NetworkAccess {
    /// The first thing that this access allows and no one rule of `maximum` does, as it is written in a list.
    pub fn beyond(&self, maximum: &NetworkAccess) -> Option<String> {
        match (self, maximum) {
            (_, NetworkAccess::Any) => None,
            (NetworkAccess::Any, NetworkAccess::Only(_)) => Some(self.to_string()),
            (NetworkAccess::Only(asked), NetworkAccess::Only(most)) => {
                asked.iter().find(|rule| !most.iter().any(|wider| wider.covers(rule))).map(ToString::to_string)
            }
        }
    }
}

impl NetworkRule {
    /// Whether it allows all that `narrower` does, whatever names turn out to be.
    fn covers(&self, narrower: &NetworkRule) -> bool {
        // Whoever may open a connection may speak http on it.
        let protocol = self.protocol == narrower.protocol
            || (self.protocol == Protocol::Tcp && narrower.protocol == Protocol::Http);
        protocol && self.host.covers(&narrower.host) && (self.port.is_none() || self.port == narrower.port)
    }
}

impl HostRule {
    fn covers(&self, narrower: &HostRule) -> bool {
        match (self, narrower) {
            (HostRule::Any, _) => true,
            (HostRule::Name(name), HostRule::Name(other)) => name == other,
            (HostRule::Network(_, bits), HostRule::Network(other, more)) => bits <= more && self.contains(*other),
            _ => false,
        }
    }

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

/// As it is written in a list.
impl fmt::Display for NetworkRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.protocol, self.host)?;
        match self.port {
            Some(port) => write!(f, ":{port}"),
            None => f.write_str(":*"),
        }
    }
}

impl fmt::Display for HostRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            HostRule::Any => f.write_str("*"),
            HostRule::Name(name) => f.write_str(name),
            HostRule::Network(IpAddr::V4(address), 32) => write!(f, "{address}"),
            HostRule::Network(IpAddr::V4(address), bits) => write!(f, "{address}/{bits}"),
            HostRule::Network(IpAddr::V6(address), 128) => write!(f, "[{address}]"),
            HostRule::Network(IpAddr::V6(address), bits) => write!(f, "[{address}]/{bits}"),
        }
    }
}

/// As a list; `*` for everything, which no list says.
impl fmt::Display for NetworkAccess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NetworkAccess::Any => f.write_str("*"),
            NetworkAccess::Only(rules) if rules.is_empty() => f.write_str("none"),
            NetworkAccess::Only(rules) => {
                let rules: Vec<String> = rules.iter().map(ToString::to_string).collect();
                f.write_str(&rules.join(","))
            }
        }
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

    fn rule(protocol: Protocol, host: &str, port: Option<u16>) -> NetworkRule {
        let host = match host.split_once('/') {
            Some((address, bits)) => HostRule::Network(address.parse().unwrap(), bits.parse().unwrap()),
            None if host == "*" => HostRule::Any,
            None => HostRule::Name(host.to_owned()),
        };
        NetworkRule { protocol, host, port }
    }

    #[test]
    fn a_rule_covers_what_is_narrower_in_every_respect() {
        use Protocol::{Http, Tcp, Udp};
        let covers = |wide: (Protocol, &str, Option<u16>), narrow: (Protocol, &str, Option<u16>)| {
            rule(wide.0, wide.1, wide.2).covers(&rule(narrow.0, narrow.1, narrow.2))
        };
        assert!(covers((Tcp, "*", None), (Tcp, "a", Some(1))) && !covers((Tcp, "a", None), (Tcp, "*", None)));
        assert!(covers((Tcp, "a", Some(1)), (Tcp, "a", Some(1))) && !covers((Tcp, "a", None), (Tcp, "b", None)));
        assert!(!covers((Tcp, "a", Some(1)), (Tcp, "a", None)) && !covers((Tcp, "a", Some(1)), (Tcp, "a", Some(2))));
        assert!(!covers((Udp, "a", None), (Tcp, "a", None)) && !covers((Http, "a", None), (Tcp, "a", None)));
        assert!(covers((Tcp, "a", Some(80)), (Http, "a", Some(80))));
        assert!(covers((Tcp, "10.0.0.0/8", None), (Tcp, "10.2.0.0/16", Some(1))));
        assert!(!covers((Tcp, "10.2.0.0/16", None), (Tcp, "10.0.0.0/8", None)));
        assert!(!covers((Tcp, "10.0.0.0/8", None), (Tcp, "11.0.0.0/16", None)));
        // Who a name is turns out when it is asked for.
        assert!(!covers((Tcp, "0.0.0.0/0", None), (Tcp, "a", None)));
        assert!(!covers((Tcp, "0.0.0.0/0", None), (Tcp, "::1/128", None)));
    }

    #[test]
    fn the_first_rule_beyond_a_maximum_is_told() {
        let only = |rules: &[NetworkRule]| NetworkAccess::Only(rules.to_vec());
        let most = only(&[rule(Protocol::Tcp, "10.0.0.0/8", None), rule(Protocol::Http, "a", Some(443))]);
        assert_eq!(only(&[]).beyond(&most), None);
        assert_eq!(most.beyond(&most), None);
        assert_eq!(most.beyond(&NetworkAccess::Any), None);
        assert_eq!(most.beyond(&only(&[])).as_deref(), Some("tcp:10.0.0.0/8:*"));
        assert_eq!(NetworkAccess::Any.beyond(&most).as_deref(), Some("*"));
        let asked = only(&[rule(Protocol::Tcp, "10.0.0.1/32", Some(1)), rule(Protocol::Udp, "::1/128", Some(53))]);
        assert_eq!(asked.beyond(&most).as_deref(), Some("udp:[::1]:53"));
        assert_eq!(only(&[]).to_string(), "none");
        assert_eq!(most.to_string(), "tcp:10.0.0.0/8:*,http:a:443");
    }
}
