//! Limits under cgroup version 2 (kernel doc, "cgroup-v2").

use super::CgroupError;
use super::files::{Absent, Setting, read, write};
use plan::{Bound, Cpu, Limits, Memory, Throttle, ThrottleKind};
use std::io;
use std::path::Path;

/// What every container is bounded and accounted by.
const ALWAYS: [&str; 3] = ["memory", "cpu", "pids"];

/// Writes the limits; gives a line for each that this node cannot keep and that a container can do without.
pub(super) fn limit(dir: &Path, limits: &Limits) -> Result<Vec<String>, CgroupError> {
    let mut notes = Vec::new();
    let limits = completed(dir, limits);
    if let (Some(Bound::At(_)), None | Some(Bound::Unlimited)) = (limits.memory.with_swap, limits.memory.limit) {
        notes.push("a limit of memory and swap is not applied: there is no limit of memory to take it from".to_owned());
    }
    for setting in settings(&limits) {
        notes.extend(Setting { file: dir.join(&setting.file), ..setting }.apply()?);
    }
    Ok(notes)
}

/// With the halves that an update leaves as they are, where the other half means nothing alone.
pub(super) fn completed(dir: &Path, limits: &Limits) -> Limits {
    let max = read(&dir.join("cpu.max")).unwrap_or_default();
    let mut max = max.split_whitespace().map(|word| word.parse().ok());
    let (quota, period) = (max.next().flatten().map(Bound::At), max.next().flatten());
    let cpu = Cpu {
        quota_us: limits.cpu.quota_us.or(limits.cpu.period_us.and(quota)),
        period_us: limits.cpu.period_us.or(limits.cpu.quota_us.and(period)),
        ..limits.cpu.clone()
    };
    // Swap is what is left of both together.
    let limit = || read(&dir.join("memory.max")).ok()?.trim().parse().ok().map(Bound::At);
    let memory = Memory {
        limit: limits.memory.limit.or_else(|| limits.memory.with_swap.and_then(|_| limit())),
        ..limits.memory.clone()
    };
    Limits { cpu, memory, ..limits.clone() }
}

/// Enables the controllers that these limits need on the way down to the cgroup.
pub(super) fn delegate(root: &Path, path: &str, limits: &Limits) -> Result<(), CgroupError> {
    let mut dir = root.to_owned();
    let mut names = path.split('/').filter(|name| !name.is_empty()).peekable();
    while let Some(name) = names.next() {
        let control = dir.join("cgroup.subtree_control");
        let always = ALWAYS.map(|controller| format!("+{controller}")).join(" ");
        match write(&control, &always) {
            // The rule of "no internal processes".
            Err(CgroupError::File { source, .. }) if source.kind() == io::ErrorKind::ResourceBusy => {
                return Err(CgroupError::Occupied(dir));
            }
            result => result?,
        }
        for controller in more(limits) {
            // A kernel without one has no files of it: what that means is said where they are written.
            let _ = write(&control, &format!("+{controller}"));
        }
        dir.push(name);
        if names.peek().is_none() {
            break;
        }
    }
    Ok(())
}

fn more(limits: &Limits) -> impl Iterator<Item = &'static str> {
    let asked = |name: &str| limits.unified.keys().any(|file| file.starts_with(name));
    let wanted = [
        ("cpuset", limits.cpu.cpus.is_some() || limits.cpu.mems.is_some() || asked("cpuset.")),
        ("io", limits.io.weight.is_some() || !limits.io.throttles.is_empty() || asked("io.")),
        ("hugetlb", !limits.hugepages.is_empty() || asked("hugetlb.")),
    ];
    wanted.into_iter().filter(|(_, wanted)| *wanted).map(|(controller, _)| controller)
}

/// The files of a set of limits, without their directory.
fn settings(limits: &Limits) -> Vec<Setting> {
    let mut settings = Vec::new();
    let mut set = |file: &str, value: Option<String>, absent| {
        settings.extend(value.map(|value| Setting { file: file.into(), value, absent }));
    };
    let cpu = &limits.cpu;
    set("memory.max", limits.memory.limit.map(number), Absent::Refused);
    // There only where the kernel accounts for swap.
    set("memory.swap.max", swap(&limits.memory).map(number), Absent::Noted);
    set("memory.low", limits.memory.reservation.map(|bytes| bytes.to_string()), Absent::Refused);
    set("cpu.weight", cpu.shares.map(|shares| weight(shares).to_string()), Absent::Refused);
    set("cpu.max", max(cpu), Absent::Refused);
    set("cpuset.cpus", cpu.cpus.clone(), Absent::Refused);
    set("cpuset.mems", cpu.mems.clone(), Absent::Refused);
    set("pids.max", limits.pids.map(number), Absent::Refused);
    // Only some schedulers of devices weigh.
    set("io.weight", limits.io.weight.map(|weight| format!("default {}", io_weight(weight))), Absent::Noted);
    for throttle in &limits.io.throttles {
        set("io.max", Some(io_max(throttle)), Absent::Refused);
    }
    for (size, bytes) in &limits.hugepages {
        set(&format!("hugetlb.{size}.max"), Some(bytes.to_string()), Absent::Noted);
    }
    for (file, value) in &limits.unified {
        set(file, Some(value.clone()), Absent::Refused);
    }
    settings
}

fn number(bound: Bound) -> String {
    bound.number().map_or("max".to_owned(), |number| number.to_string())
}

/// Version 2 counts swap by itself.
pub(super) fn swap(memory: &Memory) -> Option<Bound> {
    match (memory.with_swap?, memory.limit) {
        (Bound::At(with_swap), Some(Bound::At(limit))) => Some(Bound::At(with_swap.saturating_sub(limit))),
        // Without a limit of memory there is nothing to take it from.
        (Bound::At(_), _) => None,
        (Bound::Unlimited, _) => Some(Bound::Unlimited),
    }
}

/// Maps 2..=262144 onto 1..=10000, as every runtime does (KEP-2254).
pub(super) fn weight(shares: u64) -> u64 {
    1 + (shares.clamp(2, 262_144) - 2) * 9_999 / 262_142
}

/// Maps 10..=1000 onto 1..=10000.
fn io_weight(weight: u16) -> u64 {
    1 + (u64::from(weight.clamp(10, 1000)) - 10) * 9_999 / 990
}

fn max(cpu: &Cpu) -> Option<String> {
    match (cpu.quota_us, cpu.period_us) {
        (Some(quota), Some(period)) => Some(format!("{} {period}", number(quota))),
        (Some(quota), None) => Some(number(quota)),
        (None, Some(period)) => Some(format!("max {period}")),
        (None, None) => None,
    }
}

fn io_max(throttle: &Throttle) -> String {
    let key = match throttle.kind {
        ThrottleKind::ReadBytes => "rbps",
        ThrottleKind::WriteBytes => "wbps",
        ThrottleKind::ReadOperations => "riops",
        ThrottleKind::WriteOperations => "wiops",
    };
    let rate = if throttle.rate == 0 { Bound::Unlimited } else { Bound::At(throttle.rate) };
    format!("{}:{} {key}={}", throttle.major, throttle.minor, number(rate))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_and_weights_are_scaled() {
        let cases = [(2, 1), (1024, 39), (262_144, 10_000)];
        assert_eq!(cases.map(|(shares, _)| weight(shares)), cases.map(|(_, weight)| weight));
        let cases = [(10, 1), (100, 910), (1000, 10_000)];
        assert_eq!(cases.map(|(weight, _)| io_weight(weight)), cases.map(|(_, scaled)| scaled));
    }

    #[test]
    fn limits_become_files() {
        let limits = Limits {
            memory: Memory { limit: Some(Bound::At(100)), with_swap: Some(Bound::At(150)), reservation: Some(50) },
            cpu: Cpu { quota_us: Some(Bound::At(50_000)), cpus: Some("0-1".into()), ..Cpu::default() },
            timeout: None,
            fuel: None,
            pids: Some(Bound::Unlimited),
            hugepages: [("2MB".to_owned(), 0)].into(),
            unified: [("memory.high".to_owned(), "64M".to_owned())].into(),
            io: plan::Io {
                weight: Some(1000),
                throttles: vec![Throttle { major: 8, minor: 1, kind: ThrottleKind::WriteBytes, rate: 0 }],
            },
            guest_memory_bytes: Some(1),
        };
        let files = settings(&limits).into_iter().map(|one| format!("{}={}", one.file.display(), one.value));
        let wanted = [
            "memory.max=100",
            "memory.swap.max=50",
            "memory.low=50",
            "cpu.max=50000",
            "cpuset.cpus=0-1",
            "pids.max=max",
            "io.weight=default 10000",
            "io.max=8:1 wbps=max",
            "hugetlb.2MB.max=0",
            "memory.high=64M",
        ];
        assert_eq!(files.collect::<Vec<_>>(), wanted);
    }

    #[test]
    fn quota_and_period_become_max() {
        let cpu = |quota_us, period_us| Cpu { quota_us, period_us, ..Cpu::default() };
        assert_eq!(max(&cpu(Some(Bound::At(50_000)), None)).as_deref(), Some("50000"));
        assert_eq!(max(&cpu(Some(Bound::Unlimited), Some(20_000))).as_deref(), Some("max 20000"));
        assert_eq!(max(&cpu(None, None)), None);
    }
}
