//! How long a hello takes, step by step, and how many there are in a second.

use crate::bed::{Bed, Steps};
use crate::contender::Contender;
use crate::statistics::{Better, Row};
use anyhow::Result;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// Hellos of each contender, one after the other.
pub(crate) const TURNS: usize = 40;
/// Before them, not counted: code is compiled and files are cached.
const WARM_UP: usize = 3;
/// After a task, so that the next contender does not pay for it: the kernel takes namespaces apart in the background.
const REST: Duration = Duration::from_millis(100);
/// The same after a batch.
const REST_OF_BATCH: Duration = Duration::from_secs(1);
/// Rounds of throughput.
const ROUNDS: usize = 3;
/// How many tasks are in flight, and how many there are of each contender in one round: several for each place, or the
/// beginning and the end, when not all places are taken, would count for too much.
const IN_FLIGHT: [(usize, usize); 3] = [(1, 24), (4, 24), (8, 48)];

/// A step, or all of them.
type Part = fn(&Steps) -> Duration;

/// The steps of a task whose guest says hello.
pub(crate) fn steps(bed: &Bed, contenders: &[Contender]) -> Result<Vec<Row>> {
    let mut times: Vec<Vec<Steps>> = vec![Vec::new(); contenders.len()];
    for turn in 0..WARM_UP + TURNS {
        for (contender, times) in contenders.iter().zip(&mut times) {
            let api = bed.api(&contender.runtime)?;
            let container = bed.container(&api, &contender.hello)?;
            let steps = container.run()?;
            container.remove()?;
            thread::sleep(REST);
            if turn >= WARM_UP {
                times.push(steps);
            }
        }
    }
    let parts: [(&str, Part); 5] = [
        ("hello: create", |steps| steps.create),
        ("hello: start", |steps| steps.start),
        ("hello: exit", |steps| steps.exit),
        ("hello: delete", |steps| steps.delete),
        ("hello: total", Steps::total),
    ];
    let rows = parts.iter().flat_map(|(what, part)| {
        let of = |(contender, times): (&Contender, &Vec<Steps>)| {
            Row::ms(what, contender.name, &times.iter().map(part).collect::<Vec<_>>())
        };
        contenders.iter().zip(&times).map(of).collect::<Vec<_>>()
    });
    Ok(rows.collect())
}

/// Tasks in a second, several at once. Containers and snapshots are made before and removed after: they are containerd's
/// work, the same for all.
pub(crate) fn throughput(bed: &Bed, contenders: &[Contender]) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for (in_flight, tasks) in IN_FLIGHT {
        let mut rates: Vec<Vec<f64>> = vec![Vec::new(); contenders.len()];
        for _ in 0..ROUNDS {
            for (contender, rates) in contenders.iter().zip(&mut rates) {
                rates.push(tasks as f64 / batch(bed, contender, in_flight, tasks)?.as_secs_f64());
                thread::sleep(REST_OF_BATCH);
            }
        }
        let what = format!("tasks/s, {in_flight} in flight");
        for (contender, rates) in contenders.iter().zip(rates) {
            rows.push(Row::of(&what, contender.name, "tasks/s", Better::Higher, rates));
        }
    }
    Ok(rows)
}

fn batch(bed: &Bed, contender: &Contender, in_flight: usize, tasks: usize) -> Result<Duration> {
    let apis = (0..in_flight).map(|_| bed.api(&contender.runtime)).collect::<Result<Vec<_>>>()?;
    let next = AtomicUsize::new(0);
    // A connection belongs to one thread: each makes its part of the containers, and takes tasks of its own.
    let gate = std::sync::Barrier::new(in_flight + 1);
    let done = std::sync::Barrier::new(in_flight + 1);
    thread::scope(|scope| {
        let workers: Vec<_> = apis
            .into_iter()
            .map(|api| {
                let (gate, done, next) = (&gate, &done, &next);
                scope.spawn(move || -> Result<()> {
                    let made: Result<Vec<_>> =
                        (0..tasks / in_flight).map(|_| bed.container(&api, &contender.hello)).collect();
                    gate.wait();
                    let ran = made.and_then(|containers| {
                        for container in &containers {
                            container.run()?;
                            next.fetch_add(1, Ordering::Relaxed);
                        }
                        Ok(containers)
                    });
                    done.wait();
                    ran?.into_iter().try_for_each(|container| container.remove())
                })
            })
            .collect();
        gate.wait();
        let begun = Instant::now();
        done.wait();
        let took = begun.elapsed();
        for worker in workers {
            worker.join().map_err(|_| anyhow::anyhow!("a worker panicked"))??;
        }
        anyhow::ensure!(next.load(Ordering::Relaxed) == tasks, "not all tasks of {} ran", contender.name);
        Ok(took)
    })
}
