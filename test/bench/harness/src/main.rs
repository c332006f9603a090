//! `bench`: measures ours beside its peers in one run, on a private containerd.
//!
//! | call | what it does |
//! |---|---|
//! | `bench run JSON SVG` | measures all contenders in turns, prints the table, writes both files |
//! | `bench check JSON` | the same, and names what fell behind those results |
//! | `bench part WORD` | the same for the parts whose name has the word, and writes nothing |
//! | `bench kind JSON` | measures pods on a cluster of kind, prints the table, writes the file |
//! | `bench density N M` | starts N sleeping containers of ours, then M services |
//!
//! `WASM_BENCH_WHO` names those that are measured, with commas between: one alone for a profile of it.
//! `WASM_BENCH_BIN` names the folder with `containerd-shim-{wasm,peer,stock-floor,floor}-v1`.

#![forbid(unsafe_code)]

mod bed;
mod chart;
mod check;
mod client;
mod contender;
mod density;
mod http;
mod hybrid;
mod interruption;
mod kernel;
mod kind;
mod latency;
mod load;
mod memory;
mod neighbours;
mod output;
mod pod;
mod pods;
mod python;
mod report;
mod service;
mod statistics;
mod uncached;
mod wasmtime;

use anyhow::{Context, Result, bail};
use bed::{Bed, Shims};
use density::Wanted;
use report::Report;
use statistics::Row;
use std::path::{Path, PathBuf};
use std::time::Instant;
use testkit::containerd::Whose;

fn main() -> Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let shims = shims()?;
    if words.first() != Some(&"kind") {
        hybrid::hide()?;
    }
    match words[..] {
        ["run", json, svg] => {
            let (report, left) = measured(&shims, "")?;
            report.write(Path::new(json))?;
            std::fs::write(svg, chart::svg(&report)).with_context(|| format!("write {svg}"))?;
            println!("written: {json}, {svg}");
            left
        }
        ["check", json] => {
            let before = Report::read(Path::new(json))?;
            let (now, left) = measured(&shims, "")?;
            let fallen = check::fallen(&before, &now);
            if !fallen.is_empty() {
                bail!("fell behind {json}:\n{}", fallen.join("\n"));
            }
            println!("nothing fell behind {json} by more than 15 %");
            left
        }
        ["part", word] => measured(&shims, word)?.1,
        ["kind", json] => {
            let report = kind::measured(&shims)?;
            println!("\n{}\n{}", report.table(), report.verdicts());
            report.write(Path::new(json))
        }
        ["density", sleeping, serving] => {
            let count = |word: &str| word.parse().context("a number of containers");
            density::run(&shims, Wanted { sleeping: count(sleeping)?, serving: count(serving)? })
        }
        _ => bail!("expected: run JSON SVG | check JSON | part WORD | kind JSON | density N M"),
    }
}

fn shims() -> Result<Shims> {
    let bin = std::env::var_os("WASM_BENCH_BIN").context("WASM_BENCH_BIN names no folder: use `make bench`")?;
    let bin = PathBuf::from(bin);
    let shim = |name: &str| bin.join(format!("containerd-shim-{name}-v1"));
    Ok(Shims { ours: shim("wasm"), floor: shim("floor"), stock_floor: shim("stock-floor"), peer: shim("peer") })
}

/// A part of the run.
type Stage<'a> = &'a dyn Fn() -> Result<Vec<Row>>;

/// Measures every part whose name has the word, prints it, and leaves nothing; else says what was left, which costs nobody
/// the results: shims of the stock library may leave their sockets.
fn measured(shims: &Shims, word: &str) -> Result<(Report, Result<()>)> {
    let begun = Instant::now();
    let bed = Bed::new(shims, &[&shims.floor, &shims.stock_floor, &shims.peer], Whose::Others)?;
    bed.make_parents()?;
    let mut contenders = contender::all(&bed)?;
    contenders.retain(|contender| contender::wanted(contender.name));
    let mut rows = Vec::new();
    let stages: [(&str, Stage<'_>); 12] = [
        ("steps of a hello", &|| latency::steps(&bed, &contenders)),
        ("the kernel's part of a hello", &|| kernel::parts(&bed)),
        ("tasks in flight", &|| latency::throughput(&bed, &contenders)),
        ("idle containers", &|| memory::idle(&bed, &contenders)),
        ("an uncached image", &|| uncached::starts(&bed)),
        ("a Python component", &|| python::starts(&bed)),
        ("http hello", &|| http::hello(&bed)),
        ("http in Python", &|| http::python(&bed)),
        ("idle http containers", &|| http::idle(&bed)),
        ("http beside bad neighbours", &|| neighbours::beside(&bed)),
        ("interruption of a busy guest", &|| interruption::costs(&bed)),
        ("pods over CRI", &|| pods::over_cri(shims)),
    ];
    for (name, stage) in stages.into_iter().filter(|(name, _)| name.contains(word)) {
        let started = Instant::now();
        let measured = stage().with_context(|| format!("{name}\n{}", bed.containerd.log_tail(0)))?;
        println!("{name}, measured in {:.0} s", started.elapsed().as_secs_f64());
        println!("{}", Report::new(measured.clone()).table());
        rows.extend(measured);
    }
    let left = bed.containerd.stop();
    let report = Report::new(rows);
    println!("\n{}\n{}", report.table(), report.verdicts());
    println!("measured in {:.0} s", begun.elapsed().as_secs_f64());
    Ok((report, left))
}
