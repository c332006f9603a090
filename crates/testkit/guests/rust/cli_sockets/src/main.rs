//! A command that speaks TCP and UDP and looks names up, by the standard library alone, as its first argument says. It
//! knows nothing of the tests.

use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream, ToSocketAddrs, UdpSocket};
use std::process::ExitCode;

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let said = match words[..] {
        ["tcp", server] => tcp(server),
        ["udp", server] => udp(server),
        ["resolve", name] => resolve(name),
        ["listen", address] => listen(address),
        ["receive", address] => receive(address),
        _ => Err(io::Error::other("tcp SERVER, udp SERVER, resolve NAME, listen ADDRESS or receive ADDRESS")),
    };
    match said {
        Ok(text) => {
            print!("{text}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("{:?}: {error}", error.kind());
            ExitCode::FAILURE
        }
    }
}

/// Sends a line to a server, and gives what comes back first.
fn tcp(server: &str) -> io::Result<String> {
    let mut stream = TcpStream::connect(server)?;
    stream.write_all(b"ping\n")?;
    let mut bytes = [0; 64];
    let count = stream.read(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes[..count]).into_owned())
}

/// As [`tcp`], with datagrams.
fn udp(server: &str) -> io::Result<String> {
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    socket.send_to(b"ping\n", server)?;
    let mut bytes = [0; 64];
    let (count, _) = socket.recv_from(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes[..count]).into_owned())
}

/// The addresses of a name, a line each.
fn resolve(name: &str) -> io::Result<String> {
    Ok((name, 0).to_socket_addrs()?.map(|address| format!("{}\n", address.ip())).collect())
}

/// Answers the first client, and tells what it said.
fn listen(address: &str) -> io::Result<String> {
    let listener = TcpListener::bind(address)?;
    println!("listening");
    let (mut stream, _) = listener.accept()?;
    let mut bytes = [0; 64];
    let count = stream.read(&mut bytes)?;
    stream.write_all(b"pong\n")?;
    Ok(String::from_utf8_lossy(&bytes[..count]).into_owned())
}

/// As [`listen`], with datagrams.
fn receive(address: &str) -> io::Result<String> {
    let socket = UdpSocket::bind(address)?;
    println!("receiving");
    let mut bytes = [0; 64];
    let (count, client) = socket.recv_from(&mut bytes)?;
    socket.send_to(b"pong\n", client)?;
    Ok(String::from_utf8_lossy(&bytes[..count]).into_owned())
}
