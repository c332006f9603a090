//! Bounds on what a container may use.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::time::Duration;

/// What is left of the cgroup's memory for the container process itself, at least: its heap, its stack, page tables.
const MIN_MARGIN_BYTES: u64 = 4 << 20;

/// A bound of the kernel's: a number, or none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Bound {
    /// At most this.
    At(u64),
    /// The kernel's `max`.
    Unlimited,
}

/// Bounds; an absent one is not touched, which for a new container is as good as none.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Memory of the cgroup.
    pub memory: Memory,
    /// What the guest's linear memories and tables may sum up to by the settings, bytes. The cgroup's limit binds them
    /// too: see [`Limits::guest_bytes`].
    pub guest_memory_bytes: Option<u64>,
    /// How long the guest may run, from start on.
    pub timeout: Option<Duration>,
    /// Instructions that the guest may execute, roughly; those of a service for each request.
    pub fuel: Option<u64>,
    /// Processor time.
    pub cpu: Cpu,
    /// Processes and threads in the cgroup (`linux.resources.pids.limit`).
    pub pids: Option<Bound>,
    /// Block devices.
    pub io: Io,
    /// Huge pages: bytes by the kernel's name of the size, such as `2MB`.
    pub hugepages: BTreeMap<String, u64>,
    /// Files of cgroup version 2, written as they are (`linux.resources.unified`).
    pub unified: BTreeMap<String, String>,
}

/// `linux.resources.memory`, bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Memory {
    /// At most.
    pub limit: Option<Bound>,
    /// Memory and swap together, at most.
    pub with_swap: Option<Bound>,
    /// What the kernel leaves to the container while others have more to give.
    pub reservation: Option<u64>,
}

/// `linux.resources.cpu`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cpu {
    /// Relative weight, 2 to 262144.
    pub shares: Option<u64>,
    /// Microseconds of processor time in each period.
    pub quota_us: Option<Bound>,
    /// Microseconds.
    pub period_us: Option<u64>,
    /// Processors, as a list of the kernel's: `0-2,7`.
    pub cpus: Option<String>,
    /// Memory nodes, likewise.
    pub mems: Option<String>,
}

/// `linux.resources.blockIO`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Io {
    /// Relative weight, 10 to 1000.
    pub weight: Option<u16>,
    /// Bounds on single devices.
    pub throttles: Vec<Throttle>,
}

/// A bound on the use of one block device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Throttle {
    /// Major number of the device.
    pub major: u32,
    /// Minor number.
    pub minor: u32,
    /// What is bound.
    pub kind: ThrottleKind,
    /// Bytes or operations in a second; 0 for no bound.
    pub rate: u64,
}

/// What a [`Throttle`] bounds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ThrottleKind {
    /// Bytes read.
    ReadBytes,
    /// Bytes written.
    WriteBytes,
    /// Read operations.
    ReadOperations,
    /// Write operations.
    WriteOperations,
}

impl Bound {
    /// The number, if it is one.
    pub fn number(self) -> Option<u64> {
        match self {
            Bound::At(number) => Some(number),
            Bound::Unlimited => None,
        }
    }
}

impl Memory {
    /// The cgroup's limit, bytes, where there is one.
    pub fn limit_bytes(&self) -> Option<u64> {
        self.limit.and_then(Bound::number)
    }
}

impl Limits {
    /// What the guest may use, bytes, in a cgroup that is limited to `cgroup_bytes`: below that limit, so that a growth
    /// fails inside the guest before the kernel kills the process, and never above the setting.
    pub fn guest_bytes(&self, cgroup_bytes: Option<u64>) -> Option<u64> {
        [self.guest_memory_bytes, cgroup_bytes.map(guest_share)].into_iter().flatten().min()
    }
}

/// All but a sixteenth, but all but 4 MiB where that is less, and never less than half.
fn guest_share(cgroup_bytes: u64) -> u64 {
    let margin = (cgroup_bytes / 16).max(MIN_MARGIN_BYTES);
    cgroup_bytes.saturating_sub(margin).max(cgroup_bytes / 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guest_memory_stays_below_the_cgroup() {
        const MI: u64 = 1 << 20;
        let guest = |setting, cgroup| Limits { guest_memory_bytes: setting, ..Limits::default() }.guest_bytes(cgroup);
        assert_eq!(guest(None, None), None);
        assert_eq!(guest(Some(MI), None), Some(MI));
        let cases =
            [(1024 * MI, 960 * MI), (64 * MI, 60 * MI), (16 * MI, 12 * MI), (6 * MI, 3 * MI), (MI, MI / 2), (1, 0)];
        for (limit, share) in cases {
            assert_eq!(guest(None, Some(limit)), Some(share), "{limit}");
        }
        assert_eq!(guest(Some(10), Some(64 * MI)), Some(10));
        assert_eq!(guest(Some(64 * MI), Some(64 * MI)), Some(60 * MI));
    }
}
