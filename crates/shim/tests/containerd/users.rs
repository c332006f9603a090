//! User namespaces and kernel parameters of the container's own namespaces.

use crate::Cases;
use crate::output::image_of;
use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::Command;
use testkit::image::Rootfs;
use testkit::task::{Finished, Task};
use testkit::{Image, Namespace, cases, guests, process};

pub(crate) const CASES: Cases = cases![
    crate::users::a_user_of_the_container_is_another_on_the_node,
    crate::users::owners_of_a_volume_are_mapped_where_it_is_asked,
    crate::users::a_namespace_is_joined_by_path,
    crate::users::owners_of_layers_are_mapped,
    crate::users::a_mapping_that_cannot_be_is_refused,
    crate::users::parameters_of_the_kernel_are_the_container_s_own,
];

/// The node's id of the container's user 0.
const OUTSIDE: u32 = 100_000;

fn map_users(spec: &mut Value) {
    let map = json!([{ "containerID": 0, "hostID": OUTSIDE, "size": 65_536 }]);
    if let Some(namespaces) = spec["linux"]["namespaces"].as_array_mut() {
        namespaces.push(json!({ "type": "user" }));
    }
    (spec["linux"]["uidMappings"], spec["linux"]["gidMappings"]) = (map.clone(), map);
}

fn sleeping(node: &Namespace, change: impl FnOnce(&mut Value)) -> Result<Task> {
    let image = image_of(node, "p1_sleep.wat")?;
    let task = node.task(&image).spec(change).create()?;
    task.start_until("sleeping\n")?;
    Ok(task)
}

fn owner(path: &Path) -> Result<(u32, u32)> {
    let file = fs::metadata(path).with_context(|| path.display().to_string())?;
    Ok((file.uid(), file.gid()))
}

fn a_user_of_the_container_is_another_on_the_node(node: &Namespace) -> Result<()> {
    let task = sleeping(node, |spec| {
        map_users(spec);
        spec["process"]["user"] = json!({ "uid": 7, "gid": 8, "additionalGids": [9] });
    })?;
    let status = process::status(task.pid)?;
    let own = |id: u32| [OUTSIDE + id; 4].map(|id| id.to_string()).join("\t");
    ensure!(status["Uid"] == own(7) && status["Gid"] == own(8), "{status:?}");
    ensure!(status["Groups"].trim() == (OUTSIDE + 9).to_string(), "{status:?}");
    for rights in ["CapPrm", "CapEff", "CapBnd"] {
        ensure!(status[rights] == "0000000000000000", "{rights}: {}", status[rights]);
    }
    let map = fs::read_to_string(format!("/proc/{}/uid_map", task.pid))?;
    ensure!(map.split_whitespace().collect::<Vec<_>>() == ["0", "100000", "65536"], "{map}");
    let namespace = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/user"));
    ensure!(namespace(&task.pid.to_string())? != namespace("self")?, "it is in the node's user namespace");
    // Nor does any descriptor of the namespaces stay with the guest.
    let files = process::files(task.pid)?;
    ensure!(files.iter().all(|(_, target)| !target.starts_with("user:")), "{files:?}");
    task.remove()?;
    node.until_nothing_remains()
}

fn owners_of_a_volume_are_mapped_where_it_is_asked(node: &Namespace) -> Result<()> {
    let image = image_of(node, "p1_file.c")?;
    let (plain, mapped) = (node.directory("plain")?, node.directory("mapped")?);
    fs::set_permissions(&plain, fs::Permissions::from_mode(0o777))?;
    let words = ["/app.wasm", "create", "/plain/f", "--", "create", "/mapped/f", "--", "create", "/run/f"];
    let draft = node.task(&image).args(words).bind(&plain, "/plain", &["rbind", "rw"]);
    let task = draft.bind(&mapped, "/mapped", &["rbind", "rw", "ridmap"]).spec(map_users).create()?;
    task.start()?;
    let end = task.finish()?;
    ensure!(end.code == 0, "{end:?}");
    ensure!(owner(&plain.join("f"))? == (OUTSIDE, OUTSIDE), "{:?}", owner(&plain.join("f"))?);
    // The node's root made the directory, the container's root the file: on the disk they are the same.
    ensure!(owner(&mapped.join("f"))? == (0, 0), "{:?}", owner(&mapped.join("f"))?);
    node.until_nothing_remains()
}

fn a_namespace_is_joined_by_path(node: &Namespace) -> Result<()> {
    let first = sleeping(node, map_users)?;
    let path = format!("/proc/{}/ns/user", first.pid);
    let second = sleeping(node, |spec| {
        map_users(spec);
        let namespaces = spec["linux"]["namespaces"].as_array_mut().and_then(|list| list.last_mut());
        if let Some(namespace) = namespaces {
            namespace["path"] = json!(path);
        }
    })?;
    let namespace = |pid: i32| fs::read_link(format!("/proc/{pid}/ns/user"));
    ensure!(namespace(first.pid)? == namespace(second.pid)?, "they are in different user namespaces");
    let status = process::status(second.pid)?;
    ensure!(status["Uid"].starts_with("100000\t"), "{status:?}");
    second.remove()?;
    first.remove()?;
    node.until_nothing_remains()
}

/// A snapshotter that can asks for mapped layers by options that the kernel does not know.
fn owners_of_layers_are_mapped(node: &Namespace) -> Result<()> {
    let wasm = guests::module("p1_file.c")?;
    let rootfs =
        Rootfs::new().file("app.wasm", &wasm).mode(0o500).file("secret", b"kept\n").mode(0o400).directory("tmp");
    let image = Image::new("test.local/owned:1").rootfs(rootfs).entrypoint(["/app.wasm"]);
    node.import(&image)?;
    // Only its owner may read it: that is the container's root if the layer is mapped, and nobody in it if not.
    let read = |mapped: bool| -> Result<Finished> {
        let draft = node.task(&image).args(["/app.wasm", "read", "/secret"]).spec(map_users);
        let draft = if mapped { draft.map_layers(&format!("0:{OUTSIDE}:65536")) } else { draft };
        let task = draft.create()?;
        task.start()?;
        task.finish()
    };
    let end = read(true)?;
    ensure!(end.code == 0 && end.stdout.contains("kept"), "{end:?}");
    let end = read(false)?;
    ensure!(end.code == 1 && end.stdout.contains("EACCES"), "{end:?}");
    node.until_nothing_remains()
}

fn a_mapping_that_cannot_be_is_refused(node: &Namespace) -> Result<()> {
    let image = image_of(node, "p1_hello.wat")?;
    let overlapping = node.task(&image).spec(|spec| {
        map_users(spec);
        spec["linux"]["uidMappings"] = json!([
            { "containerID": 0, "hostID": 1, "size": 10 },
            { "containerID": 5, "hostID": 100, "size": 10 },
        ]);
    });
    overlapping.refused(&["make a user namespace", "not these ids", "Invalid argument"])?;
    let gone = node.task(&image).spec(|spec| {
        spec["linux"]["namespaces"] = json!([{ "type": "mount" }, { "type": "user", "path": "/proc/1/ns/absent" }]);
    });
    gone.refused(&["open user namespace /proc/1/ns/absent", "No such file"])?;
    // The shim's is that of this process.
    let path = format!("/proc/{}/ns/user", std::process::id());
    let own = node.task(&image).spec(|spec| {
        spec["linux"]["namespaces"] = json!([{ "type": "mount" }, { "type": "user", "path": path }]);
    });
    own.refused(&[&format!("user namespace {path} is the node's own"), "leave the path out"])?;
    // The kernel's own filesystems map nothing.
    let unmappable = node.task(&image).bind(Path::new("/proc"), "/data", &["rbind", "idmap"]).spec(map_users);
    unmappable.refused(&["map the owners of the mount on /data", "may not support id-mapped mounts"])?;
    node.until_nothing_remains()
}

fn parameters_of_the_kernel_are_the_container_s_own(node: &Namespace) -> Result<()> {
    let task = sleeping(node, |spec| {
        spec["linux"]["sysctl"] = json!({ "net.ipv4.ip_unprivileged_port_start": "81", "kernel.shmmni": "123" });
        spec["domainname"] = json!("inside.example");
    })?;
    let inside = |path: &str| -> Result<String> {
        let pid = task.pid.to_string();
        let shown =
            Command::new("nsenter").args(["--target", &pid, "--net", "--ipc", "--uts", "cat", path]).output()?;
        ensure!(shown.status.success(), "{shown:?}");
        Ok(String::from_utf8_lossy(&shown.stdout).trim().to_owned())
    };
    let expected = [
        ("/proc/sys/net/ipv4/ip_unprivileged_port_start", "81"),
        ("/proc/sys/kernel/shmmni", "123"),
        ("/proc/sys/kernel/domainname", "inside.example"),
    ];
    for (path, value) in expected {
        ensure!(inside(path)? == value, "{path} is {}", inside(path)?);
        ensure!(fs::read_to_string(path)?.trim() != value, "{path} of the node was changed");
    }
    task.remove()?;
    let image = image_of(node, "p1_hello.wat")?;
    let refused = |name: &str, value: &str, parts: &[&str]| {
        node.task(&image).spec(|spec| spec["linux"]["sysctl"][name] = json!(value)).refused(parts)
    };
    refused("vm.swappiness", "1", &["sysctl vm.swappiness is the node's"])?;
    refused("net.ipv4.no_such_thing", "1", &["set sysctl net/ipv4/no_such_thing to \"1\"", "No such file"])?;
    refused("kernel.shmmni", "x", &["set sysctl kernel/shmmni to \"x\"", "Invalid argument"])?;
    node.until_nothing_remains()
}
