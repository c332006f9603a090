//! Any `config.json` becomes a plan that holds what a plan promises, or one line; and nothing of it stays behind.

use super::*;
use plan::{MountSource, RootAccess};
use serde_json::Value;
use std::collections::HashSet;
use std::path::Component;
use testkit::fuzz::{Form, Fuzz, Tree, assert_told, scratch};

/// A bundle in whose root filesystem there are files to be found.
struct Stage {
    dir: tempfile::TempDir,
    runtime: tokio::runtime::Runtime,
}

impl Stage {
    fn new() -> Self {
        let dir = scratch();
        let root = dir.path().join("rootfs");
        std::fs::create_dir_all(root.join("usr/bin")).unwrap();
        std::fs::write(root.join("app.wasm"), b"\0asm\x01\0\0\0").unwrap();
        std::fs::write(root.join("usr/bin/tool"), b"\0asm\x0d\0\x01\0").unwrap();
        std::fs::write(root.join("usr/bin/sh"), b"\x7fELF\x02\x01\x01\0").unwrap();
        std::os::unix::fs::symlink("../../../../../etc", root.join("up")).unwrap();
        std::os::unix::fs::symlink("loop", root.join("loop")).unwrap();
        std::fs::write(dir.path().join("config.json"), "").unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        Stage { dir, runtime }
    }

    fn lower(&self, config: &[u8]) -> Result<Lowered, String> {
        let path = self.dir.path();
        std::fs::write(path.join("config.json"), config).unwrap();
        let before = Tree::of(path);
        let group = group_of(path, "id");
        // The socket is not there: what needs the image is refused by name.
        let containerd = Containerd { address: path.join("containerd.sock"), namespace: "ns".to_owned() };
        let request = Request {
            id: "id",
            bundle: path,
            rootfs: &path.join("rootfs"),
            rootfs_mounts: &[],
            options: None,
            containerd: &containerd,
        };
        let lowered = self.runtime.block_on(lower(request)).map_err(|error| plan::one_line(&error));
        if lowered.is_ok() {
            assert!(group.is_ok(), "{group:?}");
        }
        if let Err(error) = group {
            assert_told(&plan::one_line(&error));
        }
        let lowered = lowered.map(|mut lowered| {
            // Its file is closed before the tree is looked at.
            if let Lowered::Own(own) = &mut lowered
                && let Some(guest) = &mut own.guest
            {
                guest.wasm = Wasm::file(std::fs::File::open("/dev/null").unwrap());
            }
            lowered
        });
        assert_eq!(before, Tree::of(path), "lowering left something");
        lowered
    }
}

fn is_clean(path: &Path) -> bool {
    let mut components = path.components();
    components.next() == Some(Component::RootDir) && components.all(|one| matches!(one, Component::Normal(_)))
}

fn has_null(path: &Path) -> bool {
    path.as_os_str().as_encoded_bytes().contains(&0)
}

fn check_mount(mount: &plan::Mount) {
    let destination = &mount.destination;
    assert!(is_clean(destination) && destination != Path::new("/"), "{mount:?}");
    assert!(!destination.starts_with("/proc") && !destination.starts_with("/sys"), "{mount:?}");
    assert!(!has_null(destination), "{mount:?}");
    match &mount.source {
        MountSource::Bind { path, .. } => assert!(path.is_absolute() && !has_null(path), "{mount:?}"),
        MountSource::Tmpfs { data } => {
            let known = ["mode=", "size=", "uid=", "gid=", "nr_inodes=", "nr_blocks="];
            let mut options = data.split(',').filter(|_| !data.is_empty());
            assert!(options.all(|option| known.iter().any(|known| option.starts_with(known))), "{mount:?}");
            assert!(!data.contains('\0'), "{mount:?}");
        }
    }
}

fn check_isolation(isolation: &plan::Isolation) {
    let cgroup = isolation.cgroup.path();
    assert!(is_clean(Path::new(&cgroup)) && cgroup != "/" && !cgroup.contains('\0'), "{isolation:?}");
    for name in isolation.sysctls.keys() {
        // Joined to `/proc/sys`, it must stay below.
        assert!(is_clean(&Path::new("/").join(name)) && !name.starts_with('/'), "{isolation:?}");
    }
    if let Some(users) = &isolation.user_namespace {
        assert!(users.path.is_some() || !users.ids.is_empty(), "{isolation:?}");
        assert!(!users.path.as_deref().is_some_and(has_null), "{isolation:?}");
    }
    let kinds: HashSet<_> = isolation.namespaces.iter().map(|one| one.kind).collect();
    assert_eq!(kinds.len(), isolation.namespaces.len(), "{isolation:?}");
    for namespace in &isolation.namespaces {
        assert!(!namespace.path.as_deref().is_some_and(has_null), "{isolation:?}");
    }
    assert!(!isolation.hostname.as_deref().is_some_and(|name| name.contains('\0')), "{isolation:?}");
    assert!(isolation.rlimits.iter().all(|limit| limit.soft <= limit.hard), "{isolation:?}");
    assert!(isolation.oom_score_adj.is_none_or(|score| (-1000..=1000).contains(&score)), "{isolation:?}");
}

fn check_linux(plan: &LinuxPlan) {
    let cgroup = plan.cgroup.path();
    assert!(is_clean(Path::new(&cgroup)) && cgroup != "/" && !cgroup.contains('\0'), "{plan:?}");
}

fn check_plan(spec: &Value, lowered: &Own) {
    let plan = &lowered.plan;
    let text = serde_json::to_string(plan).expect("a plan is plain data");
    let again: RunPlan = serde_json::from_str(&text).expect("what was written is read");
    assert_eq!(again, *plan);
    plan.mounts.iter().for_each(check_mount);
    check_isolation(&plan.isolation);
    let invocation = &plan.invocation;
    assert!(invocation.cwd.starts_with('/'), "{invocation:?}");
    assert!(!invocation.args.iter().any(|argument| argument.contains('\0')), "{invocation:?}");
    let good =
        |(name, value): &(String, String)| !name.is_empty() && !name.contains(['=', '\0']) && !value.contains('\0');
    assert!(invocation.env.iter().all(good), "{invocation:?}");
    let origin = match &plan.program {
        plan::Program::Wasm(source) => Some(&source.origin),
        plan::Program::Pause => None,
    };
    assert_eq!(origin.is_some(), lowered.guest.is_some());
    match origin {
        Some(plan::Origin::File { path, .. }) => {
            assert!([Path::new("/app.wasm"), Path::new("/usr/bin/tool")].contains(&path.as_path()), "{path:?}");
        }
        Some(plan::Origin::Layer { .. }) => panic!("no containerd, and a layer"),
        None => assert!(plan.mounts.is_empty(), "{:?}", plan.mounts),
    }
    if spec["root"]["readonly"] == true {
        assert_ne!(plan.root, RootAccess::ReadWrite);
    }
    if let Some(limit) = plan.limits.memory.limit_bytes() {
        assert!(plan.limits.guest_bytes(Some(limit)).is_some_and(|bytes| bytes < limit), "{:?}", plan.limits);
    }
    // Joined to the cgroup's directory, each names a file in it.
    assert!(
        plan.limits.unified.keys().all(|name| !name.contains(['/', '\0']) && name.contains('.')),
        "{:?}",
        plan.limits
    );
    let hooks =
        [&plan.hooks.create_runtime, &plan.hooks.create_container, &plan.hooks.start_container, &plan.hooks.poststop];
    assert!(
        hooks.into_iter().flatten().all(|hook| hook.path.is_absolute() && !has_null(&hook.path)),
        "{:?}",
        plan.hooks
    );
    if let Some(file) = &plan.termination_file {
        let bound = |mount: &plan::Mount| matches!(&mount.source, MountSource::Bind { path, .. } if path == file);
        assert!(plan.mounts.iter().any(bound), "{file:?}");
    }
    lowered.warnings.iter().for_each(|warning| assert_told(warning));
}

#[test]
fn any_config_is_planned_or_refused_in_one_line() {
    let stage = Stage::new();
    let fuzz = Fuzz::new(env!("CARGO_PKG_NAME"), "config", Form::Json, 1500);
    fuzz.run(|config| match (stage.lower(config), stage.lower(config)) {
        (Ok(Lowered::Linux(plan)), Ok(Lowered::Linux(again))) => {
            assert_eq!(plan, again);
            check_linux(&plan);
        }
        (Ok(Lowered::Own(lowered)), Ok(Lowered::Own(again))) => {
            assert_eq!(lowered.plan, again.plan);
            // What is no part of a spec may be nested deeper than a value can be.
            check_plan(&serde_json::from_slice(config).unwrap_or_default(), &lowered);
        }
        (Err(line), Err(again)) => {
            assert_eq!(line, again);
            assert_told(&line);
        }
        (one, other) => panic!("planned once, and refused once: {one:?} {other:?}"),
    });
}
