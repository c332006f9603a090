//! A name server for tests: it knows `service.test`, which is at 127.0.0.1, and no other name.

use anyhow::{Context, Result};
use std::net::UdpSocket;
use std::thread;

/// Serves at an address of the node, until the test binary ends.
pub fn serve(address: &str) -> Result<()> {
    let socket = UdpSocket::bind(address).with_context(|| format!("listen on {address}"))?;
    thread::spawn(move || {
        let mut query = [0; 512];
        while let Ok((count, client)) = socket.recv_from(&mut query) {
            let question = &query[12..count];
            let known = question.starts_with(b"\x07service\x04test\0");
            let length = question.iter().position(|byte| *byte == 0).unwrap_or_default() + 5;
            let is_a = question.get(length - 4..length - 2) == Some(&[0, 1]);
            // RFC 1035: id, flags (answer, recursion; no such name), counts.
            let mut reply = query[..2].to_vec();
            reply.extend([0x81, if known { 0x80 } else { 0x83 }, 0, 1, 0, u8::from(known && is_a), 0, 0, 0, 0]);
            reply.extend(&question[..length]);
            if known && is_a {
                reply.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 127, 0, 0, 1]);
            }
            let _ = socket.send_to(&reply, client);
        }
    });
    Ok(())
}
