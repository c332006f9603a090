//! How many sleeping containers fit: each shows a sign of life, all are deleted, and nothing is left.

use crate::bed::{Bed, Shims};
use crate::contender;
use crate::memory::available_kib;
use anyhow::{Context, Result};
use std::time::Instant;
use testkit::Runtime;
use testkit::containerd::Whose;

/// What stopped a run before its end.
struct Stopped {
    at: usize,
    why: anyhow::Error,
}

/// Starts `wanted` containers one after the other, says what they cost, and deletes them.
pub(crate) fn run(shims: &Shims, wanted: usize) -> Result<()> {
    let bed = Bed::new(shims, &[], Whose::Ours)?;
    let idle = contender::idle_wasm(&bed)?;
    let api = bed.api(&Runtime::wasm(&bed.containerd.operator_file()))?;
    let before = available_kib()?;
    let begun = Instant::now();
    let mut containers = Vec::new();
    let mut stopped = None;
    while containers.len() < wanted && stopped.is_none() {
        let made = bed.container(&api, &idle).and_then(|container| {
            container.create()?;
            container.start_until_heard()?;
            Ok(container)
        });
        match made {
            Ok(container) => containers.push(container),
            Err(why) => stopped = Some(Stopped { at: containers.len(), why }),
        }
    }
    let took = begun.elapsed().as_secs_f64();
    let used = before.saturating_sub(available_kib()?);
    let up = containers.len().max(1);
    println!("{up} containers up in {took:.1} s ({:.1} ms each)", took * 1e3 / up as f64);
    println!("memory (MemAvailable): {:.2} GB in all, {} KiB each", used as f64 / 1e6, used / up as u64);
    let begun = Instant::now();
    for container in containers {
        container.end()?;
        container.remove()?;
    }
    println!("all deleted in {:.1} s", begun.elapsed().as_secs_f64());
    bed.node.until_nothing_remains()?;
    bed.containerd.stop()?;
    println!("nothing is left: no process, mount, cgroup, socket or file");
    match stopped {
        None => Ok(()),
        Some(Stopped { at, why }) => Err(why).with_context(|| format!("stopped at {at} of {wanted}")),
    }
}
