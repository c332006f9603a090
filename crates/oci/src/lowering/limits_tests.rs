//! Resources in, limits out.

use super::*;
use serde_json::json;

fn lowered(resources: &serde_json::Value) -> (Result<Limits, Error>, Vec<String>) {
    let parsed: Option<LinuxResources> = serde_json::from_value(resources.clone()).unwrap();
    let mut warnings = Vec::new();
    (lower(parsed.as_ref(), None, &mut warnings), warnings)
}

fn check(resources: serde_json::Value, wanted: Limits) {
    assert_eq!(lowered(&resources), (Ok(wanted), Vec::new()), "{resources}");
}

fn refused(resources: serde_json::Value, wanted: Error) {
    assert_eq!(lowered(&resources).0, Err(wanted), "{resources}");
}

#[test]
fn zero_is_absent_and_minus_one_unlimited() {
    check(json!(null), Limits::default());
    check(json!({}), Limits::default());
    let all = |number: i64| {
        json!({
            "memory": {"limit": number, "swap": number, "reservation": number.max(0)},
            "pids": {"limit": number},
            "cpu": {"quota": number, "shares": 0, "period": 0, "cpus": "", "mems": ""},
        })
    };
    check(all(0), Limits::default());
    let unlimited = Some(Bound::Unlimited);
    let wanted = Limits {
        memory: Memory { limit: unlimited, with_swap: unlimited, reservation: None },
        cpu: Cpu { quota_us: unlimited, ..Cpu::default() },
        pids: unlimited,
        ..Limits::default()
    };
    check(all(-1), wanted);
}

#[test]
fn every_limit_has_its_place() {
    let resources = json!({
        "memory": {"limit": 100, "swap": 150, "reservation": 50},
        "pids": {"limit": 7},
        "cpu": {"quota": 50_000, "shares": 512, "period": 100_000, "cpus": "0-1,3", "mems": "0"},
        "blockIO": {
            "weight": 100,
            "throttleReadBpsDevice": [{"major": 8, "minor": 1, "rate": 10}],
            "throttleWriteIOPSDevice": [{"major": 8, "minor": 2, "rate": 20}],
        },
        "hugepageLimits": [{"pageSize": "2MB", "limit": 4_194_304}],
        "unified": {"memory.high": "64M"},
        // What CRI sends and binds nothing of a guest.
        "devices": [{"allow": false, "access": "rwm"}],
    });
    let throttle = |minor, kind, rate| Throttle { major: 8, minor, kind, rate };
    let wanted = Limits {
        memory: Memory { limit: Some(Bound::At(100)), with_swap: Some(Bound::At(150)), reservation: Some(50) },
        cpu: Cpu {
            shares: Some(512),
            quota_us: Some(Bound::At(50_000)),
            period_us: Some(100_000),
            cpus: Some("0-1,3".into()),
            mems: Some("0".into()),
        },
        timeout: None,
        fuel: None,
        pids: Some(Bound::At(7)),
        io: Io {
            weight: Some(100),
            throttles: vec![throttle(1, ThrottleKind::ReadBytes, 10), throttle(2, ThrottleKind::WriteOperations, 20)],
        },
        hugepages: [("2MB".to_owned(), 4 << 20)].into(),
        unified: [("memory.high".to_owned(), "64M".to_owned())].into(),
        guest_memory_bytes: None,
    };
    check(resources, wanted);
}

#[test]
fn what_cannot_be_is_refused() {
    let set = Error::Set { field: "cpus", value: "0;1".into() };
    refused(json!({"cpu": {"cpus": "0;1"}}), set);
    refused(json!({"memory": {"limit": 100, "swap": 99}}), Error::Swap { swap: 99, limit: 100 });
    refused(json!({"blockIO": {"weight": 1001}}), Error::Weight(1001));
    let device = json!({"blockIO": {"throttleReadBpsDevice": [{"major": -1, "minor": 0, "rate": 1}]}});
    refused(device, Error::Device { major: -1, minor: 0 });
    for size in ["", "MB", "2mb", "../2MB"] {
        refused(json!({"hugepageLimits": [{"pageSize": size, "limit": 0}]}), Error::PageSize(size.into()));
    }
    for name in ["../../memory.max", "", "memory", "cgroup.procs", ".x", "a b.c"] {
        refused(json!({"unified": {name: "1"}}), Error::Unified(name.into()));
    }
}

#[test]
fn what_is_not_applied_is_warned_about() {
    let resources = json!({"memory": {"swappiness": 0}, "cpu": {"burst": 5}, "blockIO": {"leafWeight": 10}});
    let (limits, warnings) = lowered(&resources);
    assert_eq!(limits, Ok(Limits::default()));
    let fields = ["memory.swappiness", "cpu.burst", "blockIO.leafWeight"];
    assert_eq!(warnings, fields.map(|field| format!("linux.resources.{field} is not applied")));
}
