//! The isolation's rows of the lowering table.

use super::*;
use crate::bundle;
use serde_json::{Value, json};

/// Lowers a spec with `process` and `linux` merged over a plain one.
fn lowered(process: Value, rest: Value) -> (Result<Isolation, String>, Vec<String>) {
    let mut spec = json!({"process": {"cwd": "/", "user": {"uid": 0, "gid": 0}}, "linux": {}});
    for (key, value) in process.as_object().unwrap() {
        spec["process"][key] = value.clone();
    }
    for (key, value) in rest.as_object().unwrap() {
        spec[key] = value.clone();
    }
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("config.json"), spec.to_string()).unwrap();
    let mut warnings = Vec::new();
    let bundle = bundle::load(dir.path()).unwrap();
    let isolation = lower(&bundle, "ns", "id", &mut warnings);
    (isolation.map_err(|error| error.to_string()), warnings)
}

fn check(process: Value, rest: Value, wanted: Result<Isolation, &str>) {
    let (got, _) = lowered(process.clone(), rest.clone());
    assert_eq!(got, wanted.map_err(str::to_owned), "{process} {rest}");
}

fn plain() -> Isolation {
    Isolation {
        namespaces: Vec::new(),
        hostname: None,
        user: User { uid: 0, gid: 0, groups: Vec::new(), umask: None },
        rlimits: Vec::new(),
        cgroup: "/ns/id".to_owned(),
        oom_score_adj: None,
        seccomp: None,
        apparmor: None,
    }
}

#[test]
fn user_limits_and_score_are_taken() {
    check(json!({}), json!({}), Ok(plain()));
    let process = json!({
        "user": {"uid": 1000, "gid": 100, "additionalGids": [5, 6], "umask": 18},
        "rlimits": [{"type": "RLIMIT_NOFILE", "soft": 10, "hard": 20}],
        "oomScoreAdj": -997,
        "capabilities": {"bounding": ["CAP_CHOWN"]},
        "noNewPrivileges": true,
    });
    let wanted = Isolation {
        user: User { uid: 1000, gid: 100, groups: vec![5, 6], umask: Some(18) },
        rlimits: vec![Rlimit { resource: "RLIMIT_NOFILE".to_owned(), soft: 10, hard: 20 }],
        oom_score_adj: Some(-997),
        ..plain()
    };
    check(process, json!({}), Ok(wanted));
    check(json!({"oomScoreAdj": 1001}), json!({}), Err("oom score adjustment 1001 is out of range: use -1000 to 1000"));
    check(
        json!({"rlimits": [{"type": "RLIMIT_CORE", "soft": 2, "hard": 1}]}),
        json!({}),
        Err("RLIMIT_CORE has the soft limit 2 above the hard limit 1: lower the soft one"),
    );
}

#[test]
fn apparmor_profile_is_named_or_none() {
    for (name, wanted) in
        [("cri-containerd.apparmor.d", Some("cri-containerd.apparmor.d")), ("unconfined", None), ("", None)]
    {
        let wanted = Isolation { apparmor: wanted.map(str::to_owned), ..plain() };
        check(json!({ "apparmorProfile": name }), json!({}), Ok(wanted));
    }
    check(
        json!({"apparmorProfile": "a\nb"}),
        json!({}),
        Err("apparmor profile \"a\\nb\" has a control character: use the name that aa-status shows"),
    );
}

fn check_namespaces(listed: Value, hostname: Option<&str>, wanted: Result<Isolation, &str>) {
    let rest = json!({"linux": {"namespaces": listed}, "hostname": hostname});
    check(json!({}), rest, wanted);
}

#[test]
fn namespaces_are_made_or_joined() {
    let made = |kind| Namespace { kind, path: None };
    let uts = json!([{"type": "mount"}, {"type": "uts", "path": ""}]);
    let wanted = |hostname: Option<&str>| Isolation {
        namespaces: vec![made(NamespaceKind::Mount), made(NamespaceKind::Uts)],
        hostname: hostname.map(str::to_owned),
        ..plain()
    };
    check_namespaces(uts.clone(), None, Ok(wanted(None)));
    check_namespaces(uts.clone(), Some(""), Ok(wanted(None)));
    check_namespaces(uts, Some("box"), Ok(wanted(Some("box"))));
    let joined = json!([{"type": "network", "path": "/proc/7/ns/net"}, {"type": "uts", "path": "/u"}]);
    let join = |kind, path: &str| Namespace { kind, path: Some(path.into()) };
    let wanted = Isolation {
        namespaces: vec![join(NamespaceKind::Network, "/proc/7/ns/net"), join(NamespaceKind::Uts, "/u")],
        ..plain()
    };
    check_namespaces(joined, Some("pod"), Ok(wanted));
}

#[test]
fn impossible_namespaces_are_refused_by_name() {
    check_namespaces(
        json!([{"type": "user"}]),
        None,
        Err("user namespaces are not built yet: remove it from linux.namespaces"),
    );
    check_namespaces(
        json!([{"type": "time"}]),
        None,
        Err("time namespaces are not built yet: remove it from linux.namespaces"),
    );
    check_namespaces(
        json!([{"type": "pid"}, {"type": "pid", "path": "/p"}]),
        None,
        Err("linux.namespaces lists Pid twice: list it once"),
    );
    check_namespaces(
        json!([{"type": "mount", "path": "/m"}]),
        None,
        Err("joining the mount namespace /m is not supported: leave out its path"),
    );
    check_namespaces(json!([]), Some("box"), Err("host name box, but linux.namespaces has no uts namespace: add one"));
    check(
        json!({}),
        json!({"domainname": "nis"}),
        Err("domain name nis is not built yet: remove domainname from the spec"),
    );
}

#[test]
fn cgroup_path_stays_below_the_hierarchy() {
    let none = |path: &str| {
        let form = "names no cgroup: use a path such as /namespace/id";
        Err(format!("cgroup path {path:?} {form}"))
    };
    let cases = [
        ("/kubepods/burstable/pod1/c", Ok("/kubepods/burstable/pod1/c".to_owned())),
        ("relative/c", Ok("/relative/c".to_owned())),
        ("/a/../../../b", Ok("/b".to_owned())),
        ("/a:b:c/d", Ok("/a:b:c/d".to_owned())),
        ("", Ok("/ns/id".to_owned())),
        ("/", none("/")),
        ("/a/..", none("/a/..")),
        (
            "kubepods-pod1.slice:cri-containerd:c",
            Err(
                "cgroup kubepods-pod1.slice:cri-containerd:c is of the form of systemd: systemd cgroups are not built yet, use the cgroupfs driver"
                    .to_owned(),
            ),
        ),
    ];
    for (path, wanted) in cases {
        let (got, _) = lowered(json!({}), json!({"linux": {"cgroupsPath": path}}));
        assert_eq!(got.map(|isolation| isolation.cgroup), wanted, "{path:?}");
    }
}

#[test]
fn devices_are_warned_about() {
    let device = json!({"path": "/dev/fuse", "type": "c", "major": 10, "minor": 229});
    let (_, warnings) = lowered(json!({}), json!({"linux": {"devices": [device]}}));
    let wanted = "linux.devices: 1 devices are not made, a guest has no access to devices";
    assert_eq!(warnings, [wanted]);
}
