//! Limits under cgroup version 2 (kernel doc, "cgroup-v2").

use super::CgroupError;
use super::files::write;
use plan::{Cpu, Limits};
use std::path::Path;

/// `cpu.cfs_period_us` where the spec gives a quota without a period: the kernel's default.
const DEFAULT_PERIOD_US: u64 = 100_000;

pub(super) fn limit(root: &Path, path: &str, limits: &Limits) -> Result<(), CgroupError> {
    delegate(root, path)?;
    let dir = root.join(path);
    let set = |file: &str, value: Option<String>| match value {
        Some(value) => write(&dir.join(file), &value),
        None => Ok(()),
    };
    set("memory.max", limits.memory_bytes.map(|bytes| bytes.to_string()))?;
    set("cpu.weight", limits.cpu.shares.map(|shares| weight(shares).to_string()))?;
    set("cpu.max", max(&limits.cpu))?;
    set("pids.max", limits.pids.map(|pids| pids.to_string()))
}

/// Enables the controllers on the way down to the cgroup.
fn delegate(root: &Path, path: &str) -> Result<(), CgroupError> {
    let mut dir = root.to_owned();
    let mut names = path.split('/').filter(|name| !name.is_empty()).peekable();
    while let Some(name) = names.next() {
        write(&dir.join("cgroup.subtree_control"), "+memory +cpu +pids")?;
        dir.push(name);
        if names.peek().is_none() {
            break;
        }
    }
    Ok(())
}

/// Maps 2..=262144 onto 1..=10000, as every runtime does (KEP-2254).
fn weight(shares: u64) -> u64 {
    1 + (shares.clamp(2, 262_144) - 2) * 9_999 / 262_142
}

fn max(cpu: &Cpu) -> Option<String> {
    let period = cpu.period_us.unwrap_or(DEFAULT_PERIOD_US);
    match cpu.quota_us {
        Some(quota) if quota > 0 => Some(format!("{quota} {period}")),
        Some(_) => Some(format!("max {period}")),
        None => cpu.period_us.map(|period| format!("max {period}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_become_weight() {
        let cases = [(2, 1), (1024, 39), (262_144, 10_000)];
        assert_eq!(cases.map(|(shares, _)| weight(shares)), cases.map(|(_, weight)| weight));
    }

    #[test]
    fn quota_and_period_become_max() {
        let cpu = |quota_us, period_us| Cpu { shares: None, quota_us, period_us };
        assert_eq!(max(&cpu(Some(50_000), None)).as_deref(), Some("50000 100000"));
        assert_eq!(max(&cpu(Some(-1), Some(20_000))).as_deref(), Some("max 20000"));
        assert_eq!(max(&cpu(None, None)), None);
    }
}
