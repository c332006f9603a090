//! Many containers of one image that nobody has compiled: one compiles, the others wait for it.

use crate::bed::{Bed, Program};
use crate::contender::OURS;
use crate::statistics::{Better, Row};
use anyhow::{Result, anyhow};
use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};
use testkit::guests::{self, Work};
use testkit::{Image, Runtime};

/// Containers at once.
const CONTAINERS: usize = 30;
/// Rounds, each with modules that nobody has seen.
const ROUNDS: u32 = 3;

/// One cold start, and [`CONTAINERS`] cold starts of one image at once, in turns.
pub(crate) fn starts(bed: &Bed) -> Result<Vec<Row>> {
    let ours = Runtime::wasm(&bed.containerd.operator_file());
    let (mut one, mut many, mut compilations) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        for (containers, times) in [(1, &mut one), (CONTAINERS, &mut many)] {
            let seed = std::process::id().rotate_left(12) ^ (round << 8) ^ containers as u32;
            let wasm = guests::many_functions(Work::FIVE_MEGABYTES, seed);
            let reference = format!("bench.local/uncached-{round}-{containers}:1");
            let program = bed.program(&Image::with_file(&reference, &wasm), &["/app.wasm"], "compiled\n")?;
            times.push(at_once(bed, &ours, &program, containers)?);
            if containers > 1 {
                compilations.push(bed.node.compilations(&wasm) as f64);
            }
        }
    }
    Ok(vec![
        Row::ms("uncached 5 MB module: 1 container", OURS, &one),
        Row::ms(&format!("uncached 5 MB module: {CONTAINERS} containers"), OURS, &many),
        Row::of(&format!("compilations for {CONTAINERS} containers"), OURS, "", Better::Lower, compilations),
    ])
}

/// From the first create to the last exit.
fn at_once(bed: &Bed, runtime: &Runtime, program: &Program, containers: usize) -> Result<Duration> {
    let gate = Barrier::new(containers + 1);
    thread::scope(|scope| {
        let workers: Vec<_> = (0..containers)
            .map(|_| {
                scope.spawn(|| -> Result<()> {
                    let api = bed.api(runtime);
                    let container = api.as_ref().map(|api| bed.container(api, program));
                    gate.wait();
                    let container = container.map_err(|error| anyhow!("{error:#}"))??;
                    container.run()?;
                    container.remove()
                })
            })
            .collect();
        gate.wait();
        let begun = Instant::now();
        for worker in workers {
            worker.join().map_err(|_| anyhow!("a worker panicked"))??;
        }
        Ok(begun.elapsed())
    })
}
