//! `network.allow`: a list of what a guest may reach.
//! It must not know where the list was written.

use plan::{HostRule, NetworkAccess, NetworkRule, Protocol};
use std::net::IpAddr;

/// What is said of a list that cannot be read.
pub(super) const FORM: &str = "none, or a list of tcp:HOST:PORT, udp:HOST:PORT, http:HOST or http:HOST:PORT, where HOST is a \
    name, an address, a network such as 10.0.0.0/8 or [2001:db8::]/32, or *, and PORT a number or *";
/// Means nothing at all.
const NONE: &str = "none";
/// Means each of them.
const ANY: &str = "*";
/// The longest name of a host (RFC 1035, section 2.3.4).
const LONGEST_NAME: usize = 253;

/// Reads a list.
pub(super) fn parse(text: &str) -> Option<NetworkAccess> {
    if text == NONE {
        return Some(NetworkAccess::Only(Vec::new()));
    }
    let rules: Option<Vec<_>> = text.split(',').map(|rule| rule_of(rule.trim())).collect();
    rules.map(NetworkAccess::Only)
}

fn rule_of(text: &str) -> Option<NetworkRule> {
    let (protocol, rest) = text.split_once(':')?;
    let protocol = match protocol {
        "tcp" => Protocol::Tcp,
        "udp" => Protocol::Udp,
        "http" => Protocol::Http,
        _ => return None,
    };
    let (host, port) = match host_and_rest(rest)? {
        (host, "") if protocol == Protocol::Http => (host, None),
        (host, rest) => (host, port_of(rest.strip_prefix(':')?)?),
    };
    Some(NetworkRule { protocol, host, port })
}

/// The host at the beginning, and what follows it.
fn host_and_rest(text: &str) -> Option<(HostRule, &str)> {
    if let Some(bracketed) = text.strip_prefix('[') {
        let (address, rest) = bracketed.split_once(']')?;
        let address: std::net::Ipv6Addr = address.parse().ok()?;
        let end = rest.find(':').unwrap_or(rest.len());
        let bits = match rest[..end].strip_prefix('/') {
            Some(bits) => bits.parse().ok().filter(|bits| *bits <= 128)?,
            None if end == 0 => 128,
            None => return None,
        };
        return Some((HostRule::Network(address.into(), bits), &rest[end..]));
    }
    let (host, rest) = text.split_at(text.find(':').unwrap_or(text.len()));
    if host == ANY {
        return Some((HostRule::Any, rest));
    }
    let (address, bits) = match host.split_once('/') {
        Some((address, bits)) => (address, Some(bits.parse().ok().filter(|bits| *bits <= 32)?)),
        None => (host, None),
    };
    match address.parse::<std::net::Ipv4Addr>() {
        Ok(address) => Some((HostRule::Network(IpAddr::V4(address), bits.unwrap_or(32)), rest)),
        Err(_) if bits.is_none() => name_of(host).map(|name| (HostRule::Name(name), rest)),
        Err(_) => None,
    }
}

/// A name of DNS or of a hosts file; one of digits and dots alone was meant for an address.
fn name_of(text: &str) -> Option<String> {
    let name = text.strip_suffix('.').unwrap_or(text);
    let known = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    let labels = name.split('.').all(|label| !label.is_empty() && label.len() < 64 && label.bytes().all(known));
    let has_letter = name.bytes().any(|byte| byte.is_ascii_alphabetic());
    (labels && has_letter && name.len() <= LONGEST_NAME).then(|| name.to_ascii_lowercase())
}

fn port_of(text: &str) -> Option<Option<u16>> {
    match text {
        ANY => Some(None),
        number => number.parse().ok().filter(|port| *port > 0).map(Some),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(protocol: Protocol, host: HostRule, port: Option<u16>) -> NetworkRule {
        NetworkRule { protocol, host, port }
    }

    #[test]
    fn rules_name_protocol_host_and_port() {
        let name = |text: &str| HostRule::Name(text.to_owned());
        let network = |address: &str, bits| HostRule::Network(address.parse().unwrap(), bits);
        let cases = [
            ("tcp:db.example:5432", rule(Protocol::Tcp, name("db.example"), Some(5432))),
            ("tcp:DB.example.:*", rule(Protocol::Tcp, name("db.example"), None)),
            ("udp:10.0.0.0/8:53", rule(Protocol::Udp, network("10.0.0.0", 8), Some(53))),
            ("tcp:127.0.0.1:1", rule(Protocol::Tcp, network("127.0.0.1", 32), Some(1))),
            ("tcp:[::1]:1", rule(Protocol::Tcp, network("::1", 128), Some(1))),
            ("tcp:[2001:db8::]/32:*", rule(Protocol::Tcp, network("2001:db8::", 32), None)),
            ("http:api.example", rule(Protocol::Http, name("api.example"), None)),
            ("http:api.example:8443", rule(Protocol::Http, name("api.example"), Some(8443))),
            ("http:*", rule(Protocol::Http, HostRule::Any, None)),
        ];
        for (text, wanted) in cases {
            assert_eq!(parse(text), Some(NetworkAccess::Only(vec![wanted])), "{text}");
        }
        assert_eq!(parse("none"), Some(NetworkAccess::Only(Vec::new())));
        let both = parse("tcp:a:1, http:b");
        assert!(matches!(both, Some(NetworkAccess::Only(rules)) if rules.len() == 2));
    }

    #[test]
    fn what_is_no_rule_is_refused() {
        let cases = [
            "",
            "tcp",
            "tcp:",
            "tcp:a",
            "tcp::1",
            "tcp:a:0",
            "tcp:a:65536",
            "tcp:a:b",
            "ftp:a:1",
            "tcp:10.0.0.0/33:1",
            "tcp:10.0.0.256:1",
            "tcp:[::1:1",
            "tcp:[::1]/129:1",
            "tcp:a..b:1",
            "tcp:a b:1",
            "none,tcp:a:1",
            "tcp:a:1,",
            "http:",
            "http:a:",
            "tcp:a/8:1",
            "tcp:::1:80",
            "*",
        ];
        for text in cases {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}
