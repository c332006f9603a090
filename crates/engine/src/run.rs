//! Runs a guest on this thread until it ends or is ended.

use crate::budget::{Budget, Memory, Refusal, TABLE_ELEMENT};
use crate::compile::one_line;
use crate::end::{Outcome, TimedOut, status};
use crate::errno;
use crate::grant::{self, Files, Grant, State, WorkingDirectory};
use crate::http::{self, Instances, Made, Socket};
use crate::link::{Loaded, Program};
use crate::network;
use crate::program::Once;
use crate::signals::{Ended, Signals};
use crate::stdio::{BrokenPipe, Output, Stdio, input};
use plan::{Bound, Cpu, ExitStatus, Failure, Http, Report, RunPlan, Size};
use std::io;
use std::num::NonZero;
use std::os::fd::OwnedFd;
use std::pin::pin;
use std::time::{Duration, Instant};
use tokio::runtime::{Builder, Runtime};
use wasmtime::{Engine, Store, UpdateDeadline};
use wasmtime_wasi_http::handler::ProxyPre;

/// A guest with its rights, which has not run yet.
pub struct Guest {
    work: Work,
    signals: Signals,
    outputs: [Output; 2],
    timeout: Option<Duration>,
    // Last, because the others are registered with it.
    runtime: Runtime,
}

/// What a guest is for.
enum Work {
    /// It runs once.
    Once { store: Store<State>, program: Once, refusal: Refusal },
    /// It answers requests.
    Service(Box<Service>),
}

/// A service that does not listen yet.
struct Service {
    socket: Socket,
    instances: Instances,
    settings: Http,
    memory_bytes: Option<u64>,
}

impl Loaded {
    /// Gives the guest what the plan grants. To be called when the process is what the guest is to see: with its root
    /// directory, network, user and groups. Failures are of the kind that the user can mend, and known before start.
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
        let Loaded { engine, program } = self;
        let threads = match &program {
            Program::Service(_) => Threads { workers: workers(&plan.limits.cpu), files: FILE_THREADS },
            // For one thing only, components that poll files: see `Guest::run`.
            Program::Once(_) => Threads { workers: 1, files: 1 },
        };
        let runtime = runtime(threads).map_err(|error| failure("start the event loop", &error))?;
        let inside = runtime.enter();
        let signals = Signals::new(signals).map_err(|error| failure("use the pipe of signals", &error))?;
        let broken_pipe = match &program {
            Program::Once(once) if once.is_module() => BrokenPipe::Error,
            Program::Once(_) | Program::Service(_) => BrokenPipe::Closed,
        };
        let stream = |error| failure("use the standard streams", &error);
        let outputs = [
            Output::new(stdio.stdout, broken_pipe, plan).map_err(stream)?,
            Output::new(stdio.stderr, broken_pipe, plan).map_err(stream)?,
        ];
        let limits = plan.limits.clone();
        let memory = Memory::new(move || limits.guest_bytes(cgroup_bytes()));
        if let Some(limit_bytes) = memory.limit_bytes() {
            fits(plan, &program, limit_bytes)?;
        }
        let once = |program: Once| -> Result<Work, Failure> {
            // WASI 0.1 has no working directory, and no names to look up.
            let (cwd, names) = match program.is_module() {
                true => (WorkingDirectory::InEnvironment, network::Files::default()),
                false => (WorkingDirectory::Told, network::Files::of_container()),
            };
            // A file that waits, such as a fifo nobody writes to, must not hold up the end of the guest's time.
            let files = if plan.limits.timeout.is_some() { Files::OnThreads } else { Files::InPlace };
            let mut builder = grant::context(plan, cwd, files)?;
            let stdin = input(stdio.stdin, plan).map_err(stream)?;
            builder.stdin(stdin).stdout(outputs[0].clone()).stderr(outputs[1].clone());
            let outgoing = grant::outgoing(plan, names, &outputs);
            outgoing.network().grant(&mut builder);
            let refusal = Refusal::default();
            let budget = Budget::new(memory.clone(), refusal.clone());
            let mut store = grant::store(&engine, State::new(builder.build_p1(), outgoing, budget));
            refuel(&mut store, plan.limits.fuel).map_err(|error| Failure::Message(error.to_string()))?;
            Ok(Work::Once { store, program, refusal })
        };
        let work = match program {
            Program::Once(program) => once(program)?,
            Program::Service(pre) => {
                let grant = Grant::new(plan, outputs.clone())?;
                let made = Made { engine: engine.clone(), pre, grant, memory: memory.clone() };
                let instances = Instances::new(made, &plan.http, plan)?;
                let socket = Socket::bind(&plan.http)?;
                let (settings, memory_bytes) = (plan.http.clone(), memory.limit_bytes());
                Work::Service(Box::new(Service { socket, instances, settings, memory_bytes }))
            }
        };
        drop(inside);
        Ok(Guest { work, signals, outputs, timeout: plan.limits.timeout, runtime })
    }
}

impl Guest {
    /// Runs the guest and returns how it ended, with all its output written. Reports a refused growth, once.
    pub fn run(self, report: &mut dyn FnMut(Report)) -> ExitStatus {
        let Guest { work, signals, outputs, timeout, runtime } = self;
        let _listening = errno::listen();
        let status = match work {
            Work::Once { store, program, refusal } => {
                let mut tell = Refusals { refusal: &refusal, report, told: false };
                runtime.block_on(run_once(store, program, &outputs[0], &signals, timeout, &mut tell))
            }
            Work::Service(service) => runtime.block_on(async {
                let Service { socket, instances, settings, memory_bytes } = *service;
                if let Some(note) = socket.note() {
                    outputs[1].tell(&note);
                }
                let served = async {
                    match socket.listen() {
                        Ok(listener) => http::serve(listener, instances, &settings, memory_bytes, &signals).await,
                        Err(error) => {
                            // Another was bound at the same time, and listened first.
                            let line = format!("cannot listen where http.listen says: {error}: choose another one\n");
                            outputs[1].tell(&line);
                            ExitStatus::Code(1)
                        }
                    }
                };
                tokio::select! {
                    status = served => status,
                    status = time_is_up(timeout) => status,
                }
            }),
        };
        if !matches!(status, ExitStatus::Signal(_)) {
            // What the guest wrote without waiting. One that a signal ended ends now, also if nobody reads that.
            let signal = runtime.block_on(async {
                tokio::select! {
                    biased;
                    () = drained(&outputs) => None,
                    signal = signals.next() => Some(signal),
                }
            });
            if let Some(signal) = signal {
                runtime.shutdown_background();
                return ExitStatus::Signal(signal);
            }
        }
        // A component that waits for a file by polling leaves a read of it on a thread of the pool.
        runtime.shutdown_background();
        status
    }
}

async fn run_once(
    mut store: Store<State>,
    program: Once,
    stdout: &Output,
    signals: &Signals,
    timeout: Option<Duration>,
    tell: &mut Refusals<'_>,
) -> ExitStatus {
    let limit = match timeout.map(|limit| Limit::from_now(limit, store.engine())).transpose() {
        Ok(limit) => limit,
        Err(error) => return ExitStatus::Trap { reason: format!("no thread for limits.timeout: {error}") },
    };
    arm_epochs(&mut store, signals.clone(), limit);
    // One that came before the epochs were armed; each later one interrupts the guest.
    if let Some(signal) = signals.received() {
        return ExitStatus::Signal(signal);
    }
    let outcome = {
        let mut guest = pin!(program.run(&mut store, stdout));
        let mut over = pin!(time_is_up(timeout));
        loop {
            tokio::select! {
                biased;
                signal = signals.next() => break Outcome::Broke(Ended(signal).into()),
                () = tell.refusal.first() => tell.once(),
                status = &mut over => return status,
                outcome = &mut guest => break outcome,
            }
        }
    };
    tell.once();
    status(&outcome, tell.refusal.limit_bytes())
}

/// The end of a guest's time.
#[derive(Clone, Copy)]
struct Limit {
    limit: Duration,
    deadline: Instant,
}

impl Limit {
    /// Counts from now on, and interrupts the guest then.
    fn from_now(limit: Duration, engine: &Engine) -> io::Result<Limit> {
        const STACK: usize = 64 << 10;
        let deadline = Instant::now() + limit;
        let engine = engine.clone();
        std::thread::Builder::new().name("limits.timeout".to_owned()).stack_size(STACK).spawn(move || {
            std::thread::sleep(limit);
            engine.increment_epoch();
        })?;
        Ok(Limit { limit, deadline })
    }
}

/// Completes at the end of a guest's time. Counted from when it is made.
async fn time_is_up(timeout: Option<Duration>) -> ExitStatus {
    match timeout {
        Some(limit) => {
            tokio::time::sleep(limit).await;
            ExitStatus::TimedOut { limit }
        }
        None => std::future::pending().await,
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

/// Gives a guest what it may use of instructions.
pub(crate) fn refuel(store: &mut Store<State>, fuel: Option<u64>) -> wasmtime::Result<()> {
    fuel.map_or(Ok(()), |fuel| store.set_fuel(fuel))
}

/// Refuses a guest whose largest memory and table are above its limit from the beginning. The limit of one with several, or
/// that makes them by other means than usual, is met when it starts.
fn fits(plan: &RunPlan, program: &Program, limit_bytes: u64) -> Result<(), Failure> {
    let needs = match program {
        Program::Once(once) => once.resources_required(),
        Program::Service(ProxyPre::P2(pre)) => pre.instance_pre().component().resources_required(),
        Program::Service(ProxyPre::P3(pre)) => pre.instance_pre().component().resources_required(),
    };
    let Some(needs) = needs else { return Ok(()) };
    let memory = needs.max_initial_memory_size.unwrap_or_default().saturating_mul(WASM_PAGE);
    let table = needs.max_initial_table_size.unwrap_or_default().saturating_mul(TABLE_ELEMENT);
    let bytes = memory.saturating_add(table);
    if bytes <= limit_bytes {
        return Ok(());
    }
    let (bytes, limit) = (Size(bytes), Size(limit_bytes));
    let line =
        format!("{} begins with {bytes} of memory, above its limit of {limit}: raise limits.memory", plan.program);
    Err(Failure::Message(plan::printable_line(&line)))
}

/// The usual size of a page of wasm memory, bytes.
const WASM_PAGE: u64 = 64 << 10;

/// Threads for the requests of a service: as many as its processor time is good for.
fn workers(cpu: &Cpu) -> usize {
    let present = std::thread::available_parallelism().map_or(1, NonZero::get);
    let Some(quota_us) = cpu.quota_us.and_then(Bound::number) else { return present };
    let granted = quota_us.div_ceil(cpu.period_us.unwrap_or(DEFAULT_PERIOD_US).max(1));
    usize::try_from(granted).unwrap_or(usize::MAX).clamp(1, present)
}

/// The kernel's `cpu.cfs_period_us`.
const DEFAULT_PERIOD_US: u64 = 100_000;

/// The threads of a runtime.
struct Threads {
    workers: usize,
    /// Made where they are needed.
    files: usize,
}

/// Files that the guests of a service wait for at a time.
const FILE_THREADS: usize = 32;

fn runtime(threads: Threads) -> io::Result<Runtime> {
    let Threads { workers, files } = threads;
    let mut builder = match workers {
        1 => Builder::new_current_thread(),
        _ => Builder::new_multi_thread(),
    };
    // Refused where there is no such thread.
    if workers > 1 {
        builder.worker_threads(workers);
    }
    builder.on_thread_start(|| std::mem::forget(errno::listen()));
    builder.enable_io().enable_time().max_blocking_threads(files).build()
}

/// The epoch advances when a signal was written to the pipe, and once when the guest's time is over. A third reason would
/// lose signals, because Wasmtime sets the next deadline after the callback and counts from the epoch of that moment.
fn arm_epochs(store: &mut Store<State>, signals: Signals, limit: Option<Limit>) {
    store.set_epoch_deadline(1);
    store.epoch_deadline_callback(move |_| {
        if let Some(signal) = signals.received() {
            return Err(Ended(signal).into());
        }
        match limit {
            Some(Limit { limit, deadline }) if Instant::now() >= deadline => Err(TimedOut(limit).into()),
            _ => Ok(UpdateDeadline::Continue(1)),
        }
    });
}

async fn drained(outputs: &[Output]) {
    for output in outputs {
        output.drained().await;
    }
}

fn failure(what: &str, error: &io::Error) -> Failure {
    Failure::Message(one_line(what, error))
}
