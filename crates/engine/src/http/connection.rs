//! Connections: one task each, HTTP/1.1 or cleartext HTTP/2 by what the client says first.

use super::Phase;
use super::exchange::Exchanges;
use super::timed::{HEAD, Heads, Timed};
use super::turns::Turns;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use std::io;
use std::num::NonZeroU32;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::{sleep, timeout};

/// What a client of HTTP/2 says first (RFC 9113, "HTTP/2 Connection Preface").
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Between the first two looks at a client that has said a part of it; each later pause is twice as long.
const PAUSE: Duration = Duration::from_millis(5);
/// How often a client of HTTP/2 that says nothing is asked whether it is there, and how long it may take to answer.
const ALIVE: Duration = Duration::from_secs(30);
/// What the head of a request may measure, bytes: a client that never ends it takes no more of the container's memory.
const HEADERS: u32 = 32 << 10;
/// What a client of HTTP/2 may send of a body before the guest reads it, and what is kept of an answer until the client
/// does, bytes.
const WINDOW: u32 = 128 << 10;
/// Requests at a time on one connection of HTTP/2.
const STREAMS: u32 = 100;
/// How long a client that has connected and said nothing is waited for by a server that leaves.
const LAST_WORD: Duration = Duration::from_secs(1);

/// Connections at a time, where the settings do not say: a quarter of the memory at most goes to heads that nobody ends.
pub(super) fn most_within(memory_bytes: Option<u64>) -> NonZeroU32 {
    const FEWEST: u64 = 64;
    const MOST: u64 = 1024;
    let fitting = memory_bytes.map_or(MOST, |bytes| bytes / 4 / u64::from(HEADERS));
    let most = u32::try_from(fitting.clamp(FEWEST, MOST)).ok().and_then(NonZeroU32::new);
    most.unwrap_or(NonZeroU32::MIN)
}

/// The connections of a server.
pub(super) struct Connections {
    exchanges: Arc<Exchanges>,
    places: Arc<Semaphore>,
    most: NonZeroU32,
    phases: watch::Receiver<Phase>,
}

impl Connections {
    pub(super) fn new(exchanges: Arc<Exchanges>, most: NonZeroU32, phases: watch::Receiver<Phase>) -> Connections {
        let places = usize::try_from(most.get()).unwrap_or(Semaphore::MAX_PERMITS);
        Connections { exchanges, places: Arc::new(Semaphore::new(places)), most, phases }
    }

    /// Waits for a place for one more connection: the kernel keeps clients that come meanwhile.
    pub(super) async fn place(&self) -> OwnedSemaphorePermit {
        let place = self.places.clone().acquire_owned().await;
        place.unwrap_or_else(|_| unreachable!("nobody closes the places"))
    }

    /// Serves a client until it goes or is asked to.
    pub(super) fn serve(&self, stream: TcpStream, place: OwnedSemaphorePermit) {
        let (exchanges, phases) = (self.exchanges.clone(), self.phases.clone());
        tokio::spawn(async move {
            let _place = place;
            // A client that breaks off, or off the rules, is told so by the protocol, and is nobody else's matter.
            let _ = serve(stream, exchanges, phases).await;
        });
    }

    /// Waits until all have ended.
    pub(super) async fn ended(&self) {
        let _ = self.places.acquire_many(self.most.get()).await;
    }
}

async fn serve(
    stream: TcpStream,
    exchanges: Arc<Exchanges>,
    phases: watch::Receiver<Phase>,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    stream.set_nodelay(true)?;
    let is_http2 = tokio::select! {
        biased;
        spoken = timeout(HEAD, speaks_http2(&stream)) => spoken??,
        () = async {
            closing(phases.clone()).await;
            sleep(LAST_WORD).await;
        } => return Ok(()),
    };
    let patience = exchanges.patience();
    let turns = Turns::new(is_http2);
    let of_turn = turns.clone();
    let service = service_fn(move |request| {
        let (exchanges, turn) = (exchanges.clone(), of_turn.begin());
        async move { exchanges.answer(request, turn).await }
    });
    let heads = if is_http2 { Heads::OfTheProtocol } else { Heads::Timed };
    let io = TokioIo::new(Timed::new(stream, turns.clone(), heads, patience));
    // One that reads some answers and leaves others would keep their guests and places for ever.
    let mut unread = pin!(turns.unread_for(patience));
    // Both forms of connection have these methods, and no trait in common.
    macro_rules! drive {
        ($connection:expr) => {{
            let mut connection = pin!($connection);
            tokio::select! {
                biased;
                served = connection.as_mut() => return Ok(served?),
                () = closing(phases) => connection.as_mut().graceful_shutdown(),
                () = &mut unread => return Ok(()),
            }
            tokio::select! {
                served = connection => Ok(served?),
                () = unread => Ok(()),
            }
        }};
    }
    if is_http2 {
        let mut builder = http2::Builder::new(TokioExecutor::new());
        builder.timer(TokioTimer::new()).keep_alive_interval(ALIVE).keep_alive_timeout(ALIVE);
        builder.max_header_list_size(HEADERS).max_concurrent_streams(STREAMS);
        builder.initial_stream_window_size(WINDOW).initial_connection_window_size(WINDOW);
        builder.max_send_buf_size(WINDOW as usize);
        drive!(builder.serve_connection(io, service))
    } else {
        let mut builder = http1::Builder::new();
        builder.timer(TokioTimer::new()).header_read_timeout(None).max_buf_size(HEADERS as usize);
        drive!(builder.serve_connection(io, service))
    }
}

/// Whether the client begins with the preface of HTTP/2. Nothing is taken from the stream.
async fn speaks_http2(stream: &TcpStream) -> io::Result<bool> {
    let mut bytes = [0; PREFACE.len()];
    let mut pause = PAUSE;
    loop {
        match stream.peek(&mut bytes).await? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            count if !PREFACE.starts_with(&bytes[..count]) => return Ok(false),
            count if count == PREFACE.len() => return Ok(true),
            // More of it does not make the stream readable anew.
            _ => {
                sleep(pause).await;
                pause *= 2;
            }
        }
    }
}

async fn closing(mut phases: watch::Receiver<Phase>) {
    if phases.wait_for(|phase| *phase == Phase::Closing).await.is_err() {
        std::future::pending().await
    }
}
