//! What a container has used, in containerd's messages: one type for each version of cgroups.

use containerd_shim_protos::cgroups::metrics as one;
use containerd_shim_protos::cgroups_v2::metrics as two;
use containerd_shim_protos::protobuf::well_known_types::any::Any;
use protobuf::{Message, MessageField};
use sandbox::cgroup::{CpuStats, IoStats, MemoryStats, Stats, SwapStats, Version};

/// The messages' names in protobuf, not asked of the generated code, as in `events`.
const V1: &str = "io.containerd.cgroups.v1.Metrics";
const V2: &str = "io.containerd.cgroups.v2.Metrics";
/// What the messages show where there is no limit.
const NO_LIMIT: u64 = u64::MAX;

/// The message of these statistics.
pub(crate) fn encode(stats: &Stats) -> Result<Any, protobuf::Error> {
    match stats.version {
        Version::V1 => any(V1, &version_1(stats)),
        Version::V2 => any(V2, &version_2(stats)),
    }
}

fn any(name: &str, message: &impl Message) -> Result<Any, protobuf::Error> {
    Ok(Any { type_url: name.to_owned(), value: message.write_to_bytes()?, ..Any::default() })
}

fn version_1(stats: &Stats) -> one::Metrics {
    let mut pids = one::PidsStat::new();
    pids.current = stats.pids.current;
    pids.limit = stats.pids.limit.unwrap_or_default();
    let mut oom = one::MemoryOomControl::new();
    oom.oom_kill = stats.memory.oom_kills;
    let mut metrics = one::Metrics::new();
    metrics.pids = MessageField::some(pids);
    metrics.cpu = MessageField::some(cpu_1(&stats.cpu));
    metrics.memory = MessageField::some(memory_1(&stats.memory));
    metrics.memory_oom_control = MessageField::some(oom);
    metrics.blkio = MessageField::some(io_1(&stats.io));
    metrics
}

fn io_1(devices: &[IoStats]) -> one::BlkIOStat {
    let entries = |of: fn(&IoStats) -> [(&'static str, u64); 2]| {
        let entry = |device: &IoStats, op: &str, value| one::BlkIOEntry {
            op: op.to_owned(),
            major: device.major,
            minor: device.minor,
            value,
            ..one::BlkIOEntry::default()
        };
        devices.iter().flat_map(|device| of(device).map(|(op, value)| entry(device, op, value))).collect()
    };
    one::BlkIOStat {
        io_service_bytes_recursive: entries(|device| [("Read", device.read_bytes), ("Write", device.written_bytes)]),
        io_serviced_recursive: entries(|device| [("Read", device.reads), ("Write", device.writes)]),
        ..one::BlkIOStat::default()
    }
}

fn cpu_1(cpu: &CpuStats) -> one::CPUStat {
    let mut usage = one::CPUUsage::new();
    usage.total = cpu.total_ns;
    usage.kernel = cpu.kernel_ns;
    usage.user = cpu.user_ns;
    usage.per_cpu.clone_from(&cpu.per_cpu_ns);
    let mut throttling = one::Throttle::new();
    throttling.periods = cpu.periods;
    throttling.throttled_periods = cpu.throttled_periods;
    throttling.throttled_time = cpu.throttled_ns;
    let mut stat = one::CPUStat::new();
    stat.usage = MessageField::some(usage);
    stat.throttling = MessageField::some(throttling);
    stat
}

fn memory_1(memory: &MemoryStats) -> one::MemoryStat {
    let of = |name: &str| memory.detail.get(name).copied().unwrap_or_default();
    let mut usage = one::MemoryEntry::new();
    usage.limit = memory.limit.unwrap_or(NO_LIMIT);
    usage.usage = memory.usage;
    usage.max = memory.peak;
    usage.failcnt = memory.failures;
    let mut stat = one::MemoryStat::new();
    stat.usage = MessageField::some(usage);
    stat.swap = memory.swap.as_ref().map(swap_1).into();
    stat.cache = of("cache");
    stat.rss = of("rss");
    stat.rss_huge = of("rss_huge");
    stat.mapped_file = of("mapped_file");
    stat.dirty = of("dirty");
    stat.writeback = of("writeback");
    stat.pg_pg_in = of("pgpgin");
    stat.pg_pg_out = of("pgpgout");
    stat.pg_fault = of("pgfault");
    stat.pg_maj_fault = of("pgmajfault");
    stat.inactive_anon = of("inactive_anon");
    stat.active_anon = of("active_anon");
    stat.inactive_file = of("inactive_file");
    stat.active_file = of("active_file");
    stat.unevictable = of("unevictable");
    stat.hierarchical_memory_limit = of("hierarchical_memory_limit");
    stat.hierarchical_swap_limit = of("hierarchical_memsw_limit");
    stat.total_cache = of("total_cache");
    stat.total_rss = of("total_rss");
    stat.total_rss_huge = of("total_rss_huge");
    stat.total_mapped_file = of("total_mapped_file");
    stat.total_dirty = of("total_dirty");
    stat.total_writeback = of("total_writeback");
    stat.total_pg_pg_in = of("total_pgpgin");
    stat.total_pg_pg_out = of("total_pgpgout");
    stat.total_pg_fault = of("total_pgfault");
    stat.total_pg_maj_fault = of("total_pgmajfault");
    stat.total_inactive_anon = of("total_inactive_anon");
    stat.total_active_anon = of("total_active_anon");
    stat.total_inactive_file = of("total_inactive_file");
    stat.total_active_file = of("total_active_file");
    stat.total_unevictable = of("total_unevictable");
    stat
}

fn swap_1(swap: &SwapStats) -> one::MemoryEntry {
    one::MemoryEntry {
        limit: swap.limit.unwrap_or(NO_LIMIT),
        usage: swap.usage,
        max: swap.peak,
        failcnt: swap.failures,
        ..one::MemoryEntry::default()
    }
}

fn version_2(stats: &Stats) -> two::Metrics {
    const US: u64 = 1000;
    let mut pids = two::PidsStat::new();
    pids.current = stats.pids.current;
    pids.limit = stats.pids.limit.unwrap_or_default();
    let mut cpu = two::CPUStat::new();
    cpu.usage_usec = stats.cpu.total_ns / US;
    cpu.user_usec = stats.cpu.user_ns / US;
    cpu.system_usec = stats.cpu.kernel_ns / US;
    cpu.nr_periods = stats.cpu.periods;
    cpu.nr_throttled = stats.cpu.throttled_periods;
    cpu.throttled_usec = stats.cpu.throttled_ns / US;
    let of = |name: &str| stats.memory.events.get(name).copied().unwrap_or_default();
    let mut events = two::MemoryEvents::new();
    events.low = of("low");
    events.high = of("high");
    events.max = of("max");
    events.oom = of("oom");
    events.oom_kill = of("oom_kill");
    let mut metrics = two::Metrics::new();
    metrics.pids = MessageField::some(pids);
    metrics.cpu = MessageField::some(cpu);
    metrics.memory = MessageField::some(memory_2(&stats.memory));
    metrics.memory_events = MessageField::some(events);
    metrics.io = MessageField::some(io_2(&stats.io));
    metrics
}

fn io_2(devices: &[IoStats]) -> two::IOStat {
    let usage = devices.iter().map(|device| two::IOEntry {
        major: device.major,
        minor: device.minor,
        rbytes: device.read_bytes,
        wbytes: device.written_bytes,
        rios: device.reads,
        wios: device.writes,
        ..two::IOEntry::default()
    });
    two::IOStat { usage: usage.collect(), ..two::IOStat::default() }
}

fn memory_2(memory: &MemoryStats) -> two::MemoryStat {
    let of = |name: &str| memory.detail.get(name).copied().unwrap_or_default();
    let mut stat = two::MemoryStat::new();
    stat.usage = memory.usage;
    stat.usage_limit = memory.limit.unwrap_or(NO_LIMIT);
    stat.max_usage = memory.peak;
    if let Some(swap) = &memory.swap {
        stat.swap_usage = swap.usage;
        stat.swap_limit = swap.limit.unwrap_or(NO_LIMIT);
    }
    stat.anon = of("anon");
    stat.file = of("file");
    stat.kernel_stack = of("kernel_stack");
    stat.slab = of("slab");
    stat.sock = of("sock");
    stat.shmem = of("shmem");
    stat.file_mapped = of("file_mapped");
    stat.file_dirty = of("file_dirty");
    stat.file_writeback = of("file_writeback");
    stat.anon_thp = of("anon_thp");
    stat.inactive_anon = of("inactive_anon");
    stat.active_anon = of("active_anon");
    stat.inactive_file = of("inactive_file");
    stat.active_file = of("active_file");
    stat.unevictable = of("unevictable");
    stat.slab_reclaimable = of("slab_reclaimable");
    stat.slab_unreclaimable = of("slab_unreclaimable");
    stat.pgfault = of("pgfault");
    stat.pgmajfault = of("pgmajfault");
    stat.pgrefill = of("pgrefill");
    stat.pgscan = of("pgscan");
    stat.pgsteal = of("pgsteal");
    stat.pgactivate = of("pgactivate");
    stat.pgdeactivate = of("pgdeactivate");
    stat.pglazyfree = of("pglazyfree");
    stat.pglazyfreed = of("pglazyfreed");
    stat.thp_fault_alloc = of("thp_fault_alloc");
    stat.thp_collapse_alloc = of("thp_collapse_alloc");
    stat
}

#[cfg(test)]
mod tests {
    use super::*;
    use protobuf::MessageFull;

    #[test]
    fn the_names_are_those_of_the_messages() {
        assert_eq!(V1, one::Metrics::descriptor().full_name());
        assert_eq!(V2, two::Metrics::descriptor().full_name());
    }
}
