//! Services under load: many requests, large bodies, slow clients, and a stop in the middle of it.

use crate::Cases;
use crate::web::Service;
use anyhow::{Context, Result, bail, ensure};
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};
use testkit::{Namespace, cases, guests, process, wait};

pub(crate) const CASES: Cases = cases![
    crate::load::ten_thousand_requests_are_answered,
    crate::load::a_stop_behind_a_balancer_loses_no_request,
    crate::load::large_bodies_take_little_memory,
    crate::load::slow_clients_keep_nobody_out,
];

/// Longer than any answer here takes.
const PATIENCE: Duration = Duration::from_secs(30);

/// A connection that is used again and again.
pub(crate) struct Client {
    stream: BufReader<TcpStream>,
}

impl Client {
    pub(crate) fn new(port: u16) -> Result<Client> {
        let stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_nodelay(true)?;
        Ok(Client { stream: BufReader::new(stream) })
    }

    /// Asks for a path. The body, and whether the server keeps the connection.
    pub(crate) fn get(&mut self, path: &str) -> Result<(Vec<u8>, bool)> {
        let request = format!("GET {path} HTTP/1.1\r\nhost: test\r\n\r\n");
        self.stream.get_mut().write_all(request.as_bytes())?;
        let status = self.line()?;
        ensure!(status.starts_with("HTTP/1.1 200"), "{path}: {status:?}");
        let (mut length, mut stays) = (None, true);
        loop {
            let line = self.line()?.to_ascii_lowercase();
            if line.is_empty() {
                break;
            }
            if let Some(value) = line.strip_prefix("content-length:") {
                length = Some(value.trim().parse::<usize>()?);
            }
            stays &= line != "connection: close";
        }
        let mut body = Vec::new();
        match length {
            Some(length) => {
                body.resize(length, 0);
                self.stream.read_exact(&mut body)?;
            }
            None => while self.chunk(&mut body)? {},
        }
        Ok((body, stays))
    }

    fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        if self.stream.read_line(&mut line)? == 0 {
            bail!("the connection ended");
        }
        Ok(line.trim_end().to_owned())
    }

    fn chunk(&mut self, body: &mut Vec<u8>) -> Result<bool> {
        let length = usize::from_str_radix(&self.line()?, 16)?;
        let begun = body.len();
        body.resize(begun + length, 0);
        self.stream.read_exact(&mut body[begun..])?;
        self.line()?;
        Ok(length > 0)
    }
}

/// What the service answers, and that for WASI 0.3.
const HELLOS: [&str; 2] = ["hello from wasm\n", "hello from async wasm\n"];

/// A service for WASI 0.3.
fn async_service(node: &Namespace) -> Result<Service> {
    Service::start_listening(Service::draft_of(node, &guests::rust("async_service")?)?)
}

/// Asks on a connection of its own each time the last one is closed; how many answers were right.
fn ask(port: u16, requests: usize, says: &str) -> Result<usize> {
    let mut client = None;
    let mut right = 0;
    for number in 0..requests {
        let mut open = match client.take() {
            Some(client) => client,
            None => Client::new(port)?,
        };
        let (body, stays) = open.get("/").with_context(|| format!("request {number}"))?;
        right += usize::from(body == says.as_bytes());
        client = stays.then_some(open);
    }
    Ok(right)
}

fn ten_thousand_requests_are_answered(node: &Namespace) -> Result<()> {
    ten_thousand(Service::start(node, |draft| draft)?, HELLOS[0])?;
    ten_thousand(async_service(node)?, HELLOS[1])
}

fn ten_thousand(service: Service, says: &'static str) -> Result<()> {
    const CLIENTS: usize = 50;
    const EACH: usize = 200;
    let port = service.port;
    let clients: Vec<_> = (0..CLIENTS).map(|_| thread::spawn(move || ask(port, EACH, says))).collect();
    let mut right = 0;
    for client in clients {
        right += client.join().ok().context("a client did not panic")??;
    }
    ensure!(right == CLIENTS * EACH, "{right} right answers");
    service.finish(15, 0)
}

/// Passes connections on to the servers that it knows of, in turns.
struct Balancer {
    port: u16,
    leave_out_first: Arc<AtomicBool>,
    stop: Arc<AtomicBool>,
}

impl Balancer {
    fn start(servers: [u16; 2]) -> Result<Balancer> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let port = listener.local_addr()?.port();
        let (leave_out_first, stop) = <(Arc<AtomicBool>, Arc<AtomicBool>)>::default();
        let (left_out, stopped) = (leave_out_first.clone(), stop.clone());
        thread::spawn(move || {
            for (turn, client) in listener.incoming().flatten().enumerate() {
                if stopped.load(Ordering::Relaxed) {
                    return;
                }
                let first = turn % 2 == 0 && !left_out.load(Ordering::Relaxed);
                let server = if first { servers[0] } else { servers[1] };
                thread::spawn(move || pass_on(&client, server));
            }
        });
        Ok(Balancer { port, leave_out_first, stop })
    }
}

impl Drop for Balancer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        drop(TcpStream::connect(("127.0.0.1", self.port)));
    }
}

fn pass_on(client: &TcpStream, server: u16) -> std::io::Result<()> {
    let server = TcpStream::connect(("127.0.0.1", server))?;
    let (mut from_client, mut to_server) = (client.try_clone()?, server.try_clone()?);
    let up = thread::spawn(move || {
        let _ = std::io::copy(&mut from_client, &mut to_server);
        let _ = to_server.shutdown(Shutdown::Write);
    });
    let (mut from_server, mut to_client) = (server, client.try_clone()?);
    let copied = std::io::copy(&mut from_server, &mut to_client);
    let _ = to_client.shutdown(Shutdown::Both);
    let _ = up.join();
    copied.map(drop)
}

fn a_stop_behind_a_balancer_loses_no_request(node: &Namespace) -> Result<()> {
    stopped_under_load([Service::start(node, |draft| draft)?, Service::start(node, |draft| draft)?], HELLOS[0])?;
    stopped_under_load([async_service(node)?, async_service(node)?], HELLOS[1])
}

fn stopped_under_load([first, second]: [Service; 2], says: &'static str) -> Result<()> {
    const LATE: Duration = Duration::from_secs(1);
    let balancer = Balancer::start([first.port, second.port])?;
    let (port, over, answered) = (balancer.port, Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let clients: Vec<_> = (0..8)
        .map(|_| {
            let (over, answered) = (over.clone(), answered.clone());
            thread::spawn(move || -> Result<()> {
                while !over.load(Ordering::Relaxed) {
                    // Short connections, so that new ones come all the time.
                    ensure!(ask(port, 5, says)? == 5, "a wrong answer");
                    answered.fetch_add(5, Ordering::Relaxed);
                }
                Ok(())
            })
        })
        .collect();
    let enough = |more: usize| {
        let wanted = answered.load(Ordering::Relaxed) + more;
        wait::until("requests are answered", || Ok((answered.load(Ordering::Relaxed) >= wanted).then_some(())))
    };
    enough(200)?;
    first.kill(15)?;
    let told = Instant::now();
    wait::until("the balancer hears of it", || Ok((told.elapsed() > LATE).then_some(())))?;
    balancer.leave_out_first.store(true, Ordering::Relaxed);
    first.ended(0)?;
    enough(200)?;
    over.store(true, Ordering::Relaxed);
    for client in clients {
        client.join().ok().context("a client did not panic")??;
    }
    drop(balancer);
    second.finish(15, 0)
}

fn large_bodies_take_little_memory(node: &Namespace) -> Result<()> {
    large_bodies(Service::start(node, |draft| draft)?, "/big?bytes=")?;
    large_bodies(async_service(node)?, "/big?")
}

fn large_bodies(service: Service, big: &str) -> Result<()> {
    const BYTES: usize = 100_000_000;
    const MOST_MORE_KIB: u64 = 16 << 10;
    ensure!(service.get("/")?.status == 200, "it answers");
    let before = process::anonymous_kib(service.pid()).context("its memory")?;
    let stop = Arc::new(AtomicBool::new(false));
    let (pid, stopped) = (service.pid(), stop.clone());
    let watch = thread::spawn(move || {
        let mut most = 0;
        while !stopped.load(Ordering::Relaxed) {
            most = most.max(process::anonymous_kib(pid).unwrap_or(0));
            thread::yield_now();
        }
        most
    });
    let asked = (|| {
        let (body, _) = Client::new(service.port)?.get(&format!("{big}{BYTES}"))?;
        ensure!(body.len() == BYTES && body.iter().all(|byte| *byte == b'x'), "{} bytes came", body.len());
        let reply = service.post("/echo", &vec![b'y'; BYTES])?;
        ensure!(reply.status == 200 && reply.text.len() == BYTES, "{} bytes came back", reply.text.len());
        Ok(())
    })();
    stop.store(true, Ordering::Relaxed);
    let most = watch.join().ok().context("the watch did not panic")?;
    asked?;
    let more = most.saturating_sub(before);
    ensure!(more <= MOST_MORE_KIB, "{more} KiB more than {before}");
    service.finish(15, 0)
}

fn slow_clients_keep_nobody_out(node: &Namespace) -> Result<()> {
    const SLOW: usize = 200;
    /// As the server's, and some time for a busy machine.
    const HEAD: Duration = Duration::from_secs(10);
    let service = Service::start(node, |draft| draft)?;
    let begun = Instant::now();
    let mut slow = Vec::new();
    for number in 0..SLOW {
        let mut stream = TcpStream::connect(("127.0.0.1", service.port))?;
        // Some say nothing, some a part of a head.
        if number % 2 == 0 {
            stream.write_all(b"GET / HTTP/1.1\r\nhost: t")?;
        }
        slow.push(stream);
    }
    while begun.elapsed() < HEAD / 2 {
        ensure!(service.get("/")?.status == 200, "others are answered");
    }
    for mut stream in slow {
        stream.set_read_timeout(Some(PATIENCE))?;
        let mut rest = Vec::new();
        // A reset is as good as an end. A connection that is still open is neither.
        if let Err(error) = stream.read_to_end(&mut rest) {
            ensure!(error.kind() == ErrorKind::ConnectionReset, "it was not closed: {error}");
        }
        ensure!(!rest.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&rest));
    }
    ensure!(begun.elapsed() >= HEAD, "they had their time: {:?}", begun.elapsed());
    service.finish(15, 0)
}
