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
/// Between a change and its measurement: the kernel frees and counts in the background.
const SETTLING: Duration = Duration::from_millis(1500);

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
    let before = available_kib()?;
    let api = bed.api(&contender.runtime)?;
    let mut containers = Vec::new();
    let mut pids = BTreeSet::new();
    for _ in 0..CONTAINERS {
        let container = bed.container(&api, &contender.idle)?;
        let pid = container.create()?;
        // Its tasks are the shim itself.
        if contender.name != FLOOR {
            pids.insert(pid);
        }
        container.start_until_heard()?;
        containers.push(container);
    }
    let node = before.saturating_sub(available_kib()?);
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
    let each = |kib: u64| kib as f64 / CONTAINERS as f64;
    Ok(Use { node: each(node), shim: each(shim), container: each(container) })
}

/// What the node could give to new processes, once what was written is on the disk.
pub(crate) fn available_kib() -> Result<u64> {
    nix::unistd::sync();
    thread::sleep(SETTLING);
    let text = fs::read_to_string("/proc/meminfo")?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:")).context("no MemAvailable")?;
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}
