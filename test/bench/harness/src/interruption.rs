//! What it costs that a guest can be ended at any time: one that does nothing but count, with epochs (ours, always), with
//! fuel besides, and with neither.

use crate::bed::{Bed, Program};
use crate::contender::{OURS, PEER, wanted};
use crate::statistics::Row;
use crate::wasmtime::{self, WASMTIME};
use anyhow::{Context, Result, ensure};
use std::time::Duration;
use testkit::{Image, Runtime};

/// What is measured.
pub(crate) const SIEVE: &str = "sieve of 100 million numbers";
/// Ours with a limit in instructions, which it does not reach.
pub(crate) const FUELED: &str = "ours+fuel";
const FUEL: &str = "1000000000000000";
/// Turns of each, after one that is not counted.
const TURNS: usize = 3;
/// Primes below a million.
const PRIMES: &str = "78498";

/// The time that the guest itself takes, by its own clock.
pub(crate) fn costs(bed: &Bed) -> Result<Vec<Row>> {
    let wasm = wat::parse_str(include_str!("../guests/sieve.wat"))?;
    let plain = bed.program(&Image::with_file("bench.local/sieve:1", &wasm), &["/app.wasm"], "")?;
    let fueled = plain.annotated("limits.fuel", FUEL);
    let code = wasmtime::compiled(&bed.node.directory("wasmtime")?, &wasm)?;
    let ours = Runtime::wasm(&bed.containerd.operator_file());
    let peer = Runtime::named("io.containerd.peer.v1");
    let contained = |runtime, program| move || in_container(bed, runtime, program);
    let (in_ours, in_fueled, in_peer) = (contained(&ours, &plain), contained(&ours, &fueled), contained(&peer, &plain));
    let by_itself = || wasmtime::run(&code);
    let all: [(&str, &dyn Fn() -> Result<String>); 4] =
        [(OURS, &in_ours), (FUELED, &in_fueled), (PEER, &in_peer), (WASMTIME, &by_itself)];
    let all: Vec<_> = all.into_iter().filter(|(who, _)| wanted(who)).collect();
    let mut times: Vec<Vec<Duration>> = vec![Vec::new(); all.len()];
    for turn in 0..=TURNS {
        for ((who, run), times) in all.iter().zip(&mut times) {
            let time = took(&run()?).with_context(|| format!("the sieve of {who}"))?;
            if turn > 0 {
                times.push(time);
            }
        }
    }
    Ok(all.iter().zip(&times).map(|((who, _), times)| Row::ms(SIEVE, who, times)).collect())
}

fn in_container(bed: &Bed, runtime: &Runtime, program: &Program) -> Result<String> {
    let api = bed.api(runtime)?;
    let container = bed.container(&api, program)?;
    let (code, text) = container.ended()?;
    container.remove()?;
    ensure!(code == 0, "left with {code} and said {text:?}");
    Ok(text)
}

fn took(text: &str) -> Result<Duration> {
    let (primes, ns) = text.split_once('\n').with_context(|| format!("said {text:?}"))?;
    ensure!(primes == PRIMES, "counted {primes} primes");
    Ok(Duration::from_nanos(ns.trim().parse()?))
}
