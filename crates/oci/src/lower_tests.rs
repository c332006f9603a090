//! The whole edge: a bundle on disk in, a plan or one line out.

use super::*;
use plan::{
    CacheSettings, CgroupPath, Hook, Hooks, Http, Invocation, Isolation, Limits, NetworkAccess, Numbering, Origin,
    RootAccess, Source, User,
};
use prost::Message;
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// A bundle with `/app.wasm` in its root filesystem and an operator file beside it.
struct Bundle {
    dir: tempfile::TempDir,
    spec: Value,
}

/// `runtimeoptions.v1.Options`, as far as it is needed here.
#[derive(Clone, PartialEq, Message)]
struct Options {
    #[prost(string, tag = "2")]
    config_path: String,
}

impl Bundle {
    fn new(operator: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("rootfs")).unwrap();
        std::fs::write(dir.path().join("rootfs/app.wasm"), b"\0asm\x01\0\0\0").unwrap();
        std::fs::write(dir.path().join("operator.toml"), operator).unwrap();
        let spec = json!({
            "ociVersion": "1.1.0",
            "root": {"path": "rootfs"},
            "process": {"cwd": "/", "user": {"uid": 0, "gid": 0}, "args": ["app.wasm", "x"]},
            "linux": {},
        });
        Bundle { dir, spec }
    }

    fn lower(&self) -> Result<Own, String> {
        self.lower_any().map(|lowered| match lowered {
            Lowered::Own(own) => *own,
            Lowered::Linux(plan) => panic!("runc would run {plan:?}"),
        })
    }

    fn lower_any(&self) -> Result<Lowered, String> {
        let path = self.dir.path();
        std::fs::write(path.join("config.json"), self.spec.to_string()).unwrap();
        let containerd = Containerd { address: path.join("containerd.sock"), namespace: "ns".to_owned() };
        let options = Options { config_path: path.join("operator.toml").display().to_string() };
        let options =
            RuntimeOptions { type_url: "runtimeoptions.v1.Options".to_owned(), value: options.encode_to_vec() };
        let request = Request {
            id: "id",
            bundle: path,
            rootfs: &path.join("rootfs"),
            rootfs_mounts: &[],
            options: Some(&options),
            containerd: &containerd,
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(lower(request)).map_err(|error| chain(&error))
    }
}

#[test]
fn plain_bundle_becomes_a_plan() {
    let lowered = Bundle::new("[cache]\ndir = '/c'").lower().unwrap();
    let wanted = RunPlan {
        id: "id".to_owned(),
        program: Program::Wasm(Source {
            origin: Origin::File { path: "/app.wasm".into(), identity: None },
            export: None,
        }),
        invocation: Invocation {
            args: vec!["app.wasm".to_owned(), "x".to_owned()],
            env: Vec::new(),
            cwd: "/".to_owned(),
        },
        terminal: false,
        root: RootAccess::ReadWrite,
        mounts: Vec::new(),
        limits: Limits::default(),
        isolation: Isolation {
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
        },
        network: NetworkAccess::Any,
        http: Http::default(),
        hooks: Hooks::default(),
        termination_file: None,
    };
    assert_eq!(lowered.plan, wanted);
    let guest = lowered.guest.expect("a container runs wasm");
    assert_eq!(guest.cache.dir, Path::new("/c"));
    assert!(lowered.warnings.is_empty(), "{:?}", lowered.warnings);
    let CacheSettings { size_bytes, .. } = guest.cache;
    assert_eq!(size_bytes, 2 << 30);
}

fn check_root(operator: &str, readonly: bool, asked: Option<&str>, wanted: Result<RootAccess, &str>) {
    let mut bundle = Bundle::new(operator);
    bundle.spec["root"]["readonly"] = json!(readonly);
    if let Some(asked) = asked {
        bundle.spec["annotations"] = json!({"io.containerd.wasm.v1/rootfs": asked});
    }
    let got = bundle.lower().map(|lowered| lowered.plan.root);
    let case = format!("{operator:?} {readonly} {asked:?}");
    assert_eq!(got, wanted.map_err(str::to_owned), "{case}");
}

#[test]
fn root_access_is_narrowed_and_never_widened() {
    use RootAccess::{Hidden, ReadOnly, ReadWrite};
    check_root("", false, None, Ok(ReadWrite));
    check_root("", true, None, Ok(ReadOnly));
    check_root("", false, Some("ro"), Ok(ReadOnly));
    check_root("", true, Some("none"), Ok(Hidden));
    check_root(
        "",
        true,
        Some("rw"),
        Err(
            "annotation rootfs = rw, but the root filesystem is read-only in the spec: remove the annotation or readOnlyRootFilesystem",
        ),
    );
    let default_ro = "[defaults]\nrootfs = 'ro'";
    check_root(default_ro, false, None, Ok(ReadOnly));
    check_root(default_ro, false, Some("rw"), Ok(ReadWrite));
    check_root("[defaults]\nrootfs = 'rw'", true, None, Ok(ReadOnly));
    let max_ro = "[maxima]\nrootfs = 'ro'";
    check_root(max_ro, false, None, Ok(ReadOnly));
    check_root(max_ro, true, Some("ro"), Ok(ReadOnly));
    check_root(
        max_ro,
        false,
        Some("rw"),
        Err(
            "annotation io.containerd.wasm.v1/rootfs: rootfs = rw is above the maximum ro: ask for less, or raise it in [maxima]",
        ),
    );
}

fn check_memory(operator: &str, asked: Option<&str>, wanted: Option<u64>) {
    let mut bundle = Bundle::new(operator);
    if let Some(asked) = asked {
        bundle.spec["annotations"] = json!({"io.containerd.wasm.v1/limits.memory": asked});
    }
    let got = bundle.lower().unwrap().plan.limits.guest_memory_bytes;
    assert_eq!(got, wanted, "{operator:?} {asked:?}");
}

#[test]
fn memory_limit_is_asked_or_defaulted_or_the_maximum() {
    check_memory("", None, None);
    check_memory("", Some("3"), Some(3));
    check_memory("[defaults]\nlimits.memory = 2", None, Some(2));
    check_memory("[defaults]\nlimits.memory = 2", Some("3"), Some(3));
    check_memory("[maxima]\nlimits.memory = 4", None, Some(4));
    check_memory("[maxima]\nlimits.memory = 4", Some("3"), Some(3));
}

#[test]
fn terminals_are_told_and_roots_elsewhere_refused() {
    let mut bundle = Bundle::new("");
    bundle.spec["process"]["terminal"] = json!(true);
    bundle.spec["annotations"] = json!({"io.kubernetes.cri.container-type": "container"});
    assert!(bundle.lower().unwrap().plan.terminal);
    bundle.spec["root"]["path"] = json!("/elsewhere");
    let wanted = "root filesystem /elsewhere outside of the bundle is not built yet: run the container from an image";
    assert_eq!(bundle.lower().unwrap_err(), wanted);
}

#[test]
fn hooks_are_taken_in_the_order_of_the_spec() {
    let mut bundle = Bundle::new("");
    let hook = |path: &str| json!([{"path": path, "args": ["own", "x"], "env": ["A=b"], "timeout": 3}]);
    bundle.spec["annotations"] = json!({"k": "v"});
    bundle.spec["hooks"] =
        json!({"createRuntime": hook("/b"), "prestart": hook("/a"), "poststop": [{"path": "/c"}], "poststart": null});
    let hooks = bundle.lower().unwrap().plan.hooks;
    let wanted = |kind: &str, path: &str| Hook {
        kind: kind.to_owned(),
        path: path.into(),
        args: vec!["own".to_owned(), "x".to_owned()],
        env: vec!["A=b".to_owned()],
        timeout_s: Some(3),
    };
    assert_eq!(hooks.create_runtime, [wanted("prestart", "/a"), wanted("createRuntime", "/b")]);
    let bare = Hook { args: vec!["/c".to_owned()], env: Vec::new(), timeout_s: None, ..wanted("poststop", "/c") };
    assert_eq!(hooks.poststop, [bare]);
    assert_eq!((hooks.told.version.as_str(), hooks.told.annotations["k"].as_str()), ("1.1.0", "v"));
    let refused = [
        (
            json!([{"path": "c"}]),
            "hooks.poststop names \"c\", which is no absolute path: name the program by its whole path",
        ),
        (
            json!([{"path": "/c", "timeout": 0}]),
            "hooks.poststop gives /c 0 s: use at least 1, or leave the timeout out",
        ),
        (json!([{"path": "/c", "args": ["a\0"]}]), "hooks.poststop has a null byte in what it gives \"/c\": remove it"),
    ];
    for (list, message) in refused {
        bundle.spec["hooks"] = json!({ "poststop": list });
        assert_eq!(bundle.lower().unwrap_err(), message);
    }
}

#[test]
fn sandbox_of_a_pod_needs_no_wasm_and_has_no_mounts() {
    let mut bundle = Bundle::new("");
    bundle.spec["annotations"] = json!({"io.kubernetes.cri.container-type": "sandbox"});
    bundle.spec["process"]["args"] = json!(["/pause"]);
    let lowered = bundle.lower().unwrap();
    assert_eq!(lowered.plan.program, Program::Pause);
    assert!(lowered.guest.is_none() && lowered.plan.mounts.is_empty(), "{lowered:?}");
}

#[test]
fn linux_programs_are_left_to_runc() {
    let mut bundle = Bundle::new("not even read");
    for (name, first_bytes) in [("tool", b"\x7fELF\x02\x01\x01\0".as_slice()), ("script", b"#!/bin/sh\n")] {
        std::fs::write(bundle.dir.path().join("rootfs").join(name), first_bytes).unwrap();
        bundle.spec["process"]["args"] = json!([format!("/{name}")]);
        bundle.spec["process"]["terminal"] = json!(true);
        bundle.spec["annotations"] = json!({"io.containerd.wasm.v1/no-such": "key"});
        bundle.spec["linux"] = json!({"resources": {"memory": {"limit": 5}}, "namespaces": [{"type": "pid"}]});
        let Ok(Lowered::Linux(plan)) = bundle.lower_any() else { panic!("{name} is not runc's") };
        let wanted = LinuxPlan {
            id: "id".to_owned(),
            runtime: "runc".into(),
            cgroup: CgroupPath::Cgroupfs("/ns/id".to_owned()),
            memory_limit_bytes: Some(5),
            numbering: Numbering::Own,
        };
        assert_eq!(plan, wanted);
    }
    bundle.spec["linux"]["namespaces"] = json!([{"type": "pid", "path": "/proc/7/ns/pid"}]);
    let Ok(Lowered::Linux(plan)) = bundle.lower_any() else { panic!("it is not runc's") };
    assert_eq!(plan.numbering, Numbering::Shared);
}
