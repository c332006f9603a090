//! What a guest may reach over the container's network. Every use is asked for here: sockets by address, names before
//! they are looked up, http requests by host.
//! Invariant: a rule with a name allows the addresses that this guest was told for that name, and no others.

mod client;
mod lookup;
mod roots;

pub(crate) use client::Outgoing;
pub(crate) use lookup::add_to_linker;

use crate::stdio::Output;
use hickory_resolver::config::{LookupIpStrategy, ResolverConfig, ResolverOpts};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::system_conf::parse_resolv_conf;
use hickory_resolver::{Hosts, TokioResolver};
use plan::{HostRule, NetworkAccess, NetworkRule, Protocol};
use std::collections::{HashMap, HashSet};
use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::OnceCell;
use wasmtime_wasi::WasiCtxBuilder;
use wasmtime_wasi::sockets::SocketAddrUse;

/// The longest name of a host (RFC 1035, section 2.3.4).
const LONGEST_NAME: usize = 253;
/// Addresses that one name is remembered to have had.
const MOST_PINNED: usize = 1000;
/// Refusals that the log tells apart; a guest that goes on after that many is not worth more lines.
const MOST_TOLD: usize = 100;

/// The network of a container.
#[derive(Clone)]
pub(crate) struct Network(Arc<Shared>);

struct Shared {
    access: NetworkAccess,
    files: Files,
    resolver: OnceCell<TokioResolver>,
    /// What names of the rules were looked up to be.
    pinned: Mutex<HashMap<String, HashSet<IpAddr>>>,
    log: Output,
    told: Mutex<HashSet<String>>,
}

/// The container's files about names, as they were before the guest ran: one that may write them must not choose whom a
/// rule with a name is about.
#[derive(Default)]
pub(crate) struct Files {
    hosts: Vec<u8>,
    resolv_conf: Vec<u8>,
}

impl Files {
    /// To be called where the container's files are this process's files, before the guest runs.
    pub(crate) fn of_container() -> Files {
        // A container without them knows no names.
        let read = |path| fs::read(path).unwrap_or_default();
        Files { hosts: read("/etc/hosts"), resolv_conf: read("/etc/resolv.conf") }
    }
}

/// Why a name has no address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LookupError {
    /// No rule has it.
    Refused,
    /// It is no name.
    NoName,
    /// The name server says that there is none.
    Unknown,
    /// No name server answered.
    Unreachable,
}

impl Network {
    /// The network that `access` leaves of the container's; refusals go to `log`.
    pub(crate) fn new(access: NetworkAccess, files: Files, log: Output) -> Network {
        let (resolver, pinned, told) = (OnceCell::new(), Mutex::default(), Mutex::default());
        Network(Arc::new(Shared { access, files, resolver, pinned, log, told }))
    }

    /// Gives a guest its sockets. Names are ours: see [`add_to_linker`].
    pub(crate) fn grant(&self, builder: &mut WasiCtxBuilder) {
        let network = self.clone();
        builder.allow_tcp(true).allow_udp(true).socket_addr_check(move |address, usage| {
            let permitted = network.permits(address, usage);
            Box::pin(std::future::ready(permitted))
        });
    }

    fn permits(&self, address: SocketAddr, usage: SocketAddrUse) -> bool {
        let NetworkAccess::Only(_) = &self.0.access else { return true };
        let permitted = match usage {
            // A port that the system chooses, from which to reach out.
            SocketAddrUse::TcpBind | SocketAddrUse::UdpBind => address.port() == 0,
            SocketAddrUse::TcpListen | SocketAddrUse::TcpAccept => false,
            SocketAddrUse::TcpConnect => self.reaches(Protocol::Tcp, address),
            SocketAddrUse::UdpSend | SocketAddrUse::UdpReceive => self.reaches(Protocol::Udp, address),
        };
        if !permitted {
            self.refuse(&match usage {
                // From whoever sends: one line for all of them.
                SocketAddrUse::UdpReceive => "datagrams of senders that no rule has".to_owned(),
                _ => format!("{usage:?} {address}"),
            });
        }
        permitted
    }

    fn reaches(&self, protocol: Protocol, address: SocketAddr) -> bool {
        let pinned = locked(&self.0.pinned);
        let ip = address.ip().to_canonical();
        self.rules().any(|rule| {
            let host = match &rule.host {
                HostRule::Name(name) => pinned.get(name).is_some_and(|addresses| addresses.contains(&ip)),
                other => other.contains(ip),
            };
            rule.protocol == protocol && host && rule.port.is_none_or(|port| port == address.port())
        })
    }

    /// Whether a request may go to this host, which is a name or an address.
    fn permits_request(&self, host: &str, port: u16) -> bool {
        let NetworkAccess::Only(_) = &self.0.access else { return true };
        let address = host.parse::<IpAddr>().ok();
        let permitted = self.rules().any(|rule| {
            let host = match (&rule.host, address) {
                (HostRule::Name(name), None) => *name == host,
                (other, Some(address)) => other.contains(address),
                (other, None) => *other == HostRule::Any,
            };
            // Whoever may open a connection may speak http on it.
            let protocol = matches!(rule.protocol, Protocol::Http | Protocol::Tcp);
            protocol && host && rule.port.is_none_or(|allowed| allowed == port)
        });
        if !permitted {
            self.refuse(&format!("http {host}:{port}"));
        }
        permitted
    }

    /// The addresses of a name, as the container's hosts file and name servers have them.
    pub(crate) async fn resolve(&self, name: &str) -> Result<Vec<IpAddr>, LookupError> {
        let literal = name.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(name);
        if let Ok(address) = literal.parse::<IpAddr>() {
            return Ok(vec![address]);
        }
        // One that ends with a dot is whole, and looked up in no other domain.
        let asked = name.to_ascii_lowercase();
        let name = asked.strip_suffix('.').unwrap_or(&asked).to_owned();
        if name.is_empty() || name.len() > LONGEST_NAME {
            return Err(LookupError::NoName);
        }
        let is_any = |rule: &NetworkRule| rule.host == HostRule::Any || rule.host == HostRule::Name(name.clone());
        if self.0.access != NetworkAccess::Any && !self.rules().any(is_any) {
            self.refuse(&format!("to look up {name}"));
            return Err(LookupError::Refused);
        }
        let resolver = self.0.resolver.get_or_try_init(|| async { resolver(&self.0.files) }).await;
        let resolver = resolver.map_err(|()| LookupError::Unreachable)?;
        let found = resolver.lookup_ip(asked.as_str()).await.map_err(|error| {
            if error.is_no_records_found() || error.is_nx_domain() {
                LookupError::Unknown
            } else {
                LookupError::Unreachable
            }
        })?;
        let addresses: Vec<IpAddr> = found.iter().collect();
        if let NetworkAccess::Only(_) = &self.0.access {
            let mut pinned = locked(&self.0.pinned);
            let known = pinned.entry(name).or_default();
            if known.len() + addresses.len() > MOST_PINNED {
                known.clear();
            }
            known.extend(&addresses);
        }
        Ok(addresses)
    }

    fn rules(&self) -> impl Iterator<Item = &NetworkRule> {
        match &self.0.access {
            NetworkAccess::Any => [].iter(),
            NetworkAccess::Only(rules) => rules.iter(),
        }
    }

    /// One line in the container's log for each thing that was refused.
    fn refuse(&self, what: &str) {
        let mut told = locked(&self.0.told);
        if told.len() < MOST_TOLD && told.insert(what.to_owned()) {
            let what = plan::printable_line(what);
            self.0.log.tell(&format!("network.allow refuses {what}: add it to the list if the guest needs it\n"));
        }
    }
}

/// By the container's own files. Without name servers, the hosts file has the last word.
fn resolver(files: &Files) -> Result<TokioResolver, ()> {
    let (config, options) = parse_resolv_conf(&files.resolv_conf)
        .unwrap_or_else(|_| (ResolverConfig::from_parts(None, Vec::new(), Vec::new()), ResolverOpts::default()));
    let mut builder = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
    *builder.options_mut() = options;
    builder.options_mut().ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
    let mut resolver = builder.build().map_err(drop)?;
    let mut hosts = Hosts::default();
    // What cannot be read of it is not there.
    let _ = hosts.read_hosts_conf(files.hosts.as_slice());
    resolver.set_hosts(Arc::new(hosts));
    Ok(resolver)
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
