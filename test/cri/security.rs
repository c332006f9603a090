//! What `securityContext` of pod and container come to: users, namespaces, rights, profiles, kernel parameters.

use crate::Cases;
use crate::lifecycle::image;
use crate::sandbox::{get, get_at, service};
use anyhow::{Context, Result, ensure};
use nix::unistd::{Gid, chown};
use serde_json::{Value, json};
use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use testkit::containerd::OperatorFile;
use testkit::cri::Cri;
use testkit::image::Rootfs;
use testkit::{Containerd, Image, Namespace, Version, cases, guests, process, wait};

pub(crate) const CASES: Cases = cases![
    crate::security::a_pod_among_the_node_s_processes,
    crate::security::a_container_among_another_s_processes,
    crate::security::users_of_a_pod_are_others_on_the_node,
    crate::security::user_and_groups_hold_for_volumes,
    crate::security::a_user_of_the_image_by_name,
    crate::security::a_read_only_root_has_writable_volumes,
    crate::security::seccomp_profiles_of_each_kind,
    crate::security::kernel_parameters_are_the_pod_s,
    crate::security::privileged_gives_a_guest_no_rights,
    crate::security::a_service_under_the_restricted_standard,
];

/// The values of NamespaceMode.
const POD: u32 = 0;
const CONTAINER: u32 = 1;
const NODE: u32 = 2;
const TARGET: u32 = 3;

/// A volume that the kubelet has given to a group.
fn volume(node: &Namespace, group: u32) -> Result<PathBuf> {
    let path = node.directory("v")?;
    chown(&path, None, Some(Gid::from_raw(group)))?;
    fs::set_permissions(&path, Permissions::from_mode(0o2770))?;
    Ok(path)
}

fn namespace(pid: i32, kind: &str) -> Result<PathBuf> {
    Ok(fs::read_link(format!("/proc/{pid}/ns/{kind}"))?)
}

/// A parameter of the kernel as the process has it.
fn parameter(pid: i32, path: &str) -> Result<String> {
    let words = ["--target", &pid.to_string(), "--net", "--ipc", "--uts", "cat", path];
    let shown = Command::new("nsenter").args(words).output()?;
    ensure!(shown.status.success(), "{shown:?}");
    Ok(String::from_utf8_lossy(&shown.stdout).trim().to_owned())
}

fn a_pod_among_the_node_s_processes(node: &Namespace) -> Result<()> {
    let spin = image(node, "p1_spin.wat")?;
    let cri = Cri::new(node, &[&spin])?;
    let host = json!({ "namespace_options": { "pid": NODE } });
    let pod = cri.pod(|config| config["linux"]["security_context"] = host.clone())?;
    let container = pod.run(&spin, &["/app.wasm"], |config| config["linux"]["security_context"] = host)?;
    let (sandbox, pid) = (pod.pid()?, container.pid()?);
    let own = fs::read_link("/proc/self/ns/pid")?;
    ensure!(namespace(sandbox, "pid")? == own && namespace(pid, "pid")? == own, "another process namespace");
    container.stop(5)?;
    container.finish(143)?;
    pod.remove()?;
    ensure!(!process::exists(sandbox) && !process::exists(pid), "a process of the pod is there");
    Ok(())
}

/// As `kubectl debug --target` asks for it.
fn a_container_among_another_s_processes(node: &Namespace) -> Result<()> {
    let web = service(node)?;
    let cri = Cri::new(node, &[&web])?;
    let own = json!({ "namespace_options": { "pid": CONTAINER } });
    let pod = cri.pod(|config| config["linux"]["security_context"] = own.clone())?;
    let target = pod.run(&web, &["/app.wasm"], |config| config["linux"]["security_context"] = own)?;
    let beside = pod.run(&web, &["/app.wasm"], |config| {
        let options = json!({ "namespace_options": { "pid": TARGET, "target_id": target.id } });
        config["linux"]["security_context"] = options;
        config["envs"] = json!([{ "key": "PORT", "value": "8081" }]);
    })?;
    ensure!(namespace(beside.pid()?, "pid")? == namespace(target.pid()?, "pid")?, "they share it");
    ensure!(namespace(beside.pid()?, "pid")? != namespace(pod.pid()?, "pid")?, "it is the sandbox's");
    wait::until("both answer", || Ok(get(&pod, "/fetch?url=http://127.0.0.1:8081/").ok()))?;
    pod.remove()
}

/// `hostUsers: false`. The handler must have no options: with them containerd 2.4 cannot start such a container.
fn users_of_a_pod_are_others_on_the_node(node: &Namespace) -> Result<()> {
    let (version, shim) = (node.containerd().version(), node.containerd().shim());
    let containerd = Containerd::start_for_pods_with(version, shim, OperatorFile::InItsPlace)?;
    let inner = containerd.namespace(&format!("{}-inner", node.name()));
    with_other_users(&inner)?;
    containerd.stop()
}

fn with_other_users(node: &Namespace) -> Result<()> {
    const OUTSIDE: u32 = 100_000;
    let web = service(node)?;
    let cri = Cri::new(node, &[&web])?;
    let map = json!([{ "container_id": 0, "host_id": OUTSIDE, "length": 65_536 }]);
    let users = json!({ "namespace_options": { "userns_options": { "mode": POD, "uids": map, "gids": map } } });
    let pod = cri.pod(|config| config["linux"]["security_context"] = users.clone())?;
    let volume = node.directory("v")?;
    let mapped = json!({ "container_path": "/data", "host_path": volume, "uidMappings": map, "gidMappings": map });
    let is_old = node.containerd().version() < Version::V2_4;
    if is_old {
        // So does containerd 1.7 with any runtime.
        pod.refused(&web, &["idmap mounts not yet supported"], |config| {
            config["linux"]["security_context"] = users.clone();
            config["mounts"] = json!([mapped]);
        })?;
    }
    let container = pod.run(&web, &["/app.wasm"], |config| {
        config["linux"]["security_context"] = users;
        config["mounts"] = if is_old { json!([]) } else { json!([mapped]) };
    })?;
    wait::until("the service answers", || Ok(get(&pod, "/").ok()))?;
    let pids = [pod.pid()?, container.pid()?];
    for pid in pids {
        let map = fs::read_to_string(format!("/proc/{pid}/uid_map"))?;
        ensure!(map.split_whitespace().collect::<Vec<_>>() == ["0", "100000", "65536"], "{map}");
    }
    ensure!(process::status(pids[1])?["Uid"].starts_with("100000\t"), "its user is the node's root");
    for kind in ["user", "net", "ipc", "uts"] {
        ensure!(namespace(pids[0], kind)? == namespace(pids[1], kind)?, "two {kind} namespaces in a pod");
    }
    // Its network is theirs too: the namespace's root may change it.
    let root = pids[1].to_string();
    let words = ["--target", &root, "--user", "--net", "ip", "link", "set", "lo", "mtu", "4321"];
    let changed = Command::new("nsenter").args(words).output()?;
    ensure!(changed.status.success(), "the network is not theirs: {changed:?}");
    let written = get(&pod, "/write?path=/tmp-of-the-image&text=x")?;
    ensure!(written == "written\n", "it is root of its image: {written}");
    if !is_old {
        let written = get(&pod, "/write?path=/data/f&text=x")?;
        ensure!(written == "written\n", "{written}");
        // On the disk the container's root is root.
        let owner = fs::metadata(volume.join("f"))?;
        ensure!((owner.uid(), owner.gid()) == (0, 0), "{owner:?}");
    }
    pod.remove()
}

/// The volume belongs to `fsGroup`, which is one of the supplemental groups.
fn user_and_groups_hold_for_volumes(node: &Namespace) -> Result<()> {
    const GROUP: u32 = 4321;
    let files = image(node, "p1_file.c")?;
    let cri = Cri::new(node, &[&files])?;
    let pod = cri.pod(|_| ())?;
    let volume = volume(node, GROUP)?;
    let run = |name: &str, groups: Value| {
        let path = format!("/data/{name}");
        pod.run(&files, &["/app.wasm", "create", &path, "--", "create", "/own"], |config| {
            config["mounts"] = json!([{ "container_path": "/data", "host_path": volume }]);
            config["linux"]["security_context"] = json!({
                "run_as_user": { "value": 1000 }, "run_as_group": { "value": 3000 }, "supplemental_groups": groups,
            });
        })
    };
    let said = run("member", json!([GROUP]))?.finish(1)?;
    ensure!(said == "create /data/member: ok\ncreate /own: EACCES\n", "{said}");
    let owner = fs::metadata(volume.join("member"))?;
    ensure!((owner.uid(), owner.gid()) == (1000, GROUP), "{owner:?}");
    let said = run("stranger", json!([]))?.finish(2)?;
    ensure!(said == "create /data/stranger: EACCES\ncreate /own: EACCES\n", "{said}");
    pod.remove()
}

fn a_user_of_the_image_by_name(node: &Namespace) -> Result<()> {
    let rootfs = Rootfs::new()
        .file("app.wasm", &guests::module("p1_spin.wat")?)
        .file("etc/passwd", b"root:x:0:0::/:/none\nalice:x:1234:5678::/:/none\n")
        .file("etc/group", b"root:x:0:\nfriends:x:77:alice\n");
    let image = Image::new(&crate::sandbox::reference(node)).rootfs(rootfs).entrypoint(["/app.wasm"]);
    let cri = Cri::new(node, &[&image])?;
    let pod = cri.pod(|_| ())?;
    let container = pod.run(&image, &["/app.wasm"], |config| {
        config["linux"]["security_context"] = json!({ "run_as_username": "alice" });
    })?;
    let status = process::status(container.pid()?)?;
    ensure!(status["Uid"] == ["1234"; 4].join("\t") && status["Gid"] == ["5678"; 4].join("\t"), "{status:?}");
    let groups: Vec<&str> = status["Groups"].split_whitespace().collect();
    ensure!(groups.contains(&"77") && !groups.contains(&"0"), "{groups:?}");
    pod.remove()
}

fn a_read_only_root_has_writable_volumes(node: &Namespace) -> Result<()> {
    let files = image(node, "p1_file.c")?;
    let cri = Cri::new(node, &[&files])?;
    let pod = cri.pod(|_| ())?;
    let volume = node.directory("v")?;
    let words = ["/app.wasm", "create", "/f", "--", "write", "/data/f", "text", "--", "mkdir", "/data/missing"];
    let container = pod.run(&files, &words, |config| {
        // The image has no such directory: it is made before the root is read-only.
        config["mounts"] = json!([{ "container_path": "/data", "host_path": volume }]);
        config["linux"]["security_context"] = json!({ "readonly_rootfs": true });
    })?;
    let said = container.finish(1)?;
    ensure!(said == "create /f: EROFS\nwrite /data/f: ok\nmkdir /data/missing: ok\n", "{said}");
    ensure!(fs::read_to_string(volume.join("f"))? == "text", "the volume has what was written");
    pod.remove()
}

fn seccomp_profiles_of_each_kind(node: &Namespace) -> Result<()> {
    const DEFAULT: u32 = 0;
    const UNCONFINED: u32 = 1;
    const LOCALHOST: u32 = 2;
    let (spin, files) = (image(node, "p1_spin.wat")?, image(node, "p1_file.c")?);
    let cri = Cri::new(node, &[&spin, &files])?;
    let of_kind = |kind: u32| json!({ "seccomp": { "profile_type": kind } });
    let pod = cri.pod(|config| config["linux"]["security_context"] = of_kind(DEFAULT))?;
    let filters = |pid: i32| Ok::<_, anyhow::Error>(process::status(pid)?["Seccomp_filters"].clone());
    ensure!(filters(pod.pid()?)? == "2", "the sandbox has ours and the runtime's default");
    for (kind, count) in [(DEFAULT, "2"), (UNCONFINED, "1")] {
        let container = pod.run(&spin, &["/app.wasm"], |config| config["linux"]["security_context"] = of_kind(kind))?;
        ensure!(filters(container.pid()?)? == count, "kind {kind}: {}", filters(container.pid()?)?);
    }
    let profile = json!({
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{ "names": ["mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 30 }],
    });
    let file = node.directory("seccomp")?.join("profile.json");
    fs::write(&file, profile.to_string())?;
    let localhost = |path: &Path| json!({ "seccomp": { "profile_type": LOCALHOST, "localhost_ref": path } });
    let container = pod.run(&files, &["/app.wasm", "mkdir", "/d", "--", "create", "/f"], |config| {
        config["linux"]["security_context"] = localhost(&file);
    })?;
    let said = container.finish(1)?;
    ensure!(said == "mkdir /d: EROFS\ncreate /f: ok\n", "{said}");
    pod.refused(&files, &["absent.json"], |config| {
        config["linux"]["security_context"] = localhost(&file.with_file_name("absent.json"));
    })?;
    pod.remove()
}

fn kernel_parameters_are_the_pod_s(node: &Namespace) -> Result<()> {
    let web = service(node)?;
    let cri = Cri::new(node, &[&web])?;
    let pod = cri.pod(|config| {
        config["linux"]["sysctls"] = json!({
            "net.ipv4.ip_unprivileged_port_start": "79", "net.core.somaxconn": "321", "kernel.shm_rmid_forced": "1",
        });
    })?;
    // A port that the user could not have otherwise.
    let container = pod.run(&web, &["/app.wasm"], |config| {
        config["linux"]["security_context"] = json!({ "run_as_user": { "value": 1000 } });
        config["envs"] = json!([{ "key": "PORT", "value": "79" }]);
    })?;
    let pid = container.pid()?;
    for (path, value) in [
        ("/proc/sys/net/ipv4/ip_unprivileged_port_start", "79"),
        ("/proc/sys/net/core/somaxconn", "321"),
        ("/proc/sys/kernel/shm_rmid_forced", "1"),
    ] {
        for pid in [pod.pid()?, pid] {
            ensure!(parameter(pid, path)? == value, "{path} of {pid} is {}", parameter(pid, path)?);
        }
        ensure!(fs::read_to_string(path)?.trim() != value, "{path} of the node was changed");
    }
    let bare = process::status(pid)?;
    ensure!(bare["CapEff"] == "0000000000000000", "{bare:?}");
    wait::until("the service answers", || Ok(get_at(&pod, "79", "/").ok()))?;
    pod.remove()?;
    // Nothing of a pod's own.
    cri.refused(&["sysctl", "vm.swappiness", "node's"], |config| {
        config["linux"]["sysctls"] = json!({ "vm.swappiness": "1" });
    })
}

/// What a privileged container of Linux is for, a guest cannot ask for: devices, mounts, modules.
fn privileged_gives_a_guest_no_rights(node: &Namespace) -> Result<()> {
    let web = service(node)?;
    let cri = Cri::new(node, &[&web])?;
    let privileged = json!({ "privileged": true });
    let pod = cri.pod(|config| config["linux"]["security_context"] = privileged.clone())?;
    let container = pod.run(&web, &["/app.wasm"], |config| config["linux"]["security_context"] = privileged)?;
    wait::until("the service answers", || Ok(get(&pod, "/").ok()))?;
    let status = process::status(container.pid()?)?;
    for (name, value) in
        [("CapEff", "0000000000000000"), ("CapBnd", "0000000000000000"), ("NoNewPrivs", "1"), ("Seccomp", "2")]
    {
        ensure!(status[name] == value, "{name} is {}", status[name]);
    }
    for path in ["/dev/null", "/proc/self/status", "/sys/kernel/uevent_seqnum"] {
        let said = get(&pod, &format!("/file?path={path}"))?;
        ensure!(said.contains("No such file"), "{path}: {said}");
    }
    pod.remove()
}

/// Everything that the Pod Security Standard `restricted` demands.
fn a_service_under_the_restricted_standard(node: &Namespace) -> Result<()> {
    const GROUP: u32 = 2000;
    let web = service(node)?;
    let cri = Cri::new(node, &[&web])?;
    let default = json!({ "profile_type": 0 });
    let pod = cri.pod(|config| {
        config["linux"]["security_context"] = json!({
            "seccomp": default, "run_as_user": { "value": 1000 }, "run_as_group": { "value": 1000 },
            "supplemental_groups": [GROUP],
        });
    })?;
    let volume = volume(node, GROUP)?;
    let container = pod.run(&web, &["/app.wasm"], |config| {
        config["mounts"] = json!([{ "container_path": "/data", "host_path": volume }]);
        config["linux"]["security_context"] = json!({
            "seccomp": default, "run_as_user": { "value": 1000 }, "run_as_group": { "value": 1000 },
            "supplemental_groups": [GROUP], "no_new_privs": true, "readonly_rootfs": true,
            "capabilities": { "drop_capabilities": ["ALL"] },
        });
    })?;
    wait::until("the service answers", || Ok(get(&pod, "/").ok()))?;
    let written = get(&pod, "/write?path=/data/f&text=x")?;
    ensure!(written == "written\n", "{written}");
    let file = fs::metadata(volume.join("f")).context("the file of the guest")?;
    ensure!((file.uid(), file.gid()) == (1000, GROUP), "{file:?}");
    let refused = get(&pod, "/write?path=/f&text=x")?;
    ensure!(refused.contains("Read-only"), "{refused}");
    for pid in [pod.pid()?, container.pid()?] {
        let status = process::status(pid)?;
        for (name, value) in [
            ("CapEff", "0000000000000000"),
            ("CapBnd", "0000000000000000"),
            ("NoNewPrivs", "1"),
            ("Seccomp", "2"),
            ("Seccomp_filters", "2"),
            ("Uid", "1000\t1000\t1000\t1000"),
        ] {
            ensure!(status[name] == value, "{name} of {pid} is {}", status[name]);
        }
    }
    pod.remove()
}
