//! Bounds on what a container may use.

use serde::{Deserialize, Serialize};

/// Bounds; an absent one does not bind.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// The cgroup's memory limit, bytes (`linux.resources.memory.limit`).
    pub memory_bytes: Option<u64>,
    /// What the guest's linear memories and tables may sum up to, bytes: below the cgroup's limit, so that a growth
    /// fails before the kernel kills.
    pub guest_memory_bytes: Option<u64>,
    /// The cgroup's cpu weight and quota.
    pub cpu: Cpu,
    /// Processes and threads in the cgroup (`linux.resources.pids.limit`).
    pub pids: Option<u64>,
}

/// `linux.resources.cpu`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cpu {
    /// Relative weight, 2 to 262144.
    pub shares: Option<u64>,
    /// Microseconds of cpu time in each period.
    pub quota_us: Option<i64>,
    /// Microseconds.
    pub period_us: Option<u64>,
}
