//! Volumes as the kubelet hands them to a container, and the files that name things for it.

use crate::Cases;
use crate::lifecycle::image;
use crate::sandbox::{get, get_at, reference, service};
use anyhow::{Context, Result, ensure};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use serde_json::{Value, json};
use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use testkit::cri::Cri;
use testkit::disk::Disk;
use testkit::image::Rootfs;
use testkit::{Image, Namespace, cases, names, wait};

pub(crate) const CASES: Cases = cases![
    crate::mounts::parts_of_a_volume_are_mounted,
    crate::mounts::an_update_of_projected_files_is_seen,
    crate::mounts::a_token_is_read_by_its_user_alone,
    crate::mounts::mounts_of_the_node_do_not_come_in_later,
    crate::mounts::names_come_from_the_pod,
    crate::mounts::a_reason_goes_where_the_pod_says,
];

/// containerd mounts images since 2.1.
pub(crate) const OF_NEWER_VERSIONS: Cases = cases![crate::mounts::an_image_is_a_volume];

/// A bind mount of the node, unmounted when dropped.
struct Bound(PathBuf);

impl Bound {
    fn new(source: &Path, place: &Path) -> Result<Bound> {
        let bound = mount(Some(source), place, None::<&str>, MsFlags::MS_BIND, None::<&str>);
        bound.with_context(|| format!("bind {} on {}", source.display(), place.display()))?;
        Ok(Bound(place.to_owned()))
    }
}

impl Drop for Bound {
    fn drop(&mut self) {
        // An error says that it is gone already.
        let _ = umount2(&self.0, MntFlags::MNT_DETACH);
    }
}

/// `subPath`: the kubelet binds what it names elsewhere, and hands that over.
fn parts_of_a_volume_are_mounted(node: &Namespace) -> Result<()> {
    let files = image(node, "p1_file.c")?;
    let cri = Cri::new(node, &[&files])?;
    let (volume, parts) = (node.directory("v")?, node.directory("subpaths")?);
    fs::create_dir(volume.join("sub"))?;
    fs::write(volume.join("sub/a"), "of the directory\n")?;
    fs::write(volume.join("key"), "of the file\n")?;
    fs::write(volume.join("hidden"), "")?;
    fs::create_dir(parts.join("0"))?;
    fs::write(parts.join("1"), "")?;
    let bound =
        [Bound::new(&volume.join("sub"), &parts.join("0"))?, Bound::new(&volume.join("key"), &parts.join("1"))?];
    let pod = cri.pod(|_| ())?;
    let words = "/app.wasm list /all -- list /part -- read /part/a -- create /part/b -- read /etc/app/key -- write /etc/app/key x \
                 -- list /etc/app -- create /etc/app/new";
    let container = pod.run(&files, &words.split_whitespace().collect::<Vec<_>>(), |config| {
        config["mounts"] = json!([
            { "container_path": "/all", "host_path": volume, "readonly": true },
            { "container_path": "/part", "host_path": parts.join("0") },
            { "container_path": "/etc/app/key", "host_path": parts.join("1"), "readonly": true },
        ]);
    })?;
    let said = container.finish(1)?;
    let wanted = "entry hidden\nentry key\nentry sub\nlist /all: ok\nentry a\nlist /part: ok\nof the directory\nread /part/a: ok\n\
                  create /part/b: ok\nof the file\nread /etc/app/key: ok\nwrite /etc/app/key: EROFS\nentry key\nlist /etc/app: ok\n\
                  create /etc/app/new: ok\n";
    ensure!(said == wanted, "{said}");
    ensure!(volume.join("sub/b").exists(), "the volume has the new file");
    pod.remove()?;
    drop(bound);
    Ok(())
}

/// A ConfigMap, Secret or projected volume as the kubelet's atomic writer has it.
struct Projected {
    volume: PathBuf,
    turn: u32,
}

impl Projected {
    fn new(volume: PathBuf) -> Projected {
        Projected { volume, turn: 0 }
    }

    /// Writes a directory beside the one of before, and swaps the link `..data` from that to this.
    fn write(&mut self, files: &[(&str, &str)], mode: u32) -> Result<()> {
        self.turn += 1;
        let (data, temporary) = (self.volume.join("..data"), self.volume.join("..data_tmp"));
        let before = fs::read_link(&data).ok();
        let name = format!("..2026_11_22_07_00_00.{}", self.turn);
        fs::create_dir(self.volume.join(&name))?;
        for (file, text) in files {
            let path = self.volume.join(&name).join(file);
            fs::create_dir_all(path.parent().context("a folder")?)?;
            fs::write(&path, text)?;
            fs::set_permissions(&path, Permissions::from_mode(mode))?;
        }
        symlink(&name, &temporary)?;
        fs::rename(&temporary, &data)?;
        for (file, _) in files {
            let first = file.split('/').next().unwrap_or(file);
            if fs::symlink_metadata(self.volume.join(first)).is_err() {
                symlink(Path::new("..data").join(first), self.volume.join(first))?;
            }
        }
        match before {
            Some(before) => Ok(fs::remove_dir_all(self.volume.join(before))?),
            None => Ok(()),
        }
    }
}

fn an_update_of_projected_files_is_seen(node: &Namespace) -> Result<()> {
    let web = service(node)?;
    let cri = Cri::new(node, &[&web])?;
    let pod = cri.pod(|_| ())?;
    // A ConfigMap is on the node's disk, a Secret in memory.
    let memory = Disk::mount(&node.directory("secret")?, 64)?;
    let (mut map, mut secret) = (Projected::new(node.directory("map")?), Projected::new(memory.path().to_owned()));
    map.write(&[("app.conf", "one\n"), ("deep/er.conf", "one below\n")], 0o644)?;
    secret.write(&[("password", "first\n")], 0o400)?;
    let mounted = |path: &str, volume: &Path| json!({ "container_path": path, "host_path": volume, "readonly": true });
    pod.run(&web, &["/app.wasm"], |config| {
        config["mounts"] = json!([mounted("/etc/config", &map.volume), mounted("/secret", &secret.volume)]);
    })?;
    let read = |path: &str| get(&pod, &format!("/file?path={path}"));
    wait::until("the service answers", || Ok(get(&pod, "/").ok()))?;
    let all = || -> Result<[String; 3]> {
        Ok([read("/etc/config/app.conf")?, read("/etc/config/deep/er.conf")?, read("/secret/password")?])
    };
    ensure!(all()? == ["one\n", "one below\n", "first\n"], "{:?}", all()?);
    for turn in ["two\n", "three\n"] {
        map.write(&[("app.conf", turn), ("deep/er.conf", turn), ("new.conf", turn)], 0o644)?;
        secret.write(&[("password", turn)], 0o400)?;
        ensure!(all()? == [turn; 3], "{turn}: {:?}", all()?);
        ensure!(read("/etc/config/new.conf")? == turn, "a key that was not there before");
    }
    let refused = get(&pod, "/write?path=/etc/config/app.conf&text=x")?;
    ensure!(refused.contains("Read-only"), "{refused}");
    pod.remove()
}

/// A projected token has mode 0600 and belongs to the container's user.
fn a_token_is_read_by_its_user_alone(node: &Namespace) -> Result<()> {
    let files = image(node, "p1_file.c")?;
    let cri = Cri::new(node, &[&files])?;
    let pod = cri.pod(|_| ())?;
    let mut token = Projected::new(node.directory("token")?);
    token.write(&[("token", "a.b.c\n")], 0o600)?;
    let real = fs::canonicalize(token.volume.join("token"))?;
    nix::unistd::chown(&real, Some(nix::unistd::Uid::from_raw(1000)), None)?;
    const PLACE: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
    let path = format!("{PLACE}/token");
    for (user, wanted, code) in [(1000, "a.b.c\nread PATH: ok\n", 0), (1001, "read PATH: EACCES\n", 1)] {
        let container = pod.run(&files, &["/app.wasm", "read", &path], |config| {
            config["mounts"] = json!([{ "container_path": PLACE, "host_path": token.volume, "readonly": true }]);
            config["linux"]["security_context"] = json!({ "run_as_user": { "value": user } });
        })?;
        let said = container.finish(code)?;
        ensure!(said == wanted.replace("PATH", &path), "{user}: {said}");
    }
    pod.remove()
}

/// `mountPropagation`: a guest's volumes stay as they are at its start, and the log says so.
fn mounts_of_the_node_do_not_come_in_later(node: &Namespace) -> Result<()> {
    const HOST_TO_CONTAINER: u32 = 1;
    const BIDIRECTIONAL: u32 = 2;
    let web = service(node)?;
    let cri = Cri::new(node, &[&web])?;
    let pod = cri.pod(|_| ())?;
    let outer = Disk::mount(&node.directory("v")?, 64)?;
    // As systemd makes every mount of a node.
    mount(None::<&str>, outer.path(), None::<&str>, MsFlags::MS_SHARED, None::<&str>)?;
    let sub = |name: &str| outer.path().join(name);
    for name in ["before", "later"] {
        fs::create_dir(sub(name))?;
    }
    let before = Disk::mount(&sub("before"), 64)?;
    fs::write(sub("before/note"), "a note\n")?;
    for (propagation, named, port) in [(HOST_TO_CONTAINER, "rslave", "8081"), (BIDIRECTIONAL, "rshared", "8082")] {
        let container = pod.run(&web, &["/app.wasm"], |config| {
            config["mounts"] =
                json!([{ "container_path": "/data", "host_path": outer.path(), "propagation": propagation }]);
            config["envs"] = json!([{ "key": "PORT", "value": port }]);
        })?;
        let read = |path: &str| -> Result<String> {
            wait::until("the service answers", || Ok(get_at(&pod, port, &format!("/file?path={path}")).ok()))
        };
        ensure!(read("/data/before/note")? == "a note\n", "what is mounted before is there");
        let later = Disk::mount(&sub("later"), 64)?;
        fs::write(sub("later/note"), "a note\n")?;
        let said = read("/data/later/note")?;
        ensure!(said.contains("No such file"), "{named}: {said}");
        drop(later);
        let words =
            format!("mount at /data is private, not {named}: mounts that the node makes below it later do not appear");
        node.until_logged(&[&container.id, &words])?;
    }
    pod.remove()?;
    drop((before, outer));
    Ok(())
}

fn names_come_from_the_pod(node: &Namespace) -> Result<()> {
    let web = service(node)?;
    let cri = Cri::new(node, &[&web])?;
    // The gateway of its network, where the node answers.
    let probe = cri.pod(|_| ())?;
    let gateway = probe.ip()?.rsplit_once('.').map(|(net, _)| format!("{net}.1")).context("an address of IPv4")?;
    names::serve(&format!("{gateway}:53"))?;
    let pod = cri.pod(|config| {
        config["hostname"] = json!("web-0");
        config["dns_config"] =
            json!({ "servers": [gateway], "searches": ["test"], "options": ["ndots:5", "timeout:5"] });
    })?;
    let hosts = node.directory("etc")?.join("hosts");
    fs::write(&hosts, format!("127.0.0.1 localhost\n{} web-0\n192.0.2.7 db.internal db\n", pod.ip()?))?;
    let container = pod.run(&web, &["/app.wasm"], |config| {
        config["mounts"] = json!([{ "container_path": "/etc/hosts", "host_path": hosts }]);
    })?;
    wait::until("the service answers", || Ok(get(&pod, "/").ok()))?;
    // Of the file, of the name server, of the name server by the list of searches.
    let own = pod.ip()?;
    for (name, address) in [
        ("db.internal", "192.0.2.7"),
        ("db", "192.0.2.7"),
        ("service.test", "127.0.0.1"),
        ("service", "127.0.0.1"),
        ("web-0", &own),
    ] {
        let said = get(&pod, &format!("/resolve?name={name}"))?;
        ensure!(said == format!("{address}\n"), "{name}: {said}");
    }
    let unknown = get(&pod, "/resolve?name=other.test")?;
    ensure!(unknown.contains("name-unresolvable"), "{unknown}");
    let said = get(&pod, "/fetch?url=http://web-0:8080/")?;
    ensure!(said == "hello from wasm\n", "{said}");
    for (path, wanted) in [("/etc/hostname", "web-0\n".to_owned()), ("/etc/hosts", fs::read_to_string(&hosts)?)] {
        let said = get(&pod, &format!("/file?path={path}"))?;
        ensure!(said == wanted, "{path}: {said}");
    }
    let conf = get(&pod, "/file?path=/etc/resolv.conf")?;
    ensure!(conf.contains(&format!("nameserver {gateway}")) && conf.contains("ndots:5"), "{conf}");
    container.stop(10)?;
    probe.remove()?;
    pod.remove()
}

/// `terminationMessagePath`.
fn a_reason_goes_where_the_pod_says(node: &Namespace) -> Result<()> {
    let trap = image(node, "p1_trap.wat")?;
    let cri = Cri::new(node, &[&trap])?;
    let pod = cri.pod(|_| ())?;
    for place in ["/var/run/app/reason", "/reason.txt"] {
        let file = node.directory("t")?.join("0");
        fs::write(&file, "")?;
        let container = pod.run(&trap, &["/app.wasm"], |config| {
            config["mounts"] = json!([{ "container_path": place, "host_path": file }]);
            config["annotations"] = json!({ "io.kubernetes.container.terminationMessagePath": place });
        })?;
        container.finish(134)?;
        let message = fs::read_to_string(&file)?;
        ensure!(message.contains("unreachable") && message.contains("deepest_of_all"), "{place}: {message:?}");
    }
    pod.remove()
}

fn an_image_is_a_volume(node: &Namespace) -> Result<()> {
    let files = image(node, "p1_file.c")?;
    let model = Image::new(&reference(node))
        .rootfs(Rootfs::new().file("weights.bin", b"1 2 3\n").file("more/labels.txt", b"cat dog\n"));
    let cri = Cri::new(node, &[&files, &model])?;
    let pod = cri.pod(|_| ())?;
    let of_image = |path: &str, part: Option<&str>| -> Value {
        let mut mount = json!({ "container_path": path, "image": { "image": model.reference() }, "readonly": true });
        if let Some(part) = part {
            mount["image_sub_path"] = json!(part);
        }
        mount
    };
    let words = "/app.wasm read /model/weights.bin -- read /labels/labels.txt -- create /model/new";
    let container = pod.run(&files, &words.split_whitespace().collect::<Vec<_>>(), |config| {
        config["mounts"] = json!([of_image("/model", None), of_image("/labels", Some("more"))]);
    })?;
    let said = container.finish(1)?;
    let wanted = "1 2 3\nread /model/weights.bin: ok\ncat dog\nread /labels/labels.txt: ok\ncreate /model/new: EROFS\n";
    ensure!(said == wanted, "{said}");
    pod.remove()
}
