//! Advances the epoch while guest code runs, so that guests take turns on a thread and can be left in the middle.
//! Invariant: a process whose guests wait has nothing that wakes up.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::thread::{self, Builder, Thread};
use std::time::Duration;
use wasmtime::Engine;

/// How long a guest has a thread before others get their turn.
const TURN: Duration = Duration::from_millis(10);
/// Turns without a guest after which the thread lies down: waking it up costs a guest some microseconds.
const IDLE_TURNS: u32 = 20;
/// The thread calls nothing that needs more, bytes.
const STACK: usize = 64 << 10;

/// A thread that ticks.
#[derive(Clone)]
pub(crate) struct Ticker {
    shared: Arc<Shared>,
    thread: Thread,
}

#[derive(Default)]
struct Shared {
    /// Threads that execute guest code at this moment.
    running: AtomicUsize,
    parked: AtomicBool,
}

impl Ticker {
    /// Starts the thread.
    pub(crate) fn start(engine: Engine) -> io::Result<Ticker> {
        let shared = Arc::new(Shared::default());
        let of_thread = shared.clone();
        let builder = Builder::new().name("epochs".to_owned()).stack_size(STACK);
        let thread = builder.spawn(move || of_thread.tick(&engine))?.thread().clone();
        Ok(Ticker { shared, thread })
    }

    /// `future`, which executes guest code.
    pub(crate) fn during<T>(&self, future: impl Future<Output = T> + Send + 'static) -> Ticked<T> {
        Ticked { ticker: self.clone(), future: Box::pin(future) }
    }

    fn enter(&self) {
        self.shared.running.fetch_add(1, Ordering::SeqCst);
        if self.shared.parked.load(Ordering::SeqCst) {
            self.thread.unpark();
        }
    }

    fn leave(&self) {
        self.shared.running.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Shared {
    fn tick(&self, engine: &Engine) {
        let mut idle = 0;
        loop {
            if self.running.load(Ordering::SeqCst) > 0 {
                engine.increment_epoch();
                idle = 0;
            } else {
                idle += 1;
            }
            if idle < IDLE_TURNS {
                thread::sleep(TURN);
                continue;
            }
            idle = 0;
            self.parked.store(true, Ordering::SeqCst);
            // Who starts after this look sees the mark, and wakes the thread, also before it sleeps.
            if self.running.load(Ordering::SeqCst) == 0 {
                thread::park();
            }
            self.parked.store(false, Ordering::SeqCst);
        }
    }
}

/// A future under whose polls the epoch advances.
pub(crate) struct Ticked<T> {
    ticker: Ticker,
    future: Pin<Box<dyn Future<Output = T> + Send>>,
}

impl<T> Future for Ticked<T> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<T> {
        self.ticker.enter();
        let polled = self.future.as_mut().poll(context);
        self.ticker.leave();
        polled
    }
}
