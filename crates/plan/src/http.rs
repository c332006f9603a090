//! How a guest of the http world is served.

use serde::{Deserialize, Serialize};
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::num::NonZeroU32;
use std::time::Duration;

/// The settings of the http server. They are there for every guest: only its code says which world it is of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Http {
    /// Where it listens.
    pub listen: Listen,
    /// Requests that guest code works on at a time; one more is answered with 503.
    pub max_concurrency: NonZeroU32,
    /// Connections at a time; one more waits to be accepted. `None`: by the memory that there is.
    pub max_connections: Option<NonZeroU32>,
    /// How long a guest may take to the head of its answer, and then from one piece of the body to the next.
    pub request_timeout: Duration,
    /// Requests that one instance of the guest answers, one after the other.
    pub reuse: NonZeroU32,
    /// How long new connections are still taken after SIGTERM.
    pub drain_delay: Duration,
}

/// Where a server listens.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Listen {
    /// `[::]` takes both versions of IP, and stands for `0.0.0.0` on a node without IPv6.
    On(SocketAddr),
    /// A variable of the environment names no port or address, which matters to a server alone.
    Unusable {
        /// The variable.
        variable: String,
        /// The form it is to have.
        expected: String,
    },
}

impl Default for Http {
    fn default() -> Self {
        let number = |number| NonZeroU32::new(number).unwrap_or(NonZeroU32::MIN);
        Http {
            listen: Listen::port(8080),
            max_concurrency: number(128),
            max_connections: None,
            request_timeout: Duration::from_secs(60),
            reuse: NonZeroU32::MIN,
            drain_delay: Duration::from_secs(2),
        }
    }
}

impl Listen {
    /// This port of every address.
    pub fn port(port: u16) -> Listen {
        Listen::On(SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), port))
    }
}
