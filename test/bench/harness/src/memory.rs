//! What an idle container costs: as the node sees it, and as its processes do.

use crate::bed::Bed;
use crate::contender::{Contender, FLOOR};
use crate::statistics::{Better, Row};
use anyhow::{Context, Result};
use std::collections::BTreeSet;
use std::fs;
use std::thread;
use std::time::Duration;
use testkit::process;

/// Containers at once.
const CONTAINERS: usize = 50;
/// Rounds, in which all take turns.
const ROUNDS: usize = 2;
/// Between two looks at the memory of the node.
const SETTLING: Duration = Duration::from_secs(1);
/// Two looks that differ by less say that nothing is freed any more.
const STEADY_KIB: u64 = 256;
/// A node never rests altogether.
const MOST_LOOKS: usize = 10;

/// Memory in use, KiB for one container.
struct Use {
    node: f64,
    shim: f64,
    container: f64,
}

/// One of these.
type Part = fn(&Use) -> f64;

/// Memory of an idle container, at [`CONTAINERS`] of them.
pub(crate) fn idle(bed: &Bed, contenders: &[Contender]) -> Result<Vec<Row>> {
    let mut uses: Vec<Vec<Use>> = contenders.iter().map(|_| Vec::new()).collect();
    for _ in 0..ROUNDS {
        for (contender, uses) in contenders.iter().zip(&mut uses) {
            uses.push(of_one(bed, contender)?);
        }
    }
    let parts: [(&str, Part); 3] = [
        ("idle container: node (MemAvailable)", |used| used.node),
        ("idle container: shim (Pss_Anon)", |used| used.shim),
        ("idle container: its process (Pss_Anon)", |used| used.container),
    ];
    let rows = parts.iter().flat_map(|(what, part)| {
        contenders.iter().zip(&uses).map(move |(contender, uses)| {
            Row::of(what, contender.name, "KiB", Better::Lower, uses.iter().map(part).collect())
        })
    });
    Ok(rows.collect())
}

fn of_one(bed: &Bed, contender: &Contender) -> Result<Use> {
    let before = available_kib()? as f64;
    let api = bed.api(&contender.runtime)?;
    let mut containers = Vec::new();
    let mut pids = BTreeSet::new();
    for _ in 0..CONTAINERS {
        let container = bed.container(&api, &contender.idle)?;
        container.create()?;
        let pid = container.start_until_heard()?;
        // Its tasks are the shim itself.
        if contender.name != FLOOR {
            pids.insert(pid);
        }
        containers.push(container);
    }
    let meanwhile = available_kib()? as f64;
    let (mut shim, mut container) = (0, 0);
    for pid in process::mentioning(bed.node.name()) {
        let anonymous = process::anonymous_kib(pid).unwrap_or(0);
        *if pids.remove(&pid) { &mut container } else { &mut shim } += anonymous;
    }
    // Programs of an image do not carry the namespace's name.
    for pid in pids {
        let anonymous = process::anonymous_kib(pid);
        container += anonymous.with_context(|| format!("memory of process {pid} of {}", contender.name))?;
    }
    for container in containers {
        container.end()?;
        container.remove()?;
    }
    // Between what there was before and after: what else the node does in this time drifts, and containerd's heap grows.
    let node = (before + available_kib()? as f64) / 2.0 - meanwhile;
    let each = |kib: f64| kib / CONTAINERS as f64;
    Ok(Use { node: each(node), shim: each(shim as f64), container: each(container as f64) })
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
