//! The http server around a guest of the http world: where it listens, how it stops.
//! It must not know the grants of a guest, nor how one request is answered: see `exchange`.

mod answer;
mod ask;
mod connection;
mod exchange;
mod idle;
mod instance;
mod listen;
mod timed;
mod turns;

pub(crate) use instance::{Instances, Made};
pub(crate) use listen::Socket;

use crate::signals::Signals;
use connection::Connections;
use exchange::Exchanges;
use plan::{ExitStatus, Http};
use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

/// How far a server is on its way to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Phase {
    /// It serves.
    Open,
    /// It serves, and tells clients not to come again on their connections.
    Leaving,
    /// Requests in flight are finished, and nothing else.
    Closing,
}

/// Serves until a signal asks to end: the first lets clients go first, the second ends at once. `memory_bytes` is the limit
/// of the container's guests, if there is one.
pub(crate) async fn serve(
    listener: TcpListener,
    instances: Instances,
    settings: &Http,
    memory_bytes: Option<u64>,
    signals: &Signals,
) -> ExitStatus {
    let most = settings.max_connections.unwrap_or_else(|| connection::most_within(memory_bytes));
    let (phase, phases) = watch::channel(Phase::Open);
    let exchanges = Arc::new(Exchanges::new(instances, settings, phases.clone()));
    let connections = Connections::new(exchanges.clone(), most, phases);
    let ended = tokio::select! {
        biased;
        signal = signals.next() => signal,
        never = accept_all(&listener, &connections) => match never {},
    };
    if ended != SIGTERM {
        return ExitStatus::Signal(ended);
    }
    let drained = async {
        phase.send_replace(Phase::Leaving);
        // Whoever sends requests here may learn only now that it should not.
        tokio::select! {
            () = sleep(settings.drain_delay) => {}
            never = accept_all(&listener, &connections) => match never {},
        }
        // First: connections that nobody uses give up their places to those who wait.
        phase.send_replace(Phase::Closing);
        accept_waiting(&listener, &connections).await;
        drop(listener);
        connections.ended().await;
        exchanges.ended().await;
    };
    tokio::select! {
        biased;
        signal = signals.next() => ExitStatus::Signal(signal),
        () = drained => ExitStatus::Code(0),
    }
}

/// The signal that asks to end.
const SIGTERM: i32 = 15;
/// A listener that gives nobody for this long has nobody waiting.
const NOBODY_WAITS: Duration = Duration::from_millis(10);
/// How long those who wait may wait for a place, once the server leaves.
const LAST_PLACE: Duration = Duration::from_secs(1);
/// How long a server waits that is out of descriptors.
const PAUSE: Duration = Duration::from_millis(50);

async fn accept_all(listener: &TcpListener, connections: &Connections) -> Infallible {
    loop {
        let place = connections.place().await;
        match listener.accept().await {
            Ok((stream, _)) => connections.serve(stream, place),
            Err(error) => pause_after(&error).await,
        }
    }
}

/// Takes what the kernel has accepted already: closing the listener would reset these connections.
async fn accept_waiting(listener: &TcpListener, connections: &Connections) {
    // A client that comes all the time does not keep the server from leaving.
    for _ in 0..listen::BACKLOG {
        // Who has a place already, and a request on its way, goes before who has none.
        let Ok(place) = timeout(LAST_PLACE, connections.place()).await else { return };
        match timeout(NOBODY_WAITS, listener.accept()).await {
            Ok(Ok((stream, _))) => connections.serve(stream, place),
            _ => return,
        }
    }
}

/// Out of descriptors, it would spin. A connection that was reset before it was taken is no reason to wait.
async fn pause_after(error: &io::Error) {
    if error.kind() != io::ErrorKind::ConnectionAborted && error.kind() != io::ErrorKind::ConnectionReset {
        sleep(PAUSE).await;
    }
}
