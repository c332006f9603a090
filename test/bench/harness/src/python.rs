//! A component of 18 MB, Python with a program: how soon it says something, from a file of the image and from a layer,
//! compiled before and not.

use crate::bed::{Bed, Program};
use crate::contender::{OURS, PEER};
use crate::statistics::{Better, Row};
use anyhow::Result;
use std::time::{Duration, Instant};
use testkit::guests::{self, World};
use testkit::{Image, Runtime, image, process};

/// Warm starts of ours.
const TURNS: usize = 10;
/// Warm starts of the peer, which compiles a file each time.
const TURNS_OF_PEER: usize = 1;

/// Cold and warm starts of ours and the peer.
pub(crate) fn starts(bed: &Bed) -> Result<Vec<Row>> {
    let wasm = guests::python_component(include_str!("../guests/python.py"), World::Command)?;
    let by_file = Image::with_file("bench.local/python-file:1", &wasm);
    let by_layer = Image::with_layer("bench.local/python-layer:1", image::WASM_LAYERS[2], &wasm).bare();
    let programs = [
        ("file", bed.program(&by_file, &["/app.wasm"], "hello")?),
        ("layer", bed.program(&by_layer, &["app.wasm"], "hello")?),
    ];
    let peer = Runtime::named("io.containerd.peer.v1");
    let mut rows = Vec::new();
    for (form, program) in programs {
        // A cache of its own, so that the first start finds nothing.
        let cache = bed.node.directory("python")?.join("cache");
        let ours = bed.ours_with_cache(&cache)?;
        for (who, runtime, turns) in [(OURS, &ours, TURNS), (PEER, &peer, TURNS_OF_PEER)] {
            let cold = to_first_output(bed, runtime, &program)?.0;
            let mut warm = Vec::new();
            let mut anonymous = Vec::new();
            for _ in 0..turns {
                let (time, kib) = to_first_output(bed, runtime, &program)?;
                warm.push(time);
                anonymous.push(kib);
            }
            rows.push(Row::ms(&format!("Python, {form}: cold start to output"), who, &[cold]));
            rows.push(Row::ms(&format!("Python, {form}: warm start to output"), who, &warm));
            let what = format!("Python, {form}: its process (Pss_Anon)");
            rows.push(Row::of(&what, who, "KiB", Better::Lower, anonymous));
        }
    }
    Ok(rows)
}

/// From create to the first byte of output; and what the process has by then, KiB.
fn to_first_output(bed: &Bed, runtime: &Runtime, program: &Program) -> Result<(Duration, f64)> {
    let api = bed.api(runtime)?;
    let container = bed.container(&api, &program.staying())?;
    let begun = Instant::now();
    container.create()?;
    let pid = container.start_until_heard()?;
    let took = begun.elapsed();
    let anonymous = process::anonymous_kib(pid)?;
    container.end()?;
    container.remove()?;
    Ok((took, anonymous as f64))
}
