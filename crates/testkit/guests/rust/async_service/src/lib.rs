//! A service for `wasi:http/service` 0.3 that does what the request's path says; what follows the question mark is the one
//! argument, as it is. Its standard library is one of WASI 0.2. It knows nothing of the tests.

use std::fmt::Write as _;
use std::net::SocketAddrV4;
use std::sync::atomic::{AtomicU64, Ordering};
use wasip3::exports::http::handler::Guest;
use wasip3::http::client;
use wasip3::http::types::{ErrorCode, Fields, Request, Response, Scheme, Trailers};
use wasip3::sockets::ip_name_lookup;
use wasip3::sockets::types::{self, IpAddressFamily, IpSocketAddress, Ipv4SocketAddress, TcpSocket};
use wasip3::wit_bindgen::rt::async_support::{FutureReader, StreamReader, StreamResult};
use wasip3::{clocks::monotonic_clock, spawn_local, wit_future, wit_stream};

wasip3::http::service::export!(Service);

struct Service;

/// A body, and the trailers after it.
type Content = (StreamReader<u8>, FutureReader<Result<Option<Trailers>, ErrorCode>>);

impl Guest for Service {
    async fn handle(request: Request) -> Result<Response, ErrorCode> {
        let target = request.get_path_with_query().unwrap_or_default();
        let (path, argument) = target.split_once('?').unwrap_or((&target, ""));
        match path {
            "/" => Ok(say("hello from async wasm\n")),
            "/headers" => Ok(say(&headers(&request))),
            "/echo" => Ok(echo(request)),
            "/pass" => Ok(pass(request)),
            "/slow" => {
                monotonic_clock::wait_for(argument.parse().unwrap_or(0) * 1_000_000).await;
                Ok(say("slept\n"))
            }
            "/after" => {
                let line = argument.to_owned();
                spawn_local(async move {
                    monotonic_clock::wait_for(1_000_000).await;
                    println!("after the answer: {line}");
                });
                Ok(say("answered\n"))
            }
            "/file" => Ok(say(&std::fs::read_to_string(argument).unwrap_or_else(|error| format!("{error}\n")))),
            "/env" => Ok(say(&format!("{}\n", std::env::var(argument).unwrap_or_default()))),
            "/resolve" => Ok(say(&match ip_name_lookup::resolve_addresses(argument.to_owned()).await {
                Ok(addresses) => format!("{addresses:?}\n"),
                Err(code) => format!("{code:?}\n"),
            })),
            "/fetch" => fetch(argument).await,
            "/tcp" => Ok(say(&match tcp(argument).await {
                Ok(line) => line,
                Err(code) => format!("{code:?}\n"),
            })),
            "/count" => Ok(say(&format!("{}\n", CALLS.fetch_add(1, Ordering::Relaxed) + 1))),
            "/grow" => Ok(say(&grow(argument.parse().unwrap_or(0)))),
            "/big" => Ok(big(argument.parse().unwrap_or(0))),
            "/error" => Err(ErrorCode::InternalError(Some(argument.to_owned()))),
            "/trap" => core::arch::wasm32::unreachable(),
            "/spin" => loop {
                std::hint::black_box(argument);
            },
            other => Ok(say(&format!("no such path: {other}\n"))),
        }
    }
}

/// Requests for `/count` that this instance has had.
static CALLS: AtomicU64 = AtomicU64::new(0);

fn grow(mib: usize) -> String {
    let bytes = mib.saturating_mul(1024 * 1024);
    let mut memory: Vec<u8> = Vec::new();
    if memory.try_reserve_exact(bytes).is_err() {
        return format!("no memory for {bytes} bytes\n");
    }
    memory.resize(bytes, 1);
    format!("{}\n", std::hint::black_box(&memory).len())
}

/// So many bytes.
fn big(bytes: usize) -> Response {
    let (mut body, stream) = wit_stream::new();
    spawn_local(async move {
        let mut left = bytes;
        while left > 0 {
            let piece = left.min(64 * 1024);
            if !body.write_all(vec![b'x'; piece]).await.is_empty() {
                return;
            }
            left -= piece;
        }
    });
    let (_, no_trailers) = wit_future::new(|| Ok(None));
    Response::new(Fields::new(), Some(stream), no_trailers).0
}

/// Sends a line to a server, and gives what comes back first.
async fn tcp(server: &str) -> Result<String, types::ErrorCode> {
    let server: SocketAddrV4 = server.parse().map_err(|_| types::ErrorCode::InvalidArgument)?;
    let octets = server.ip().octets();
    let address = (octets[0], octets[1], octets[2], octets[3]);
    let socket = TcpSocket::create(IpAddressFamily::Ipv4)?;
    socket.connect(IpSocketAddress::Ipv4(Ipv4SocketAddress { port: server.port(), address })).await?;
    let (mut out, stream) = wit_stream::new();
    let sent = socket.send(stream);
    out.write_all(b"ping\n".to_vec()).await;
    drop(out);
    sent.await?;
    let (mut from, _) = socket.receive();
    let (_, bytes) = from.read(Vec::with_capacity(64)).await;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn headers(request: &Request) -> String {
    let (authority, scheme) = (request.get_authority().unwrap_or_default(), request.get_scheme());
    let mut text = format!("method {:?}\nscheme {scheme:?}\nauthority {authority}\n", request.get_method());
    for (name, value) in request.get_headers().copy_all() {
        let _ = writeln!(text, "{name}: {}", String::from_utf8_lossy(&value));
    }
    text
}

fn say(text: &str) -> Response {
    let (mut body, stream) = wit_stream::new();
    let bytes = text.as_bytes().to_vec();
    spawn_local(async move {
        body.write_all(bytes).await;
    });
    let (_, no_trailers) = wit_future::new(|| Ok(None));
    Response::new(Fields::new(), Some(stream), no_trailers).0
}

/// The names of trailers: HTTP/1 sends only those that the head of the message has named.
fn named_trailers(request: &Request) -> Fields {
    let fields = Fields::new();
    for value in request.get_headers().get("trailer") {
        let _ = fields.append("trailer", &value);
    }
    fields
}

/// The request's body by way of the guest's memory, piece by piece, and its trailers.
fn echo(request: Request) -> Response {
    let fields = named_trailers(&request);
    let (_, read) = wit_future::new(|| Ok(()));
    let (mut from, trailers): Content = Request::consume_body(request, read);
    let (mut to, stream) = wit_stream::new();
    let (after, last) = wit_future::new(|| Ok(None));
    spawn_local(async move {
        loop {
            let (status, bytes) = from.read(Vec::with_capacity(16 * 1024)).await;
            if !bytes.is_empty() && !to.write_all(bytes).await.is_empty() {
                return;
            }
            if let StreamResult::Dropped = status {
                break;
            }
        }
        drop(to);
        let _ = after.write(trailers.await).await;
    });
    Response::new(fields, Some(stream), last).0
}

/// The request's body as it is: the guest ends, and the host moves it.
fn pass(request: Request) -> Response {
    let fields = named_trailers(&request);
    let (_, read) = wit_future::new(|| Ok(()));
    let (stream, trailers): Content = Request::consume_body(request, read);
    Response::new(fields, Some(stream), trailers).0
}

/// What another server answers, as it comes.
async fn fetch(url: &str) -> Result<Response, ErrorCode> {
    let (authority, path) = url.split_once('/').unwrap_or((url, ""));
    let (_, no_trailers) = wit_future::new(|| Ok(None));
    let (request, _) = Request::new(Fields::new(), None, no_trailers, None);
    let _ = request.set_scheme(Some(&Scheme::Http));
    let _ = request.set_authority(Some(authority));
    let _ = request.set_path_with_query(Some(&format!("/{path}")));
    match client::send(request).await {
        Ok(response) => {
            let (_, read) = wit_future::new(|| Ok(()));
            let (stream, trailers): Content = Response::consume_body(response, read);
            Ok(Response::new(Fields::new(), Some(stream), trailers).0)
        }
        Err(code) => Ok(say(&format!("{code:?}\n"))),
    }
}
