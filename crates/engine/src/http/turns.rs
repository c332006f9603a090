//! The requests that are answered on a connection, and whether its client reads the answers.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep};

/// Requests that are answered on a connection.
#[derive(Clone)]
pub(super) struct Turns(Arc<Shared>);

struct Shared {
    now: AtomicUsize,
    ever: AtomicUsize,
    /// Told of each request.
    came: Notify,
    /// Since when the client has a part of an answer to read, by the number of the request. Only where several answers have
    /// one connection: else the connection itself shows it.
    unread: Option<Mutex<HashMap<usize, Instant>>>,
}

/// A request that is answered, until it is dropped.
pub(super) struct Turn {
    turns: Turns,
    number: usize,
}

impl Turns {
    /// None yet, on a connection that has one of them at a time, or several.
    pub(super) fn new(several: bool) -> Turns {
        let unread = several.then(Mutex::default);
        Turns(Arc::new(Shared {
            now: AtomicUsize::default(),
            ever: AtomicUsize::default(),
            came: Notify::new(),
            unread,
        }))
    }

    pub(super) fn begin(&self) -> Turn {
        self.0.now.fetch_add(1, Ordering::Relaxed);
        let number = self.0.ever.fetch_add(1, Ordering::Relaxed);
        self.0.came.notify_one();
        Turn { turns: self.clone(), number }
    }

    pub(super) fn are_none(&self) -> bool {
        self.0.now.load(Ordering::Relaxed) == 0
    }

    /// How many there were until now.
    pub(super) fn ever(&self) -> usize {
        self.0.ever.load(Ordering::Relaxed)
    }

    /// Completes when the client has left one of its answers unread for so long. Without requests, nothing wakes up.
    pub(super) async fn unread_for(&self, patience: Duration) {
        let Some(unread) = &self.0.unread else { return std::future::pending().await };
        loop {
            self.0.came.notified().await;
            while !self.are_none() {
                sleep(patience / 2).await;
                if locked(unread).values().any(|since| since.elapsed() >= patience) {
                    return;
                }
            }
        }
    }
}

impl Turn {
    /// The client has something to read.
    pub(super) fn given(&self) {
        if let Some(unread) = &self.turns.0.unread {
            locked(unread).insert(self.number, Instant::now());
        }
    }

    /// It has read that, and is to get more.
    pub(super) fn asked(&self) {
        if let Some(unread) = &self.turns.0.unread {
            locked(unread).remove(&self.number);
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.asked();
        self.turns.0.now.fetch_sub(1, Ordering::Relaxed);
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
