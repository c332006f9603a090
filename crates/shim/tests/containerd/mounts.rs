//! Options of volumes, and what the node or the guest does to them while the container lives.

use crate::Cases;
use crate::output::image_of;
use anyhow::{Result, ensure};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use serde_json::json;
use std::fs;
use std::path::{Path, PathBuf};
use testkit::{Namespace, cases};

pub(crate) const CASES: Cases = cases![
    crate::mounts::mounts_of_the_node_do_not_come_in_later,
    crate::mounts::a_read_only_bind_is_so_with_the_mounts_below_it,
    crate::mounts::a_tmpfs_has_its_mode_and_owner,
    crate::mounts::a_guest_cannot_hinder_its_deletion,
];

/// A mount of the node, unmounted when dropped.
struct Mounted(PathBuf);

impl Mounted {
    fn tmpfs(path: &Path) -> Result<Mounted> {
        mount(Some("tmpfs"), path, Some("tmpfs"), MsFlags::empty(), Some("size=64k"))?;
        Ok(Mounted(path.to_owned()))
    }

    /// As systemd makes every mount of a node: what is mounted below reaches those who have it too.
    fn share(&self) -> Result<()> {
        Ok(mount(None::<&str>, &self.0, None::<&str>, MsFlags::MS_SHARED, None::<&str>)?)
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = umount2(&self.0, MntFlags::MNT_DETACH);
    }
}

fn mounts_of_the_node_do_not_come_in_later(node: &Namespace) -> Result<()> {
    let image = image_of(node, "p1_file.c")?;
    let volume = node.directory("v")?;
    let outer = Mounted::tmpfs(&volume)?;
    outer.share()?;
    fs::create_dir(volume.join("sub"))?;
    for options in [["rbind", "ro", "rprivate"], ["rbind", "ro", "rslave"], ["rbind", "ro", "rshared"]] {
        let words = ["/app.wasm", "list", "/data/sub", "--", "create", "/data/sub/new"];
        let task = node.task(&image).args(words).bind(&volume, "/data", &options).create()?;
        let inner = Mounted::tmpfs(&volume.join("sub"))?;
        fs::write(volume.join("sub/later"), "")?;
        task.start()?;
        let end = task.finish()?;
        ensure!(end.stdout == "list /data/sub: ok\ncreate /data/sub/new: EROFS\n", "{options:?}: {end:?}");
        drop(inner);
    }
    drop(outer);
    Ok(())
}

fn a_read_only_bind_is_so_with_the_mounts_below_it(node: &Namespace) -> Result<()> {
    let image = image_of(node, "p1_file.c")?;
    let volume = node.directory("v")?;
    fs::create_dir(volume.join("sub"))?;
    let inner = Mounted::tmpfs(&volume.join("sub"))?;
    fs::write(volume.join("sub/a"), "inner")?;
    for (options, lines) in [
        ("rbind:ro", ["inner", "write /data/sub/a: EROFS"]),
        ("rbind:rro", ["inner", "write /data/sub/a: EROFS"]),
        ("bind:ro", ["read /data/sub/a: ENOENT", "write /data/sub/a: EROFS"]),
    ] {
        let run = node.run(&image).bind(&volume, "/data", options);
        let words = ["/app.wasm", "read", "/data/sub/a", "--", "write", "/data/sub/a", "x"];
        let output = run.args(words).output()?;
        for line in lines {
            ensure!(output.text().lines().any(|has| has == line), "{options}: no line {line:?}: {output}");
        }
    }
    drop(inner);
    Ok(())
}

fn a_tmpfs_has_its_mode_and_owner(node: &Namespace) -> Result<()> {
    let image = image_of(node, "p1_file.c")?;
    let tmpfs = |destination: &str, options: &[&str]| json!({ "destination": destination, "type": "tmpfs", "source": "tmpfs", "options": options });
    let mounts = [tmpfs("/own", &["mode=700", "uid=1000", "gid=2000"]), tmpfs("/theirs", &["mode=755"])];
    let words = ["/app.wasm", "create", "/own/a", "--", "create", "/theirs/a"];
    let draft = node.task(&image).args(words).spec(|spec| {
        spec["process"]["user"] = json!({ "uid": 1000, "gid": 2000 });
        if let Some(all) = spec["mounts"].as_array_mut() {
            all.extend(mounts);
        }
    });
    let task = draft.create()?;
    task.start()?;
    let end = task.finish()?;
    ensure!(end.stdout == "create /own/a: ok\ncreate /theirs/a: EACCES\n", "{end:?}");
    Ok(())
}

/// It moves what was made for its mounts, and puts something else in the place.
fn a_guest_cannot_hinder_its_deletion(node: &Namespace) -> Result<()> {
    let image = image_of(node, "p1_file.c")?;
    let volume = node.directory("v")?;
    for trick in ["create /made", "symlink made /made", "mkdir /made"] {
        let words = ["rename /made /moved --", trick].join(" ");
        let words = ["/app.wasm"].into_iter().chain(words.split(' '));
        let task = node.task(&image).args(words).bind(&volume, "/made/for/it", &["rbind", "ro"]).create()?;
        task.start()?;
        let end = task.finish()?;
        ensure!(end.code == 0, "{trick}: {end:?}");
    }
    node.until_nothing_remains()
}
