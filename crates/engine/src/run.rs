//! Runs a guest on this thread until it ends or is ended.

use crate::budget::{Budget, Refusal};
use crate::compile::one_line;
use crate::end::{Outcome, status};
use crate::errno;
use crate::grant::{self, State, WorkingDirectory};
use crate::link::{Loaded, Program};
use crate::signals::{Ended, Signals};
use crate::stdio::{BrokenPipe, Output, Stdio, input};
use plan::{ExitStatus, Failure, Report, RunPlan};
use std::io;
use std::os::fd::OwnedFd;
use std::pin::pin;
use tokio::runtime::{Builder, Runtime};
use wasmtime::{Store, UpdateDeadline};

/// A guest with its rights, which has not run yet.
pub struct Guest {
    store: Store<State>,
    program: Program,
    signals: Signals,
    outputs: [Output; 2],
    refusal: Refusal,
    // Last, because the others are registered with it.
    runtime: Runtime,
}

impl Loaded {
    /// Gives the guest what the plan grants. To be called when the process is what the guest is to see: with its root
    /// directory, user and groups. Failures are of the kind that the user can mend, and known before start.
    ///
    /// `signals` is the reading end of a pipe. Each byte is the number of a signal that asks the guest to end; whoever
    /// writes one calls [`crate::Interrupter::interrupt`] afterwards. `cgroup_bytes` tells the cgroup's limit of memory,
    /// which may change while the guest runs.
    pub fn grant(
        self,
        plan: &RunPlan,
        stdio: Stdio,
        signals: OwnedFd,
        cgroup_bytes: impl Fn() -> Option<u64> + Send + Sync + 'static,
    ) -> Result<Guest, Failure> {
        let runtime = runtime().map_err(|error| failure("start the event loop", &error))?;
        let inside = runtime.enter();
        let signals = Signals::new(signals).map_err(|error| failure("use the pipe of signals", &error))?;
        let (cwd, broken_pipe) = match self.program {
            Program::Module { .. } => (WorkingDirectory::InEnvironment, BrokenPipe::Error),
            Program::Command(_) => (WorkingDirectory::Told, BrokenPipe::Closed),
        };
        let mut builder = grant::context(plan, cwd)?;
        let stream = |error| failure("use the standard streams", &error);
        let outputs = [
            Output::new(stdio.stdout, broken_pipe).map_err(stream)?,
            Output::new(stdio.stderr, broken_pipe).map_err(stream)?,
        ];
        builder.stdin(input(stdio.stdin).map_err(stream)?).stdout(outputs[0].clone()).stderr(outputs[1].clone());
        let limits = plan.limits.clone();
        let refusal = Refusal::default();
        let budget = Budget::new(Box::new(move || limits.guest_bytes(cgroup_bytes())), refusal.clone());
        let store = Store::new(&self.engine, State::new(builder.build_p1(), budget));
        drop(inside);
        Ok(Guest { store, program: self.program, signals, outputs, refusal, runtime })
    }
}

impl Guest {
    /// Runs the guest and returns how it ended, with all its output written. Reports a refused growth, once.
    pub fn run(self, report: &mut dyn FnMut(Report)) -> ExitStatus {
        let Guest { mut store, program, signals, outputs, refusal, runtime } = self;
        let _listening = errno::listen();
        store.limiter_async(|state| &mut state.budget);
        arm_epochs(&mut store, signals.clone());
        // One that came before the epochs were armed; each later one interrupts the guest.
        if let Some(signal) = signals.received() {
            return ExitStatus::Signal(signal);
        }
        let mut tell = Refusals { refusal: &refusal, report, told: false };
        let status = runtime.block_on(async {
            let outcome = {
                let mut guest = pin!(call(&mut store, &program));
                loop {
                    tokio::select! {
                        biased;
                        signal = signals.next() => break Outcome::Broke(Ended(signal).into()),
                        () = refusal.first() => tell.once(),
                        outcome = &mut guest => break outcome,
                    }
                }
            };
            tell.once();
            let status = status(&outcome, refusal.limit_bytes());
            if let ExitStatus::Signal(_) = status {
                // It ends now, also if nobody reads what it wrote.
                return status;
            }
            // What the guest wrote without waiting.
            tokio::select! {
                biased;
                () = drained(&outputs) => status,
                signal = signals.next() => ExitStatus::Signal(signal),
            }
        });
        drop(store);
        // A component that waits for a file by polling leaves a read of it on a thread of the pool.
        runtime.shutdown_background();
        status
    }
}

/// Tells of refused growths.
struct Refusals<'a> {
    refusal: &'a Refusal,
    report: &'a mut dyn FnMut(Report),
    told: bool,
}

impl Refusals<'_> {
    fn once(&mut self) {
        if let Some(limit_bytes) = self.refusal.limit_bytes()
            && !self.told
        {
            self.told = true;
            (self.report)(Report::GrowthRefused { limit_bytes });
        }
    }
}

fn runtime() -> io::Result<Runtime> {
    Builder::new_current_thread()
        .enable_io()
        .enable_time()
        // Used by wasmtime-wasi for one thing only, components that poll files: see `Guest::run`.
        .max_blocking_threads(1)
        .build()
}

/// Nobody ticks: the epoch advances when a signal was written to the pipe, and for nothing else. A second reason would
/// lose signals, because Wasmtime sets the next deadline after the callback and counts from the epoch of that moment.
fn arm_epochs(store: &mut Store<State>, signals: Signals) {
    store.set_epoch_deadline(1);
    store.epoch_deadline_callback(move |_| match signals.received() {
        Some(signal) => Err(Ended(signal).into()),
        None => Ok(UpdateDeadline::Continue(1)),
    });
}

async fn call(store: &mut Store<State>, program: &Program) -> Outcome {
    let result = match program {
        Program::Module { pre, calls } => {
            async {
                let instance = pre.instantiate_async(&mut *store).await?;
                for name in calls {
                    let function = instance.get_typed_func::<(), ()>(&mut *store, name)?;
                    function.call_async(&mut *store, ()).await?;
                }
                Ok(Outcome::Returned)
            }
            .await
        }
        Program::Command(pre) => {
            async {
                let command = pre.instantiate_async(&mut *store).await?;
                match command.wasi_cli_run().call_run(&mut *store).await? {
                    Ok(()) => Ok(Outcome::Returned),
                    Err(()) => Ok(Outcome::ReturnedError),
                }
            }
            .await
        }
    };
    result.unwrap_or_else(Outcome::Broke)
}

async fn drained(outputs: &[Output]) {
    for output in outputs {
        output.drained().await;
    }
}

fn failure(what: &str, error: &io::Error) -> Failure {
    Failure::Message(one_line(what, error))
}
