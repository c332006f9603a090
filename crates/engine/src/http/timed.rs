//! A connection that does not wait for its client for ever: not for the head of a request, nor for the next request, nor
//! for it to read its answer.
//! Invariant: while a request is answered, the time to read from the client does not count here.

use super::turns::Turns;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep, sleep};

/// How long a client may take for the head of a request, and for the first one from the moment it connects.
pub(super) const HEAD: Duration = Duration::from_secs(10);
/// How long a connection is kept for the next request; longer than proxies keep theirs, which else lose requests.
const IDLE: Duration = Duration::from_secs(90);

/// Who sees to it that heads end.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Heads {
    /// This stream.
    Timed,
    /// The protocol has other frames than heads, and asks its client whether it is there.
    OfTheProtocol,
}

/// What is waited for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Wanted {
    /// The rest of a head.
    Head,
    /// The first byte of the next request.
    Next,
    /// Nothing: a request is answered.
    Nothing,
}

/// The stream of such a connection.
pub(super) struct Timed {
    stream: TcpStream,
    turns: Turns,
    wanted: Wanted,
    /// Requests there were when this was last looked at.
    seen: usize,
    timer: Pin<Box<Sleep>>,
    heads: Heads,
    /// How long the client may take to read something.
    patience: Duration,
    /// Runs while it reads nothing.
    unread: Option<Pin<Box<Sleep>>>,
}

impl Timed {
    pub(super) fn new(stream: TcpStream, turns: Turns, heads: Heads, patience: Duration) -> Timed {
        let timer = Box::pin(sleep(HEAD));
        Timed { stream, turns, wanted: Wanted::Head, seen: 0, timer, heads, patience, unread: None }
    }

    /// Gives what a write gave, or the end of the patience with a client that does not read.
    fn read_by_client<T>(&mut self, context: &mut Context<'_>, written: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.unread = None;
            return written;
        }
        let patience = self.patience;
        let unread = self.unread.get_or_insert_with(|| Box::pin(sleep(patience)));
        ready!(unread.as_mut().poll(context));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }

    fn want(&mut self, wanted: Wanted) {
        if self.wanted == wanted {
            return;
        }
        self.wanted = wanted;
        let patience = match wanted {
            Wanted::Head => HEAD,
            Wanted::Next => IDLE,
            Wanted::Nothing => return,
        };
        self.timer.as_mut().reset(Instant::now() + patience);
    }
}

impl AsyncRead for Timed {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let (idle, ever) = (self.turns.are_none(), self.turns.ever());
        if !idle {
            self.want(Wanted::Nothing);
        } else if self.wanted == Wanted::Nothing || self.seen != ever {
            self.want(Wanted::Next);
        }
        self.seen = ever;
        let read = Pin::new(&mut self.stream).poll_read(context, buffer);
        if !idle {
            return read;
        }
        if read.is_ready() {
            if self.heads == Heads::Timed {
                self.want(Wanted::Head);
            }
            return read;
        }
        ready!(self.timer.as_mut().poll(context));
        match self.wanted {
            // As if the client had closed it.
            Wanted::Next => Poll::Ready(Ok(())),
            Wanted::Head | Wanted::Nothing => Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
        }
    }
}

impl AsyncWrite for Timed {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.read_by_client(context, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, parts);
        self.read_by_client(context, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
