//! Limits under cgroup version 1 (kernel doc, "cgroup-v1").

use super::CgroupError;
use super::files::{Absent, Setting, read, write};
use super::hierarchy::Controllers;
use plan::{Bound, Limits, ThrottleKind};
use std::path::Path;

/// Writes the limits; gives a line for each that this node cannot keep and that a container can do without.
pub(super) fn limit(controllers: &Controllers, path: &str, limits: &Limits) -> Result<Vec<String>, CgroupError> {
    if let Some(file) = limits.unified.keys().next() {
        return Err(CgroupError::Unified(file.clone()));
    }
    let mut notes = Vec::new();
    for pair in in_pairs(controllers, path, limits)? {
        notes.extend(apply_pair(&pair)?);
    }
    for setting in settings(controllers, path, limits)? {
        notes.extend(setting.apply()?);
    }
    if !limits.hugepages.is_empty() && !controllers.has("hugetlb") {
        notes.push("limits of huge pages are not applied: this node has no cgroup hierarchy with hugetlb".to_owned());
    }
    Ok(notes)
}

/// The controllers that these limits need besides those that every container is in.
pub(super) fn needed(limits: &Limits) -> Vec<&'static str> {
    let sets = limits.cpu.cpus.is_some() || limits.cpu.mems.is_some();
    let io = limits.io.weight.is_some() || !limits.io.throttles.is_empty();
    let wanted = [("cpuset", sets), ("blkio", io), ("hugetlb", !limits.hugepages.is_empty())];
    wanted.into_iter().filter(|(_, wanted)| *wanted).map(|(controller, _)| controller).collect()
}

/// A new directory of version 1's cpuset has no processors and memory, and takes no process before it has: its parent's.
pub(super) fn inherit_sets(dir: &Path, root: &Path) -> Result<(), CgroupError> {
    // Version 2 has no such file, and no such rule. Asked at the root, where the kernel has the answer at hand.
    let Some(parent) = dir.parent().filter(|_| root.join("cpuset.memory_migrate").exists()) else { return Ok(()) };
    for file in ["cpuset.cpus", "cpuset.mems"] {
        if read(&dir.join(file))?.trim().is_empty() {
            write(&dir.join(file), read(&parent.join(file))?.trim())?;
        }
    }
    Ok(())
}

fn in_pairs(controllers: &Controllers, path: &str, limits: &Limits) -> Result<[[Option<Setting>; 2]; 2], CgroupError> {
    let setting = |controller, file: &str, value: Option<String>, absent| match value {
        Some(value) => Ok(Some(Setting { file: controllers.dir(controller, path)?.join(file), value, absent })),
        None => Ok(None),
    };
    let (memory, cpu) = (&limits.memory, &limits.cpu);
    Ok([
        [
            setting("memory", "memory.limit_in_bytes", memory.limit.map(number), Absent::Refused)?,
            // There only where the kernel accounts for swap.
            setting("memory", "memory.memsw.limit_in_bytes", memory.with_swap.map(number), Absent::Noted)?,
        ],
        [
            setting("cpu", "cpu.cfs_period_us", cpu.period_us.map(|period| period.to_string()), Absent::Refused)?,
            setting("cpu", "cpu.cfs_quota_us", cpu.quota_us.map(number), Absent::Refused)?,
        ],
    ])
}

/// The kernel checks each of a pair against the other's old value (memory may not exceed memory and swap, nor the share
/// of the period that the quota takes its parent's), so which goes first depends on what was there.
fn apply_pair(pair: &[Option<Setting>; 2]) -> Result<Vec<String>, CgroupError> {
    let notes = match pair {
        [Some(first), Some(second)] => match first.apply() {
            Ok(note) => [note, second.apply()?],
            Err(_) => [second.apply()?, first.apply()?],
        },
        [first, second] => {
            let one = |setting: &Option<Setting>| setting.as_ref().map_or(Ok(None), Setting::apply);
            [one(first)?, one(second)?]
        }
    };
    Ok(notes.into_iter().flatten().collect())
}

fn settings(controllers: &Controllers, path: &str, limits: &Limits) -> Result<Vec<Setting>, CgroupError> {
    let mut settings = Vec::new();
    let mut set = |controller, file: &str, value: Option<String>, absent| -> Result<(), CgroupError> {
        if let Some(value) = value {
            settings.push(Setting { file: controllers.dir(controller, path)?.join(file), value, absent });
        }
        Ok(())
    };
    let cpu = &limits.cpu;
    let reservation = limits.memory.reservation.map(|bytes| bytes.to_string());
    set("memory", "memory.soft_limit_in_bytes", reservation, Absent::Refused)?;
    set("cpu", "cpu.shares", cpu.shares.map(|shares| shares.to_string()), Absent::Refused)?;
    set("cpuset", "cpuset.cpus", cpu.cpus.clone(), Absent::Refused)?;
    set("cpuset", "cpuset.mems", cpu.mems.clone(), Absent::Refused)?;
    let pids = limits.pids.map(|pids| pids.number().map_or("max".to_owned(), |pids| pids.to_string()));
    set("pids", "pids.max", pids, Absent::Refused)?;
    // Only some schedulers of devices weigh.
    set("blkio", "blkio.bfq.weight", limits.io.weight.map(|weight| weight.to_string()), Absent::Noted)?;
    for throttle in &limits.io.throttles {
        let file = match throttle.kind {
            ThrottleKind::ReadBytes => "blkio.throttle.read_bps_device",
            ThrottleKind::WriteBytes => "blkio.throttle.write_bps_device",
            ThrottleKind::ReadOperations => "blkio.throttle.read_iops_device",
            ThrottleKind::WriteOperations => "blkio.throttle.write_iops_device",
        };
        let value = format!("{}:{} {}", throttle.major, throttle.minor, throttle.rate);
        set("blkio", file, Some(value), Absent::Refused)?;
    }
    for (size, bytes) in limits.hugepages.iter().filter(|_| controllers.has("hugetlb")) {
        let file = format!("hugetlb.{size}.limit_in_bytes");
        set("hugetlb", &file, Some(bytes.to_string()), Absent::Noted)?;
    }
    Ok(settings)
}

fn number(bound: Bound) -> String {
    bound.number().map_or("-1".to_owned(), |number| number.to_string())
}
