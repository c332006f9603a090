//! A service for `wasi:http/proxy` 0.2 that does what the request's path says: one path per behaviour of a service.
//! It knows nothing of the tests; what a path does is in [`route`] and the files beside this one.

mod answer;
mod files;
mod network;
mod outgoing;
mod query;

use answer::{Failure, say, stream, stream_to_end};
use query::Query;
use std::fmt::Write as _;
use std::io::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};
use wasip2::cli::environment;
use wasip2::clocks::monotonic_clock;
use wasip2::exports::http::incoming_handler::Guest;
use wasip2::http::types::{ErrorCode, Fields, IncomingRequest, Method, ResponseOutparam, Scheme};

wasip2::http::proxy::export!(Service);

struct Service;

/// How often this instance was called, by any path.
static CALLS: AtomicU64 = AtomicU64::new(0);

impl Guest for Service {
    fn handle(request: IncomingRequest, out: ResponseOutparam) {
        let calls = CALLS.fetch_add(1, Ordering::Relaxed) + 1;
        if let Err(failure) = route(request, out, calls) {
            eprintln!("http_service: {failure}");
        }
    }
}

/// An error is one of the connection to the client, which is told by no answer: everything else is answered.
fn route(request: IncomingRequest, out: ResponseOutparam, calls: u64) -> Result<(), Failure> {
    let target = request.path_with_query().unwrap_or_default();
    let (path, query) = Query::split(&target);
    match path {
        "/" => say(out, 200, "hello from wasm\n"),
        "/echo" => echo(request, out),
        "/headers" => say(out, 200, &headers(&request)),
        "/big" => big(out, query.number("bytes")),
        "/slow" => {
            println!("{}", query.text("say"));
            sleep(query.number("ms"));
            say(out, 200, "slept\n")
        }
        "/drip" => drip(out, query.number("count"), query.number("ms")),
        "/spin" => loop {
            std::hint::black_box(calls);
        },
        "/trap" => core::arch::wasm32::unreachable(),
        "/panic" => panic!("boom"),
        // The host is told success or failure: WASI 0.2 has no stable call that takes a code.
        "/exit" => std::process::exit(query.number("code") as i32),
        "/nothing" => Ok(()),
        "/error" => {
            ResponseOutparam::set(out, Err(ErrorCode::InternalError(Some("told by the guest".to_owned()))));
            Ok(())
        }
        "/break-off" => break_off(request, out),
        "/grow" => grow(out, query.number("mib")),
        "/count" => say(out, 200, &format!("{calls}\n")),
        "/stdout" => {
            println!("said on stdout");
            eprintln!("said on stderr");
            say(out, 200, "said\n")
        }
        "/env" => env(out, &query.text("name")),
        "/args" => say(out, 200, &lines(environment::get_arguments())),
        "/file" => files::read(out, &query.text("path")),
        "/write" => files::write(out, &query.text("path"), &query.text("text")),
        "/fetch" => outgoing::fetch(out, &query.text("url")),
        "/tcp" => network::ping(out, &query.text("host"), query.number("port") as u16),
        "/resolve" => network::resolve(out, &query.text("name")),
        other => say(out, 404, &format!("no such path: {other}\n")),
    }
}

fn lines(texts: Vec<String>) -> String {
    texts.iter().map(|text| format!("{text}\n")).collect()
}

fn sleep(ms: u64) {
    monotonic_clock::subscribe_duration(ms * 1_000_000).block();
}

/// Sends the request's body back as it comes, and its trailers after it.
fn echo(request: IncomingRequest, out: ResponseOutparam) -> Result<(), Failure> {
    let fields = Fields::new();
    // HTTP/1 sends only the trailers that the head of the message has named.
    for name in ["content-type", "trailer"] {
        for value in request.headers().get(name) {
            let _ = fields.append(name, &value);
        }
    }
    let body = request.consume().map_err(|()| Failure::NoBody)?;
    answer::pass_on(out, 200, fields, body)
}

fn headers(request: &IncomingRequest) -> String {
    let method = match request.method() {
        Method::Get => "GET".to_owned(),
        Method::Other(name) => name,
        known => format!("{known:?}").trim_start_matches("Method::").to_uppercase(),
    };
    let scheme = match request.scheme() {
        None => String::new(),
        Some(Scheme::Http) => "http".to_owned(),
        Some(Scheme::Https) => "https".to_owned(),
        Some(Scheme::Other(name)) => name,
    };
    let path = request.path_with_query().unwrap_or_default();
    let authority = request.authority().unwrap_or_default();
    let mut text = format!("method {method}\nscheme {scheme}\npath {path}\nauthority {authority}\n");
    for (name, value) in request.headers().entries() {
        let _ = writeln!(text, "{name}: {}", String::from_utf8_lossy(&value));
    }
    text
}

fn big(out: ResponseOutparam, bytes: u64) -> Result<(), Failure> {
    let fields = Fields::new();
    fields.append("content-length", bytes.to_string().as_bytes()).map_err(Failure::Header)?;
    stream_to_end(out, 200, fields, |body| {
        let chunk = [b'x'; 16 * 1024];
        let mut left = bytes;
        while left > 0 {
            let now = left.min(chunk.len() as u64);
            body.write_all(&chunk[..now as usize])?;
            left -= now;
        }
        Ok(())
    })
}

fn drip(out: ResponseOutparam, count: u64, ms: u64) -> Result<(), Failure> {
    stream(out, 200, |body| {
        for _ in 0..count {
            sleep(ms);
            body.write_all(b"drip\n")?;
            body.flush()?;
        }
        Ok(())
    })
}

/// Begins an answer, and traps at the end of the request.
fn break_off(request: IncomingRequest, out: ResponseOutparam) -> Result<(), Failure> {
    stream(out, 200, |body| {
        body.write_all(b"begun\n")?;
        body.flush()?;
        let rest = request.consume().map_err(|()| Failure::NoBody)?;
        let mut rest = rest.stream().map_err(|()| Failure::NoBody)?;
        std::io::copy(&mut rest, &mut std::io::sink())?;
        core::arch::wasm32::unreachable()
    })
}

/// Touches every byte, so that the host has to have it.
fn grow(out: ResponseOutparam, mib: u64) -> Result<(), Failure> {
    let bytes = (mib as usize).saturating_mul(1024 * 1024);
    let mut memory: Vec<u8> = Vec::new();
    if memory.try_reserve_exact(bytes).is_err() {
        return say(out, 500, &format!("no memory for {bytes} bytes\n"));
    }
    memory.resize(bytes, 1);
    let touched = std::hint::black_box(&memory).len();
    say(out, 200, &format!("{touched}\n"))
}

fn env(out: ResponseOutparam, name: &str) -> Result<(), Failure> {
    match environment::get_environment().into_iter().find(|(key, _)| key == name) {
        Some((_, value)) => say(out, 200, &format!("{value}\n")),
        None => say(out, 404, &format!("{name} is not set\n")),
    }
}
