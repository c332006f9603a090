//! Names and connections, by `wasi:sockets`.

use crate::answer::{Failure, say, stream};
use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::net::{Ipv4Addr, Ipv6Addr};
use wasip2::http::types::ResponseOutparam;
use wasip2::io::streams::{InputStream, OutputStream};
use wasip2::sockets::instance_network::instance_network;
use wasip2::sockets::ip_name_lookup::resolve_addresses;
use wasip2::sockets::network::{
    ErrorCode, IpAddress, IpAddressFamily, IpSocketAddress, Ipv4SocketAddress, Ipv6SocketAddress,
};
use wasip2::sockets::tcp::TcpSocket;
use wasip2::sockets::tcp_create_socket::create_tcp_socket;

/// Answers the addresses of a name, one per line; 502 and the code if it has none.
pub(crate) fn resolve(out: ResponseOutparam, name: &str) -> Result<(), Failure> {
    match addresses(name) {
        Ok(found) => say(
            out,
            200,
            &found.iter().fold(String::new(), |mut text, address| {
                let _ = writeln!(text, "{}", shown(address));
                text
            }),
        ),
        Err(code) => say(out, 502, &format!("{code:?}\n")),
    }
}

/// Sends a line to a server and answers what comes back first; 502 and the code if there is no connection.
pub(crate) fn ping(out: ResponseOutparam, host: &str, port: u16) -> Result<(), Failure> {
    // The socket stays until its streams are dropped.
    let (_socket, from, mut to) = match connect(host, port) {
        Ok(connection) => connection,
        Err(code) => return say(out, 502, &format!("{code:?}\n")),
    };
    to.write_all(b"ping\n")?;
    io::Write::flush(&mut to)?;
    // A server that sends nothing and closes has answered nothing.
    let text = from.blocking_read(1024).unwrap_or_default();
    stream(out, 200, |body| Ok(body.write_all(&text)?))
}

fn addresses(name: &str) -> Result<Vec<IpAddress>, ErrorCode> {
    let found = resolve_addresses(&instance_network(), name)?;
    let mut addresses = Vec::new();
    loop {
        match found.resolve_next_address() {
            Ok(Some(address)) => addresses.push(address),
            Ok(None) => return Ok(addresses),
            Err(ErrorCode::WouldBlock) => found.subscribe().block(),
            Err(code) => return Err(code),
        }
    }
}

/// A connection to the first address that takes one, else the last one's error.
fn connect(host: &str, port: u16) -> Result<(TcpSocket, InputStream, OutputStream), ErrorCode> {
    let mut last = ErrorCode::NameUnresolvable;
    for address in addresses(host)? {
        match connect_to(address, port) {
            Ok(connection) => return Ok(connection),
            Err(code) => last = code,
        }
    }
    Err(last)
}

fn connect_to(address: IpAddress, port: u16) -> Result<(TcpSocket, InputStream, OutputStream), ErrorCode> {
    let (family, remote) = match address {
        IpAddress::Ipv4(address) => (IpAddressFamily::Ipv4, IpSocketAddress::Ipv4(Ipv4SocketAddress { port, address })),
        IpAddress::Ipv6(address) => {
            let remote = Ipv6SocketAddress { port, flow_info: 0, address, scope_id: 0 };
            (IpAddressFamily::Ipv6, IpSocketAddress::Ipv6(remote))
        }
    };
    let socket = create_tcp_socket(family)?;
    socket.start_connect(&instance_network(), remote)?;
    loop {
        match socket.finish_connect() {
            Ok((from, to)) => return Ok((socket, from, to)),
            Err(ErrorCode::WouldBlock) => socket.subscribe().block(),
            Err(code) => return Err(code),
        }
    }
}

fn shown(address: &IpAddress) -> String {
    match *address {
        IpAddress::Ipv4((a, b, c, d)) => Ipv4Addr::new(a, b, c, d).to_string(),
        IpAddress::Ipv6((a, b, c, d, e, f, g, h)) => Ipv6Addr::new(a, b, c, d, e, f, g, h).to_string(),
    }
}
