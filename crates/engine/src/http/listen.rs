//! The server's socket: bound while the container is created, so that what is wrong with the address is known before
//! start, and listening from start on.

use plan::{Failure, Http, Listen};
use socket2::SockRef;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use tokio::net::{TcpListener, TcpSocket};

/// Connections that the kernel accepts before the server does.
pub(super) const BACKLOG: u32 = 1024;

/// A bound socket.
pub(crate) struct Socket {
    socket: TcpSocket,
    /// Where it listens, if not where the settings say.
    instead: Option<SocketAddr>,
}

impl Socket {
    /// Binds where the settings say. Within the container's network namespace.
    pub(crate) fn bind(settings: &Http) -> Result<Socket, Failure> {
        let address = match &settings.listen {
            Listen::On(address) => *address,
            Listen::Unusable { variable, expected } => {
                return Err(Failure::Message(format!(
                    "environment variable {variable} is to say where the http server listens, and is not {expected}: \
                     correct it, or set http.listen"
                )));
            }
        };
        match bind(address) {
            // A node without IPv6 has its own words for that.
            Err(_) if address.ip().is_unspecified() && address.is_ipv6() && !has_ipv6() => {
                let address = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), address.port());
                let socket = bind(address).map_err(|error| refused(address, &error))?;
                Ok(Socket { socket, instead: Some(address) })
            }
            bound => {
                let socket = bound.map_err(|error| refused(address, &error))?;
                Ok(Socket { socket, instead: None })
            }
        }
    }

    /// What the container's log is to say of it.
    pub(crate) fn note(&self) -> Option<String> {
        self.instead.map(|address| format!("IPv6 is off here: listening on {address}\n"))
    }

    /// Listens. Inside of a tokio runtime.
    pub(crate) fn listen(self) -> io::Result<TcpListener> {
        self.socket.listen(BACKLOG)
    }
}

fn bind(address: SocketAddr) -> io::Result<TcpSocket> {
    let socket = if address.is_ipv6() { TcpSocket::new_v6() } else { TcpSocket::new_v4() }?;
    if address.is_ipv6() {
        // Whatever the sysctl net.ipv6.bindv6only says.
        SockRef::from(&socket).set_only_v6(false)?;
    }
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    Ok(socket)
}

fn has_ipv6() -> bool {
    let any_port = SocketAddr::new(IpAddr::V6(std::net::Ipv6Addr::UNSPECIFIED), 0);
    bind(any_port).is_ok()
}

fn refused(address: SocketAddr, error: &io::Error) -> Failure {
    let remedy = match error.kind() {
        io::ErrorKind::AddrInUse => "another server has the address: choose another http.listen",
        io::ErrorKind::PermissionDenied => {
            "ports this low need the capability NET_BIND_SERVICE or the sysctl net.ipv4.ip_unprivileged_port_start: \
             add one, or choose a port from 1024 on for http.listen"
        }
        io::ErrorKind::AddrNotAvailable => "the container has no interface with it: choose another http.listen",
        _ => "choose another http.listen",
    };
    Failure::Message(format!("cannot listen on {address}: {error}: {remedy}"))
}
