//! How many containers fit, sleeping ones and services: each shows a sign of life, all are deleted, and nothing is left.

use crate::bed::{Bed, Container, Program, Shims};
use crate::contender;
use crate::memory::available_kib;
use crate::service::{self, HELLO, Service};
use anyhow::{Context, Result};
use std::time::Instant;
use testkit::Runtime;
use testkit::api::Api;
use testkit::containerd::Whose;

/// What stopped a part before its end.
struct Stopped {
    at: usize,
    why: anyhow::Error,
}

/// How many of each kind.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wanted {
    pub(crate) sleeping: usize,
    /// On the node's network, with a port each; each answers once.
    pub(crate) serving: usize,
}

/// Starts them, first those that sleep, and deletes them before the next kind.
pub(crate) fn run(shims: &Shims, wanted: Wanted) -> Result<()> {
    let bed = Bed::new(shims, &[], Whose::Ours)?;
    let api = bed.api(&Runtime::wasm(&bed.containerd.operator_file()))?;
    let (idle, hello) = (contender::idle_wasm(&bed)?, service::hello(&bed)?);
    let asleep = part(&bed, "sleeping containers", wanted.sleeping, || {
        let container = bed.container(&api, &idle)?;
        container.create()?;
        container.start_until_heard()?;
        Ok(container)
    })?;
    let serving = part(&bed, "services", wanted.serving, || started(&bed, &api, &hello))?;
    bed.containerd.stop()?;
    println!("nothing is left: no process, mount, cgroup, socket or file");
    match asleep.or(serving) {
        None => Ok(()),
        Some(Stopped { at, why }) => Err(why).with_context(|| format!("stopped at {at}")),
    }
}

fn started<'a>(bed: &Bed, api: &'a Api, program: &Program) -> Result<Container<'a>> {
    Ok(Service::start(bed, api, program, HELLO)?.container)
}

/// Starts `wanted` of one kind one after the other, says what they cost, and deletes them.
fn part<'a>(
    bed: &Bed,
    kind: &str,
    wanted: usize,
    start: impl Fn() -> Result<Container<'a>>,
) -> Result<Option<Stopped>> {
    let before = available_kib()?;
    let begun = Instant::now();
    let mut containers = Vec::new();
    let mut stopped = None;
    while containers.len() < wanted && stopped.is_none() {
        match start() {
            Ok(container) => containers.push(container),
            Err(why) => stopped = Some(Stopped { at: containers.len(), why }),
        }
    }
    let took = begun.elapsed().as_secs_f64();
    let used = before.saturating_sub(available_kib()?);
    let up = containers.len().max(1);
    println!("{up} {kind} up in {took:.1} s ({:.1} ms each)", took * 1e3 / up as f64);
    println!("memory (MemAvailable): {:.2} GB in all, {} KiB each", used as f64 / 1e6, used / up as u64);
    let begun = Instant::now();
    for container in containers {
        container.end()?;
        container.remove()?;
    }
    println!("all deleted in {:.1} s", begun.elapsed().as_secs_f64());
    bed.node.until_nothing_remains()?;
    Ok(stopped)
}
