//! Limits under cgroup version 1 (kernel doc, "cgroup-v1").

use super::CgroupError;
use super::files::write;
use super::hierarchy::Controllers;
use plan::Limits;

pub(super) fn limit(controllers: &Controllers, path: &str, limits: &Limits) -> Result<(), CgroupError> {
    let set = |controller, file: &str, value: Option<String>| match value {
        Some(value) => write(&controllers.dir(controller, path)?.join(file), &value),
        None => Ok(()),
    };
    set("memory", "memory.limit_in_bytes", limits.memory_bytes.map(|bytes| bytes.to_string()))?;
    set("cpu", "cpu.shares", limits.cpu.shares.map(|shares| shares.to_string()))?;
    // The kernel refuses a quota that exceeds the old period, so the period goes first.
    set("cpu", "cpu.cfs_period_us", limits.cpu.period_us.map(|period| period.to_string()))?;
    set("cpu", "cpu.cfs_quota_us", limits.cpu.quota_us.map(|quota| quota.to_string()))?;
    set("pids", "pids.max", limits.pids.map(|pids| pids.to_string()))
}
