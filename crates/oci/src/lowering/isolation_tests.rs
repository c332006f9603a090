//! The isolation's rows of the lowering table.

use super::*;
use crate::bundle;
use plan::{IdMappings, IdRange, UserNamespace};
use serde_json::{Value, json};
use std::collections::BTreeMap;

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
        user_namespace: None,
        sysctls: BTreeMap::new(),
        hostname: None,
        user: User { uid: 0, gid: 0, groups: Vec::new(), umask: None, low_ports: false },
        rlimits: Vec::new(),
        cgroup: CgroupPath::Cgroupfs("/ns/id".to_owned()),
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
        user: User { uid: 1000, gid: 100, groups: vec![5, 6], umask: Some(18), low_ports: false },
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
        Err(
            "the user namespace of linux.namespaces has no path and no mappings: add linux.uidMappings and gidMappings",
        ),
    );
    check_namespaces(
        json!([{"type": "time"}]),
        None,
        Err("time namespaces are not supported: remove it from linux.namespaces"),
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
}

#[test]
fn a_user_namespace_has_mappings_or_a_path() {
    let linux = |namespace: Value, uids: Value, gids: Value| json!({"linux": {"namespaces": [namespace], "uidMappings": uids, "gidMappings": gids}});
    let map = |size| json!([{"containerID": 0, "hostID": 1000, "size": size}]);
    let ranges = |length| vec![IdRange { inside: 0, outside: 1000, length }];
    let ids = |length| IdMappings { uids: ranges(length), gids: ranges(length) };
    let wanted = |path: Option<&str>, ids| Isolation {
        user_namespace: Some(UserNamespace { path: path.map(Into::into), ids }),
        ..plain()
    };
    let made = json!({"type": "user"});
    let joined = json!({"type": "user", "path": "/u"});
    check(json!({}), linux(made.clone(), map(10), map(10)), Ok(wanted(None, ids(10))));
    check(json!({}), linux(joined.clone(), map(10), map(10)), Ok(wanted(Some("/u"), ids(10))));
    check(json!({}), linux(joined, json!([]), json!(null)), Ok(wanted(Some("/u"), IdMappings::default())));
    let user = json!({"user": {"uid": 10, "gid": 0}});
    let outside = "process.user has the uid 10, which linux.uidMappings does not map: map it";
    check(user, linux(made.clone(), map(10), map(10)), Err(outside));
    let half = "the spec maps user ids or group ids, and not both: map both";
    check(json!({}), linux(made, map(10), json!([])), Err(half));
    let none = "linux.uidMappings or gidMappings without a user namespace: add one to linux.namespaces";
    check(json!({}), linux(json!({"type": "uts"}), map(10), map(10)), Err(none));
    let many: Vec<Value> = (0..341).map(|id| json!({"containerID": id, "hostID": id, "size": 1})).collect();
    let too_many = "the spec maps ids in more than 340 ranges: use fewer";
    check(json!({}), linux(json!({"type": "user"}), json!(many), map(10)), Err(too_many));
}

#[test]
fn parameters_of_the_kernel_belong_to_a_namespace() {
    let linux = |kinds: &[&str], name: &str| {
        let namespaces: Vec<Value> = kinds.iter().map(|kind| json!({"type": kind})).collect();
        json!({"linux": {"namespaces": namespaces, "sysctl": {name: "1"}}})
    };
    let set = |kinds: &[&str], name: &str| lowered(json!({}), linux(kinds, name)).0.map(|isolation| isolation.sysctls);
    let to = |path: &str| Ok(BTreeMap::from([(path.to_owned(), "1".to_owned())]));
    let wrong = |message: &str| Err(message.to_owned());
    let all = ["network", "ipc", "uts"];
    assert_eq!(set(&all, "net.ipv4.ip_forward"), to("net/ipv4/ip_forward"));
    assert_eq!(set(&all, "net/ipv4/conf/eth0.1/forwarding"), to("net/ipv4/conf/eth0.1/forwarding"));
    assert_eq!(set(&all, "net.ipv4.conf.eth0/1.forwarding"), to("net/ipv4/conf/eth0.1/forwarding"));
    assert_eq!(set(&all, "kernel.shmmax"), to("kernel/shmmax"));
    assert_eq!(set(&all, "fs.mqueue.msg_max"), to("fs/mqueue/msg_max"));
    assert_eq!(set(&all, "kernel.domainname"), to("kernel/domainname"));
    let node = "sysctl vm.swappiness is the node's, not the container's: set it on the node";
    assert_eq!(set(&all, "vm.swappiness"), wrong(node));
    let none = "sysctl net.core.somaxconn needs a Network namespace, and linux.namespaces has none: add one";
    assert_eq!(set(&["ipc"], "net.core.somaxconn"), wrong(none));
    assert_eq!(set(&all, "kernel.hostname"), wrong("sysctl kernel.hostname: set hostname in the spec instead"));
    for name in ["net", "net/../vm/swappiness", "net..a", "/net/a", ""] {
        assert!(set(&all, name).unwrap_err().contains("is no parameter of the kernel"), "{name}");
    }
    let domain = |sysctl: &str| json!({"domainname": "nis", "linux": {"namespaces": [{"type": "uts"}], "sysctl": {"kernel.domainname": sysctl}}});
    assert_eq!(lowered(json!({}), domain("nis")).0.unwrap().sysctls["kernel/domainname"], "nis");
    assert!(lowered(json!({}), domain("x")).0.unwrap_err().contains("set it once"));
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
    ];
    for (path, wanted) in cases {
        let (got, _) = lowered(json!({}), json!({"linux": {"cgroupsPath": path}}));
        assert_eq!(got.map(|isolation| isolation.cgroup), wanted.map(CgroupPath::Cgroupfs), "{path:?}");
    }
}

#[test]
fn systemd_names_a_slice_and_a_scope() {
    let unit = |slice: &str, scope: &str| Ok(CgroupPath::Systemd { slice: slice.into(), scope: scope.into() });
    let wrong = |path: &str, part: &str, kind: &str| {
        let form = "use the form slice:prefix:name";
        Err(format!("cgroup {path} names {part}, which is no {kind} of systemd: {form}"))
    };
    let cases = [
        ("kubepods-pod1.slice:cri-containerd:c", unit("kubepods-pod1.slice", "cri-containerd-c.scope")),
        (":ns:c", unit("system.slice", "ns-c.scope")),
        ("-.slice::c", unit("-.slice", "c.scope")),
        ("kubepods:p:c", wrong("kubepods:p:c", "kubepods", "slice")),
        ("a--b.slice:p:c", wrong("a--b.slice:p:c", "a--b.slice", "slice")),
        ("a.slice:p:", wrong("a.slice:p:", "p-.scope", "scope")),
        ("a.slice:p:x y", wrong("a.slice:p:x y", "p-x y.scope", "scope")),
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
