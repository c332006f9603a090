//! The mounts' rows of the lowering table.

use super::*;
use plan::{IdMappings, IdRange};
use serde_json::{Value, json};

fn check(mount: Value, wanted: Result<Option<Mount>, &str>) -> Vec<String> {
    check_in(None, mount, wanted)
}

fn check_in(user_namespace: Option<&UserNamespace>, mount: Value, wanted: Result<Option<Mount>, &str>) -> Vec<String> {
    let spec_mount: SpecMount = serde_json::from_value(mount.clone()).unwrap();
    let mut warnings = Vec::new();
    let got = lower_one(Path::new("/bundle"), &spec_mount, user_namespace, &mut warnings);
    let got = got.map_err(|error| error.to_string());
    assert_eq!(got, wanted.map_err(str::to_owned), "{mount}");
    warnings
}

fn bind(destination: &str, options: &[&str]) -> Value {
    json!({"destination": destination, "type": "bind", "source": "/src", "options": options})
}

fn bound(destination: &str, recursive: bool, flags: MountFlags) -> Result<Option<Mount>, &str> {
    Ok(Some(Mount {
        destination: destination.into(),
        source: MountSource::Bind { path: "/src".into(), recursive },
        flags,
        ids: None,
    }))
}

#[test]
fn bind_mounts_keep_their_flags() {
    let none = MountFlags::default();
    check(bind("/data", &[]), bound("/data", false, none));
    check(bind("/data", &["rbind", "rprivate", "rw"]), bound("/data", true, none));
    check(bind("/a/../../b/./c/", &["rbind"]), bound("/b/c", true, none));
    check(bind("data", &["bind"]), bound("/data", false, none));
    let all = MountFlags { read_only: true, noexec: true, noatime: true };
    let options = ["rbind", "ro", "nosuid", "nodev", "noexec", "noatime", "rprivate"];
    check(bind("/data", &options), bound("/data", true, all));
    check(bind("/data", &["ro", "rw", "noatime", "relatime"]), bound("/data", false, none));
    let by_option = json!({"destination": "/d", "type": "none", "source": "/src", "options": ["rbind"]});
    check(by_option, bound("/d", true, none));
    check(bind("/dev/shm", &["rbind"]), bound("/dev/shm", true, none));
    let relative = json!({"destination": "/d", "type": "bind", "source": "files/x"});
    let wanted = Mount {
        destination: "/d".into(),
        source: MountSource::Bind { path: "/bundle/files/x".into(), recursive: false },
        flags: none,
        ids: None,
    };
    check(relative, Ok(Some(wanted)));
}

#[test]
fn tmpfs_keeps_its_own_options() {
    let mount = |destination: &str, options: &[&str]| json!({"destination": destination, "type": "tmpfs", "source": "tmpfs", "options": options});
    let options = ["nosuid", "strictatime", "mode=755", "size=65536k"];
    let wanted = Mount {
        destination: "/run".into(),
        source: MountSource::Tmpfs { data: "mode=755,size=65536k".to_owned() },
        flags: MountFlags::default(),
        ids: None,
    };
    check(mount("/run", &options), Ok(Some(wanted)));
    check(mount("/dev", &["mode=755"]), Ok(None));
    for option in ["copyup", "size=1k,suid", "huge=always"] {
        let message = format!("unknown option {option} of the mount at /t: remove it");
        check(mount("/t", &[option]), Err(&message));
    }
}

#[test]
fn kernel_filesystems_are_not_made() {
    let made = [
        ("proc", "/proc"),
        ("sysfs", "/sys"),
        ("devpts", "/dev/pts"),
        ("mqueue", "/dev/mqueue"),
        ("cgroup", "/sys/fs/cgroup"),
        ("cgroup2", "/sys/fs/cgroup"),
    ];
    for (kind, destination) in made {
        let mount = json!({"destination": destination, "type": kind, "source": kind, "options": ["x"]});
        assert!(check(mount, Ok(None)).is_empty(), "{kind}");
    }
    for destination in ["/proc", "/proc/kcore", "/sys/fs/cgroup", "/x/../sys"] {
        let warnings = check(bind(destination, &["rbind"]), Ok(None));
        assert_eq!(warnings.len(), 1, "{destination}: {warnings:?}");
    }
    check(bind("/process", &[]), bound("/process", false, MountFlags::default()));
}

#[test]
fn propagation_is_warned_about() {
    let warnings = check(bind("/data", &["rbind", "rshared"]), bound("/data", true, MountFlags::default()));
    let wanted = "mount at /data is private, not rshared: mounts that the node makes below it later do not appear";
    assert_eq!(warnings, [wanted]);
}

#[test]
fn other_mounts_are_refused_by_name() {
    check(
        json!({"destination": "/n", "type": "nfs", "source": "h:/x"}),
        Err("mount of type nfs at /n is not supported: use bind or tmpfs"),
    );
    check(bind("/n", &["rbind", "mand"]), Err("unknown option mand of the mount at /n: remove it"));
    check(bind("/a/..", &["rbind"]), Err("mount at /a/.. would hide the root filesystem: mount it below"));
    check(
        json!({"destination": "/n", "type": "bind"}),
        Err("bind mount at /n has no source: name a file or directory of the node"),
    );
    check(
        json!({"destination": "/n\0", "type": "bind", "source": "/src"}),
        Err("mount at \"/n\\0\" has a null byte in its paths: remove it"),
    );
}

#[test]
fn owners_are_mapped_where_it_is_asked() {
    let range = |outside| vec![IdRange { inside: 0, outside, length: 10 }];
    let ids = |outside| IdMappings { uids: range(outside), gids: range(outside) };
    let pod = UserNamespace { path: None, ids: ids(1000) };
    let mapped = |outside| {
        let bound = bound("/n", true, MountFlags::default());
        bound.map(|mount| mount.map(|mount| Mount { ids: Some(ids(outside)), ..mount }))
    };
    let mapping = json!([{"containerID": 0, "hostID": 5, "size": 10}]);
    let mut own = bind("/n", &["rbind"]);
    (own["uidMappings"], own["gidMappings"]) = (mapping.clone(), mapping.clone());
    check_in(Some(&pod), own.clone(), mapped(5));
    check_in(None, own.clone(), mapped(5));
    check_in(Some(&pod), bind("/n", &["rbind", "ridmap"]), mapped(1000));
    check_in(Some(&pod), bind("/n", &["rbind"]), bound("/n", true, MountFlags::default()));
    let unknown =
        "mount at /n is to map ids and names no mappings, nor has the container any: add uidMappings and gidMappings";
    check_in(None, bind("/n", &["rbind", "idmap"]), Err(unknown));
    own["gidMappings"] = json!([]);
    check(own, Err("mount at /n maps user ids or group ids, and not both: map both"));
    let mut tmpfs = json!({"destination": "/n", "type": "tmpfs", "source": "tmpfs", "options": ["mode=755", "gid=3"]});
    let wanted = Mount {
        destination: "/n".into(),
        source: MountSource::Tmpfs { data: "mode=755,uid=1000,gid=1003".to_owned() },
        flags: MountFlags::default(),
        ids: None,
    };
    check_in(Some(&pod), tmpfs.clone(), Ok(Some(wanted)));
    (tmpfs["uidMappings"], tmpfs["gidMappings"]) = (mapping.clone(), mapping);
    check(tmpfs, Err("tmpfs at /n maps user ids: use the options uid and gid"));
}

#[test]
fn termination_file_is_the_source_of_its_mount() {
    let mount = |destination: &str, source: &str| Mount {
        destination: destination.into(),
        source: MountSource::Bind { path: source.into(), recursive: true },
        flags: MountFlags::default(),
        ids: None,
    };
    let tmpfs = Mount { source: MountSource::Tmpfs { data: String::new() }, ..mount("/dev/termination-log", "") };
    let log = mount("/dev/termination-log", "/pods/1");
    let custom = mount("/tmp/end", "/pods/2");
    let mut read_only = log.clone();
    read_only.flags.read_only = true;
    let named = |path: &str| HashMap::from([(TERMINATION_PATH.to_owned(), path.to_owned())]);
    let cases = [
        (HashMap::new(), vec![], None),
        (HashMap::new(), vec![log.clone()], Some("/pods/1")),
        (HashMap::new(), vec![custom.clone()], None),
        (HashMap::new(), vec![read_only], None),
        (HashMap::new(), vec![tmpfs], None),
        (named("/tmp/end"), vec![log.clone(), custom.clone()], Some("/pods/2")),
        (named("/tmp/../tmp/end/"), vec![custom], Some("/pods/2")),
        (named("/tmp/none"), vec![log], None),
    ];
    for (annotations, mounts, wanted) in cases {
        let got = termination_file(&annotations, &mounts);
        assert_eq!(got, wanted.map(PathBuf::from), "{annotations:?} {mounts:?}");
    }
}
