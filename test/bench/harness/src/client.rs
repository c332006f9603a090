//! A client of http/1.1 that is small enough not to be measured: one connection, one request after the other, and what
//! each took. It knows nothing of containers.

use anyhow::{Context, Result, bail, ensure};
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{IpAddr, TcpListener, TcpStream};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

/// Between two attempts to connect: short, since a start is measured by it.
const PAUSE: Duration = Duration::from_micros(200);
/// The longest that an answer may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// A connection that is used again and again.
pub(crate) struct Client {
    stream: BufReader<TcpStream>,
}

impl Client {
    /// Connects as soon as somebody listens.
    pub(crate) fn connect(port: u16, patience: Duration) -> Result<Client> {
        Client::connect_to(IpAddr::from([127, 0, 0, 1]), port, patience)
    }

    /// As [`Client::connect`], to somebody else than this machine.
    pub(crate) fn connect_to(address: IpAddr, port: u16, patience: Duration) -> Result<Client> {
        let deadline = Instant::now() + patience;
        loop {
            match TcpStream::connect((address, port)) {
                Ok(stream) => {
                    stream.set_nodelay(true)?;
                    stream.set_read_timeout(Some(PATIENCE))?;
                    return Ok(Client { stream: BufReader::new(stream) });
                }
                Err(error) if error.kind() == ErrorKind::ConnectionRefused && Instant::now() < deadline => {
                    thread::sleep(PAUSE);
                }
                Err(error) => return Err(error).with_context(|| format!("nobody listens on {address}, port {port}")),
            }
        }
    }

    /// Asks for `/`; the body of the answer, which must be a success.
    pub(crate) fn get(&mut self) -> Result<String> {
        self.stream.get_mut().write_all(b"GET / HTTP/1.1\r\nhost: bench\r\n\r\n")?;
        let status = self.line()?;
        ensure!(status.starts_with("HTTP/1.1 200"), "answered {status:?}");
        let mut length = None;
        loop {
            let line = self.line()?.to_ascii_lowercase();
            if line.is_empty() {
                break;
            }
            if let Some(value) = line.strip_prefix("content-length:") {
                length = Some(value.trim().parse()?);
            }
        }
        let mut body = Vec::new();
        match length {
            Some(length) => self.take(length, &mut body)?,
            None => while self.chunk(&mut body)? {},
        }
        Ok(String::from_utf8(body)?)
    }

    fn chunk(&mut self, body: &mut Vec<u8>) -> Result<bool> {
        let length = usize::from_str_radix(&self.line()?, 16)?;
        self.take(length, body)?;
        self.line()?;
        Ok(length > 0)
    }

    fn take(&mut self, length: usize, body: &mut Vec<u8>) -> Result<()> {
        let begun = body.len();
        body.resize(begun + length, 0);
        Ok(self.stream.read_exact(&mut body[begun..])?)
    }

    fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        if self.stream.read_line(&mut line)? == 0 {
            bail!("the server closed the connection");
        }
        Ok(line.trim_end().to_owned())
    }

    /// Asks `count` times, each `every` after the one before; what each took. One that has to wait for the answer before
    /// it is late, which counts; that this process was woken late does not.
    pub(crate) fn paced(&mut self, count: u32, every: Duration) -> Result<Vec<Duration>> {
        schedule(&["--rr", "--pid", "1"])?;
        let times = self.paced_promptly(count, every);
        schedule(&["--other", "--pid", "0"])?;
        times
    }

    fn paced_promptly(&mut self, count: u32, every: Duration) -> Result<Vec<Duration>> {
        let begun = Instant::now();
        let mut times = Vec::new();
        for number in 0..count {
            let due = begun + every * number;
            let wait = due.saturating_duration_since(Instant::now());
            if !wait.is_zero() {
                thread::sleep(wait);
            }
            let asked = if wait.is_zero() { due } else { Instant::now() };
            self.get().with_context(|| format!("request {number}"))?;
            times.push(asked.elapsed());
        }
        Ok(times)
    }
}

/// Has the kernel wake this thread at once, or as all others again: what the clock measures is to be the server's time, not
/// the time that the answer waits for the one who holds the clock.
fn schedule(words: &[&str]) -> Result<()> {
    let thread = nix::unistd::gettid().to_string();
    let done = Command::new("chrt").args(words).arg(&thread).status().context("run chrt of util-linux")?;
    ensure!(done.success(), "chrt {words:?} {thread} failed");
    Ok(())
}

/// A port of loopback that nobody has.
pub(crate) fn free_port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}
