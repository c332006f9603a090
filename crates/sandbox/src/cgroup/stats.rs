//! What a container's cgroup has used, as the kernel accounts it.

use super::files::read;
use super::hierarchy::{Controllers, Hierarchy};
use super::{Cgroup, CgroupError};
use std::collections::{BTreeMap, HashMap};
use std::path::Path;

/// Version 1 counts processor time of user and kernel in ticks of 10 ms on every architecture (`USER_HZ`).
const TICK_NS: u64 = 10_000_000;
/// What version 1 shows where there is no limit: the largest number of pages in bytes.
pub(super) const NO_LIMIT: u64 = 1 << 62;

/// Which version of cgroups counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// A hierarchy for each controller.
    V1,
    /// One for all.
    V2,
}

/// Use of resources since the container was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stats {
    /// Which version counted: the names in `memory.detail` differ.
    pub version: Version,
    /// Processor time.
    pub cpu: CpuStats,
    /// Memory.
    pub memory: MemoryStats,
    /// Processes and threads.
    pub pids: PidsStats,
    /// Block devices, where the cgroup has that controller.
    pub io: Vec<IoStats>,
}

/// Use of one block device.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct IoStats {
    /// Major number.
    pub major: u64,
    /// Minor number.
    pub minor: u64,
    /// Bytes read.
    pub read_bytes: u64,
    /// Bytes written.
    pub written_bytes: u64,
    /// Read operations.
    pub reads: u64,
    /// Write operations.
    pub writes: u64,
}

/// Processor time, nanoseconds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CpuStats {
    /// In all.
    pub total_ns: u64,
    /// In user mode.
    pub user_ns: u64,
    /// In the kernel.
    pub kernel_ns: u64,
    /// Of each processor, where the kernel tells.
    pub per_cpu_ns: Vec<u64>,
    /// Periods of the quota that have passed.
    pub periods: u64,
    /// Of these, how many ran out of it.
    pub throttled_periods: u64,
    /// For how long, nanoseconds.
    pub throttled_ns: u64,
}

/// Memory, bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MemoryStats {
    /// In use, page cache included.
    pub usage: u64,
    /// The most so far.
    pub peak: u64,
    /// The limit, if there is one.
    pub limit: Option<u64>,
    /// How often the limit was met.
    pub failures: u64,
    /// How many processes the kernel killed for it.
    pub oom_kills: u64,
    /// Swap, where the kernel accounts for it: alone under version 2, together with memory under version 1.
    pub swap: Option<SwapStats>,
    /// `memory.events`, by the kernel's names, under version 2.
    pub events: HashMap<String, u64>,
    /// `memory.stat`, by the kernel's names.
    pub detail: HashMap<String, u64>,
}

/// Swap, bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SwapStats {
    /// In use.
    pub usage: u64,
    /// The most so far, where the kernel remembers it.
    pub peak: u64,
    /// The limit, if there is one.
    pub limit: Option<u64>,
    /// How often the limit was met, where the kernel counts it.
    pub failures: u64,
}

/// Processes and threads.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PidsStats {
    /// Now.
    pub current: u64,
    /// At most, if there is a limit.
    pub limit: Option<u64>,
}

impl Cgroup {
    /// What has been used so far.
    pub fn stats(&self) -> Result<Stats, CgroupError> {
        match &self.hierarchy {
            Hierarchy::V1(controllers) => v1(controllers, &self.path),
            Hierarchy::V2(root) => v2(&root.join(&self.path)),
        }
    }
}

fn v1(controllers: &Controllers, path: &str) -> Result<Stats, CgroupError> {
    let dir = |controller| controllers.dir(controller, path);
    let (cpuacct, cpu, memory, pids) = (dir("cpuacct")?, dir("cpu")?, dir("memory")?, dir("pids")?);
    let times = table(&read(&cpuacct.join("cpuacct.stat"))?);
    let throttling = table(&read(&cpu.join("cpu.stat"))?);
    let per_cpu = read(&cpuacct.join("cpuacct.usage_percpu"))?;
    let oom = table(&read(&memory.join("memory.oom_control"))?);
    Ok(Stats {
        version: Version::V1,
        cpu: CpuStats {
            total_ns: number(&cpuacct.join("cpuacct.usage"))?,
            user_ns: of(&times, "user") * TICK_NS,
            kernel_ns: of(&times, "system") * TICK_NS,
            per_cpu_ns: per_cpu.split_whitespace().filter_map(|time| time.parse().ok()).collect(),
            periods: of(&throttling, "nr_periods"),
            throttled_periods: of(&throttling, "nr_throttled"),
            throttled_ns: of(&throttling, "throttled_time"),
        },
        memory: MemoryStats {
            usage: number(&memory.join("memory.usage_in_bytes"))?,
            peak: number(&memory.join("memory.max_usage_in_bytes"))?,
            limit: Some(number(&memory.join("memory.limit_in_bytes"))?).filter(|limit| *limit < NO_LIMIT),
            failures: number(&memory.join("memory.failcnt"))?,
            oom_kills: of(&oom, "oom_kill"),
            swap: swap_v1(&memory),
            events: HashMap::new(),
            detail: table(&read(&memory.join("memory.stat"))?),
        },
        pids: pids_of(&pids)?,
        // A container without limits of devices is not in that hierarchy.
        io: dir("blkio").map(|dir| io_v1(&dir)).unwrap_or_default(),
    })
}

/// Not there where the kernel does not account for swap.
fn swap_v1(dir: &Path) -> Option<SwapStats> {
    let value = |name: &str| number(&dir.join(format!("memory.memsw.{name}"))).ok();
    Some(SwapStats {
        usage: value("usage_in_bytes")?,
        peak: value("max_usage_in_bytes")?,
        limit: value("limit_in_bytes").filter(|limit| *limit < NO_LIMIT),
        failures: value("failcnt")?,
    })
}

fn io_v1(dir: &Path) -> Vec<IoStats> {
    let lines = |name: &str| read(&dir.join(format!("blkio.throttle.{name}_recursive"))).unwrap_or_default();
    let mut devices: BTreeMap<(u64, u64), IoStats> = BTreeMap::new();
    for (text, is_bytes) in [(lines("io_service_bytes"), true), (lines("io_serviced"), false)] {
        for (major, minor, action, value) in text.lines().filter_map(counted_v1) {
            let device = devices.entry((major, minor)).or_insert(IoStats { major, minor, ..IoStats::default() });
            match (action, is_bytes) {
                ("Read", true) => device.read_bytes = value,
                ("Write", true) => device.written_bytes = value,
                ("Read", false) => device.reads = value,
                ("Write", false) => device.writes = value,
                _ => {}
            }
        }
    }
    devices.into_values().collect()
}

/// `8:0 Read 4096`
fn counted_v1(line: &str) -> Option<(u64, u64, &str, u64)> {
    let mut words = line.split(' ');
    let (major, minor) = words.next()?.split_once(':')?;
    Some((major.parse().ok()?, minor.parse().ok()?, words.next()?, words.next()?.parse().ok()?))
}

fn v2(dir: &Path) -> Result<Stats, CgroupError> {
    const US: u64 = 1000;
    let cpu = table(&read(&dir.join("cpu.stat"))?);
    let events = table(&read(&dir.join("memory.events"))?);
    let usage = number(&dir.join("memory.current"))?;
    Ok(Stats {
        version: Version::V2,
        cpu: CpuStats {
            total_ns: of(&cpu, "usage_usec") * US,
            user_ns: of(&cpu, "user_usec") * US,
            kernel_ns: of(&cpu, "system_usec") * US,
            per_cpu_ns: Vec::new(),
            periods: of(&cpu, "nr_periods"),
            throttled_periods: of(&cpu, "nr_throttled"),
            throttled_ns: of(&cpu, "throttled_usec") * US,
        },
        memory: MemoryStats {
            usage,
            // Kernels before 5.19 do not remember it.
            peak: number(&dir.join("memory.peak")).unwrap_or(usage),
            limit: number(&dir.join("memory.max")).ok(),
            failures: of(&events, "max"),
            oom_kills: of(&events, "oom_kill"),
            swap: number(&dir.join("memory.swap.current")).ok().map(|usage| SwapStats {
                usage,
                limit: number(&dir.join("memory.swap.max")).ok(),
                ..SwapStats::default()
            }),
            events,
            detail: table(&read(&dir.join("memory.stat"))?),
        },
        pids: pids_of(dir)?,
        // Not there where the controller is not enabled.
        io: read(&dir.join("io.stat")).map(|text| text.lines().filter_map(io).collect()).unwrap_or_default(),
    })
}

/// `8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=5 dios=6`
fn io(line: &str) -> Option<IoStats> {
    let mut words = line.split(' ');
    let (major, minor) = words.next()?.split_once(':')?;
    let values: HashMap<&str, u64> = words
        .filter_map(|word| word.split_once('='))
        .filter_map(|(name, value)| Some((name, value.parse().ok()?)))
        .collect();
    let of = |name| values.get(name).copied().unwrap_or_default();
    Some(IoStats {
        major: major.parse().ok()?,
        minor: minor.parse().ok()?,
        read_bytes: of("rbytes"),
        written_bytes: of("wbytes"),
        reads: of("rios"),
        writes: of("wios"),
    })
}

fn pids_of(dir: &Path) -> Result<PidsStats, CgroupError> {
    // `max` where there is no limit, which is no number.
    Ok(PidsStats { current: number(&dir.join("pids.current"))?, limit: number(&dir.join("pids.max")).ok() })
}

fn number(file: &Path) -> Result<u64, CgroupError> {
    let text = read(file)?;
    text.trim().parse().map_err(|error| CgroupError::File {
        action: "read a number from".to_owned(),
        path: file.to_owned(),
        source: std::io::Error::new(std::io::ErrorKind::InvalidData, error),
    })
}

fn table(text: &str) -> HashMap<String, u64> {
    let lines = text.lines().filter_map(|line| line.split_once(' '));
    lines.filter_map(|(name, value)| Some((name.to_owned(), value.trim().parse().ok()?))).collect()
}

fn of(table: &HashMap<String, u64>, name: &str) -> u64 {
    table.get(name).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn use_of_devices_is_read() {
        let wanted = IoStats { major: 8, minor: 16, read_bytes: 1, written_bytes: 2, reads: 3, writes: 4 };
        assert_eq!(io("8:16 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=5 dios=6"), Some(wanted));
        assert_eq!(io("8:16 "), Some(IoStats { major: 8, minor: 16, ..IoStats::default() }));
        assert_eq!(io("lo rbytes=1"), None);
        assert_eq!(counted_v1("8:16 Read 4096"), Some((8, 16, "Read", 4096)));
        assert_eq!(counted_v1("Total 4096"), None);
    }
}
