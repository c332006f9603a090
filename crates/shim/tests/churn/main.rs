//! Many containers made and deleted at once, some of them hurt at a random step, with containerd killed meanwhile: at
//! the end nothing is left, and a shim that serves many is as small as one that serves few.
//!
//! `make test-churn N=10000` runs more of them; `CHURN_SEED` repeats a run's choices.

mod fate;
mod growth;
mod worker;

use anyhow::{Context, Result, ensure};
use fate::Fate;
use nix::sys::signal::Signal;
use std::collections::HashMap;
use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use testkit::{Containerd, Image, Namespace, Suite, Version, cases, guests, wait};
use worker::Worker;

/// Containers per version of containerd, 2,000 in all. Two busy cores make 40 of them a second, and a shim that was
/// forgotten leaves after half a minute more, so that a version takes about a minute.
const TASKS: usize = 2_000;
/// In flight.
const WORKERS: usize = 8;
/// Restarts of containerd.
const RESTARTS: usize = 2;
/// Longer than any run.
const FOR_EVER: Duration = Duration::from_secs(86_400);

fn main() -> ExitCode {
    let current = [Version::V1_7, Version::V2_4];
    Suite::new(env!("CARGO_BIN_EXE_containerd-shim-wasm-v1"))
        .one_by_one()
        .on(&current, cases![crate::nothing_is_left_of_many, growth::the_shim_of_a_pod_does_not_grow])
        .run()
}

/// What the workers share.
struct Churn {
    containerd: Arc<Containerd>,
    node: Namespace,
    image: Image,
    seed: u64,
    tasks: usize,
    next: AtomicUsize,
    done: AtomicUsize,
    /// Odd while containerd is away.
    generation: AtomicUsize,
    tally: Mutex<Tally>,
    /// The socket of each container's shim.
    sockets: Mutex<HashMap<PathBuf, String>>,
}

/// How many had which end.
#[derive(Debug, Default)]
struct Tally {
    right_code: usize,
    hurt: usize,
    /// Not hurt, and containerd went away, or lost their snapshot, while they were created.
    disturbed: usize,
}

fn number(variable: &str) -> Result<Option<u64>> {
    let Ok(text) = std::env::var(variable) else { return Ok(None) };
    text.parse().map(Some).with_context(|| format!("{variable}={text}: expected a number"))
}

fn nothing_is_left_of_many(node: &Namespace) -> Result<()> {
    let tasks = number("CHURN_TASKS")?.map_or(Ok(TASKS), usize::try_from)?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?;
    let seed = number("CHURN_SEED")?.unwrap_or(now.as_secs());
    let version = node.containerd().version();
    println!("churn on containerd {version}: {tasks} containers, {WORKERS} in flight, CHURN_SEED={seed}");
    let containerd = Containerd::start(version, node.containerd().shim())?;
    let own = containerd.namespace("churn");
    let image = Image::with_file("test.local/churn:1", &guests::module("p1_cat.c")?);
    own.import(&image)?;
    let churn = Churn {
        containerd: containerd.clone(),
        node: own,
        image,
        seed,
        tasks,
        next: AtomicUsize::new(0),
        done: AtomicUsize::new(0),
        generation: AtomicUsize::new(0),
        tally: Mutex::default(),
        sockets: Mutex::default(),
    };
    let begun = Instant::now();
    let outcome = churn.run();
    let tally = churn.tally.into_inner().expect("nothing panics with the lock");
    println!("churn on containerd {version}: {tally:?} in {} s", begun.elapsed().as_secs());
    outcome.with_context(|| format!("CHURN_SEED={seed}\n{}", containerd.log_tail(0)))?;
    ensure!(tally.right_code + tally.hurt + tally.disturbed == tasks, "{tally:?} of {tasks}");
    ensure!(tally.disturbed <= WORKERS * RESTARTS, "{tally:?}: more than were in flight");
    let own = churn.node;
    remove_half_removed_bundles(&own)?;
    let sockets = churn.sockets.into_inner().expect("nothing panics with the lock");
    own.until_nothing_remains().with_context(|| story(&containerd, &own.remains().join(" "), seed))?;
    let left: Vec<&str> = sockets.iter().filter(|(socket, _)| socket.exists()).map(|(_, id)| id.as_str()).collect();
    ensure!(left.is_empty(), "sockets stay: {}", story(&containerd, &left.join(" "), seed));
    let snapshots = own.ctr(&["snapshots", "list"])?;
    ensure!(!snapshots.text().contains("Active"), "{snapshots}");
    let containers = own.ctr(&["containers", "list", "--quiet"])?;
    ensure!(containers.text().is_empty(), "{containers}");
    // A network namespace lives by a process, a descriptor of one, or a mount: with those it is gone.
    containerd.stop()
}

/// containerd renames a bundle to a hidden name before it removes it. Killed in between, it never looks at it again: the
/// place is lost until the node boots, with any runtime.
fn remove_half_removed_bundles(node: &Namespace) -> Result<()> {
    for entry in fs::read_dir(node.containerd().bundle(node.name(), "")).into_iter().flatten() {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with('.') {
            fs::remove_dir_all(entry.path())?;
        }
    }
    Ok(())
}

/// What containerd and the shims have logged of the containers that something remains of.
fn story(containerd: &Containerd, remains: &str, seed: u64) -> String {
    let mut ids: Vec<&str> = remains.split(|c: char| !c.is_ascii_alphanumeric()).collect();
    ids.retain(|word| word.strip_prefix('t').is_some_and(|digits| digits.parse::<usize>().is_ok()));
    ids.sort_unstable();
    ids.dedup();
    let mut story = format!("CHURN_SEED={seed}\n");
    for id in ids {
        let index = id.trim_start_matches('t').parse().unwrap_or_default();
        story.push_str(&format!("{id}: {:?}\n", Fate::of(seed, index)));
        let log = containerd.log();
        let of_it = |line: &&str| line.split(|c: char| !c.is_ascii_alphanumeric()).any(|word| word == id);
        log.lines().filter(of_it).for_each(|line| story.push_str(&format!("  {line}\n")));
    }
    story
}

impl Churn {
    fn run(&self) -> Result<()> {
        thread::scope(|scope| {
            let workers: Vec<_> = (0..WORKERS).map(|_| scope.spawn(|| self.work())).collect();
            let killer = scope.spawn(|| self.restarts());
            let mut outcomes: Vec<Result<()>> =
                workers.into_iter().map(|worker| worker.join().expect("it returns errors")).collect();
            outcomes.push(killer.join().expect("it returns errors"));
            outcomes.into_iter().collect()
        })
    }

    fn work(&self) -> Result<()> {
        let mut worker = Worker::new(self)?;
        loop {
            let index = self.next.fetch_add(1, Ordering::Relaxed);
            if index >= self.tasks {
                return Ok(());
            }
            let fate = Fate::of(self.seed, index);
            let lived = worker.live(index, &fate);
            if lived.is_err() {
                // The others finish theirs and stop.
                self.next.store(self.tasks, Ordering::Relaxed);
            }
            // Also after an error, for the restarts are waiting.
            self.done.fetch_add(1, Ordering::Relaxed);
            lived.with_context(|| format!("container {index}: {fate:?}"))?;
        }
    }

    /// Kills containerd and starts it again, at equal distances.
    fn restarts(&self) -> Result<()> {
        for restart in 1..=RESTARTS {
            let due = self.tasks * restart / (RESTARTS + 1);
            wait::until_within(FOR_EVER, "a third is done", || {
                let over = self.next.load(Ordering::Relaxed) >= self.tasks;
                Ok((over || self.done.load(Ordering::Relaxed) >= due).then_some(()))
            })?;
            self.generation.fetch_add(1, Ordering::SeqCst);
            let restarted = self.containerd.restart(Signal::SIGKILL, || Ok(()));
            self.generation.fetch_add(1, Ordering::SeqCst);
            restarted?;
        }
        Ok(())
    }

    fn count(&self, count: impl FnOnce(&mut Tally) -> &mut usize) {
        *count(&mut self.tally.lock().expect("nothing panics with the lock")) += 1;
    }
}
