//! `linux.resources`: the cgroup's limits, and the guest's own below them.
//! It must not know cgroup files.

use oci_spec::runtime::{Linux, LinuxCpu, LinuxResources};
use plan::{Cpu, Limits};

/// What is left of the cgroup's memory for the container process itself, at least: its heap, its stack, page tables.
const MIN_MARGIN_BYTES: u64 = 4 << 20;

/// Lowers the limits; `memory_bytes` is the setting `limits.memory`.
pub(super) fn lower(linux: &Linux, memory_bytes: Option<u64>, warnings: &mut Vec<String>) -> Limits {
    let resources = linux.resources().as_ref();
    let cgroup_bytes = resources.and_then(|all| all.memory().as_ref()).and_then(|memory| positive(memory.limit()));
    let below_cgroup = cgroup_bytes.map(guest_share);
    Limits {
        memory_bytes: cgroup_bytes,
        guest_memory_bytes: [memory_bytes, below_cgroup].into_iter().flatten().min(),
        cpu: resources.and_then(|all| all.cpu().as_ref()).map(|cpu| lower_cpu(cpu, warnings)).unwrap_or_default(),
        pids: resources.and_then(pids),
    }
}

/// What a guest may use of a cgroup limited to `limit` bytes: all but a sixteenth, but all but 4 MiB where that is
/// less, and never less than half. A growth above it fails inside the guest; without the margin the kernel would kill
/// the process first.
fn guest_share(limit: u64) -> u64 {
    let margin = (limit / 16).max(MIN_MARGIN_BYTES);
    limit.saturating_sub(margin).max(limit / 2)
}

fn lower_cpu(cpu: &LinuxCpu, warnings: &mut Vec<String>) -> Cpu {
    let sets = [("cpus", cpu.cpus().as_deref()), ("mems", cpu.mems().as_deref())];
    for (name, set) in sets {
        if let Some(set) = set.filter(|set| !set.is_empty()) {
            warnings.push(format!("linux.resources.cpu.{name} = {set} is not applied: cpu sets are not built yet"));
        }
    }
    Cpu {
        shares: cpu.shares().filter(|shares| *shares > 0),
        quota_us: cpu.quota().filter(|quota| *quota > 0),
        period_us: cpu.period().filter(|period| *period > 0),
    }
}

fn pids(resources: &LinuxResources) -> Option<u64> {
    let pids = resources.pids().as_ref()?;
    positive(Some(pids.limit()))
}

/// In the spec, 0 and -1 mean no limit.
fn positive(limit: Option<i64>) -> Option<u64> {
    limit.and_then(|limit| u64::try_from(limit).ok()).filter(|limit| *limit > 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn check(resources: serde_json::Value, setting: Option<u64>, wanted: Limits) {
        let linux = serde_json::from_value(json!({ "resources": resources })).unwrap();
        let got = lower(&linux, setting, &mut Vec::new());
        assert_eq!(got, wanted, "{resources} with limits.memory {setting:?}");
    }

    fn memory(cgroup: Option<u64>, guest: Option<u64>) -> Limits {
        Limits { memory_bytes: cgroup, guest_memory_bytes: guest, ..Limits::default() }
    }

    #[test]
    fn guest_memory_stays_below_the_cgroup() {
        const MI: u64 = 1 << 20;
        check(json!(null), None, memory(None, None));
        check(json!({}), Some(MI), memory(None, Some(MI)));
        let cases =
            [(1024 * MI, 960 * MI), (64 * MI, 60 * MI), (16 * MI, 12 * MI), (6 * MI, 3 * MI), (MI, MI / 2), (1, 0)];
        for (limit, share) in cases {
            let resources = json!({"memory": {"limit": limit}});
            check(resources, None, memory(Some(limit), Some(share)));
        }
        let resources = json!({"memory": {"limit": 64 * MI}});
        check(resources.clone(), Some(10), memory(Some(64 * MI), Some(10)));
        check(resources, Some(64 * MI), memory(Some(64 * MI), Some(60 * MI)));
    }

    #[test]
    fn zero_and_negative_are_no_limit() {
        for none in [0, -1] {
            let resources = json!({
                "memory": {"limit": none}, "pids": {"limit": none}, "cpu": {"quota": none, "shares": 0, "period": 0},
            });
            check(resources, None, Limits::default());
        }
        let resources = json!({
            "pids": {"limit": 7}, "cpu": {"quota": 50_000, "shares": 512, "period": 100_000},
        });
        let wanted = Limits {
            cpu: Cpu { shares: Some(512), quota_us: Some(50_000), period_us: Some(100_000) },
            pids: Some(7),
            ..Limits::default()
        };
        check(resources, None, wanted);
    }

    #[test]
    fn cpu_sets_are_warned_about() {
        let linux = json!({"resources": {"cpu": {"cpus": "0-1", "mems": ""}}});
        let mut warnings = Vec::new();
        lower(&serde_json::from_value(linux).unwrap(), None, &mut warnings);
        let wanted = "linux.resources.cpu.cpus = 0-1 is not applied: cpu sets are not built yet";
        assert_eq!(warnings, [wanted]);
    }
}
