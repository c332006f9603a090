//! What an idle container costs: as the node sees it, and as its processes do.

use crate::bed::{Bed, Container};
use crate::contender::Contender;
use crate::statistics::{Better, Row};
use anyhow::{Context, Result};
use nix::sys::signal::Signal;
use std::collections::BTreeSet;
use std::fs;
use std::thread;
use std::time::Duration;
use testkit::api::Api;
use testkit::{Runtime, process};

/// Containers at once.
const CONTAINERS: usize = 50;
/// Containers before them, not counted: what containerd takes once.
const WARM_UP: usize = 5;
/// Between two looks at the memory of the node.
const SETTLING: Duration = Duration::from_secs(1);
/// Two looks that differ by less say that nothing is freed any more.
const STEADY_KIB: u64 = 256;
/// A node never rests altogether.
const MOST_LOOKS: usize = 10;

/// Memory in use, KiB for one container.
pub(crate) struct Use {
    node: f64,
    shim: f64,
    container: f64,
}

/// One of these.
type Part = fn(&Use) -> f64;

/// Where the container is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    OwnProcess,
    InShim,
}

/// Starts one of many containers; and the pid that it has.
pub(crate) type Start<'s> = dyn for<'a> Fn(&'a Api) -> Result<(Container<'a>, i32)> + 's;

/// Memory of an idle container, at [`CONTAINERS`] of them.
pub(crate) fn idle(bed: &Bed, contenders: &[Contender]) -> Result<Vec<Row>> {
    let people: Vec<&str> = contenders.iter().map(|contender| contender.name).collect();
    of_all("idle container", &people, |index| {
        let contender = &contenders[index];
        let place = if contender.starts_nothing() { Place::InShim } else { Place::OwnProcess };
        of_one(bed, &contender.runtime, place, &|api| {
            let container = bed.container(api, &contender.idle)?;
            container.create()?;
            let pid = container.start_until_heard()?;
            Ok((container, pid))
        })
    })
}

/// Measures each of these people, who are numbered as they are named.
pub(crate) fn of_all(title: &str, people: &[&str], of_one: impl Fn(usize) -> Result<Use>) -> Result<Vec<Row>> {
    let uses = (0..people.len()).map(of_one).collect::<Result<Vec<_>>>()?;
    let parts: [(&str, Part); 3] = [
        ("node (MemAvailable)", |used| used.node),
        ("shim (Pss_Anon)", |used| used.shim),
        ("its process (Pss_Anon)", |used| used.container),
    ];
    let rows = parts.iter().flat_map(|(what, part)| {
        let what = format!("{title}: {what}");
        people.iter().zip(&uses).map(move |(who, used)| Row::of(&what, who, "KiB", Better::Lower, vec![part(used)]))
    });
    Ok(rows.collect())
}

/// Starts [`CONTAINERS`] of them, looks, and removes them. By a containerd that has just begun: what it took for others and
/// gives back at its leisure would be in the difference.
pub(crate) fn of_one(bed: &Bed, runtime: &Runtime, place: Place, start: &Start<'_>) -> Result<Use> {
    bed.containerd.restart(Signal::SIGTERM, || Ok(()))?;
    let api = bed.api(runtime)?;
    for _ in 0..WARM_UP {
        let (container, _) = start(&api)?;
        container.end()?;
        container.remove()?;
    }
    let before = available_kib()?;
    let mut containers = Vec::new();
    let mut pids = BTreeSet::new();
    for _ in 0..CONTAINERS {
        let (container, pid) = start(&api)?;
        if place == Place::OwnProcess {
            pids.insert(pid);
        }
        containers.push(container);
    }
    let meanwhile = available_kib()?;
    let (mut shim, mut container) = (0, 0);
    for pid in process::mentioning(bed.node.name()) {
        let anonymous = process::anonymous_kib(pid).unwrap_or(0);
        *if pids.remove(&pid) { &mut container } else { &mut shim } += anonymous;
    }
    // Programs of an image do not carry the namespace's name.
    for pid in pids {
        container += process::anonymous_kib(pid).with_context(|| format!("memory of process {pid}"))?;
    }
    for container in containers {
        container.end()?;
        container.remove()?;
    }
    let each = |kib: f64| kib / CONTAINERS as f64;
    Ok(Use { node: each(before as f64 - meanwhile as f64), shim: each(shim as f64), container: each(container as f64) })
}

/// What the node could give to new processes, once what was written is on the disk, and what ended is freed: the kernel
/// takes namespaces apart in the background.
pub(crate) fn available_kib() -> Result<u64> {
    nix::unistd::sync();
    let mut last = now_kib()?;
    for _ in 0..MOST_LOOKS {
        thread::sleep(SETTLING);
        let now = now_kib()?;
        if now.abs_diff(last) < STEADY_KIB {
            return Ok(now);
        }
        last = now;
    }
    Ok(last)
}

fn now_kib() -> Result<u64> {
    let text = fs::read_to_string("/proc/meminfo")?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:")).context("no MemAvailable")?;
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}
