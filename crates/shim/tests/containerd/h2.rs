//! A client of HTTP/2 without encryption (RFC 9113) that says when each frame is sent. It knows just what tests of
//! streams need.

use anyhow::{Context, Result};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

/// Longer than any answer here takes.
const PATIENCE: Duration = Duration::from_secs(30);
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Types of frames, section 6.
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
/// A setting, section 6.5.2.
const INITIAL_WINDOW: [u8; 2] = [0, 4];
/// Flags of frames.
pub(crate) const END_STREAM: u8 = 1;
const ACK: u8 = 1;
const END_HEADERS: u8 = 4;

/// A connection.
pub(crate) struct Connection(TcpStream);

/// A part of an answer.
#[derive(Debug)]
pub(crate) struct Part {
    pub(crate) stream: u32,
    /// Of the body; none are the head.
    pub(crate) bytes: Option<Vec<u8>>,
    pub(crate) is_last: bool,
}

impl Connection {
    pub(crate) fn new(port: u16) -> Result<Connection> {
        let stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let mut connection = Connection(stream);
        connection.0.write_all(PREFACE)?;
        connection.send(SETTINGS, 0, 0, b"")?;
        Ok(connection)
    }

    /// One that takes no byte of any body.
    pub(crate) fn without_window(port: u16) -> Result<Connection> {
        let mut connection = Connection::new(port)?;
        connection.send(SETTINGS, 0, 0, &[&INITIAL_WINDOW[..], &[0; 4]].concat())?;
        Ok(connection)
    }

    /// Sends the head of a request; with [`END_STREAM`] in `flags` it is the whole of it.
    pub(crate) fn request(&mut self, stream: u32, method: Method, path: &str, flags: u8) -> Result<()> {
        // RFC 7541: fields of the static table by their numbers, others by the number of their name.
        let mut block = vec![0x80 | method as u8, 0x86];
        for (name, value) in [(1, "localhost"), (4, path)] {
            block.extend([name, u8::try_from(value.len())?]);
            block.extend(value.as_bytes());
        }
        self.send(HEADERS, END_HEADERS | flags, stream, &block)
    }

    /// Sends the rest of a request.
    pub(crate) fn finish(&mut self, stream: u32, bytes: &[u8]) -> Result<()> {
        self.send(DATA, END_STREAM, stream, bytes)
    }

    /// The next part of any answer.
    pub(crate) fn next(&mut self) -> Result<Part> {
        loop {
            let mut head = [0; 9];
            self.0.read_exact(&mut head).context("the head of a frame")?;
            let [a, b, c, kind, flags, rest @ ..] = head;
            let mut bytes = vec![0; u32::from_be_bytes([0, a, b, c]) as usize];
            self.0.read_exact(&mut bytes).context("a frame")?;
            let (stream, is_last) = (u32::from_be_bytes(rest), flags & END_STREAM != 0);
            match kind {
                DATA => return Ok(Part { stream, bytes: Some(bytes), is_last }),
                HEADERS => return Ok(Part { stream, bytes: None, is_last }),
                SETTINGS if flags & ACK == 0 => self.send(SETTINGS, ACK, 0, b"")?,
                _ => {}
            }
        }
    }

    /// The rest of the body of a stream; parts of others are an error.
    pub(crate) fn body(&mut self, stream: u32) -> Result<String> {
        let mut body = Vec::new();
        loop {
            let part = self.next()?;
            anyhow::ensure!(part.stream == stream, "{part:?} came before the end of stream {stream}");
            body.extend(part.bytes.unwrap_or_default());
            if part.is_last {
                return Ok(String::from_utf8(body)?);
            }
        }
    }

    fn send(&mut self, kind: u8, flags: u8, stream: u32, bytes: &[u8]) -> Result<()> {
        let [_, length @ ..] = u32::try_from(bytes.len())?.to_be_bytes();
        let head = [&length[..], &[kind, flags], &stream.to_be_bytes()].concat();
        Ok(self.0.write_all(&[head.as_slice(), bytes].concat())?)
    }
}

/// By its number in the static table of RFC 7541.
#[derive(Clone, Copy)]
pub(crate) enum Method {
    Get = 2,
    Post = 3,
}
