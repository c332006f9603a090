//! Requests to end, as they reach the process that runs the guest: bytes in a pipe, each a signal's number.

use std::fs::File;
use std::future;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use tokio::net::unix::pipe;

/// A guest was asked to end by this signal.
#[derive(Debug, thiserror::Error)]
#[error("ended by signal {0}")]
pub(crate) struct Ended(pub(crate) i32);

/// The reading end of the pipe of signals.
#[derive(Clone)]
pub(crate) struct Signals(Arc<Ends>);

struct Ends {
    /// Non-blocking, because it shares its description with the other.
    direct: File,
    awaited: pipe::Receiver,
}

impl Signals {
    /// Must be called inside of a tokio runtime.
    pub(crate) fn new(pipe: OwnedFd) -> io::Result<Self> {
        let direct = File::from(pipe.try_clone()?);
        let awaited = pipe::Receiver::from_owned_fd(pipe)?;
        Ok(Signals(Arc::new(Ends { direct, awaited })))
    }

    /// The signal that came, if one did. Asks the kernel, not the event loop: a handler writes to the pipe before it
    /// interrupts the guest, so what is written is found here at the latest.
    pub(crate) fn received(&self) -> Option<i32> {
        let mut byte = [0];
        match (&self.0.direct).read(&mut byte) {
            Ok(1) => Some(i32::from(byte[0])),
            _ => None,
        }
    }

    /// The next signal. Never completes if the writing end is closed.
    pub(crate) async fn next(&self) -> i32 {
        loop {
            if self.0.awaited.readable().await.is_err() {
                return future::pending().await;
            }
            let mut byte = [0];
            match self.0.awaited.try_read(&mut byte) {
                Ok(1) => return i32::from(byte[0]),
                Err(error) if is_transient(&error) => {}
                _ => return future::pending().await,
            }
        }
    }
}

fn is_transient(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}
