//! The guest's filesystem: what is granted, what is read-only, what stays out of reach.

use crate::Cases;
use crate::output::{component_image_of, image_of};
use anyhow::{Context, Result, ensure};
use nix::sys::stat::Mode;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use testkit::image::Rootfs;
use testkit::{Image, Namespace, cases, guests};

pub(crate) const CASES: Cases = cases![
    crate::files::a_bind_is_read_and_written,
    crate::files::a_read_only_bind_refuses_writes,
    crate::files::a_read_write_bind_below_a_read_only_root,
    crate::files::a_tmpfs_is_empty_and_bounded,
    crate::files::a_single_file_is_mounted,
    crate::files::mounts_nest,
    crate::files::missing_mount_points_are_made_and_removed,
    crate::files::escapes_are_refused,
    crate::files::mount_points_behind_symlinks_stay_inside,
    crate::files::two_volumes_are_apart,
    crate::files::a_read_only_root_refuses_writes,
    crate::files::a_hidden_root_shows_mounts_only,
    crate::files::the_root_filesystem_is_written,
    crate::files::system_mounts_are_not_visible,
    crate::files::a_non_root_user_has_no_more_than_its_rights,
];

/// Runs file commands and checks that stdout has these lines.
fn check(run: testkit::run::Run<'_>, commands: &[&str], failures: i32, lines: &[&str]) -> Result<()> {
    let words = ["/app.wasm"].into_iter().chain(commands.iter().flat_map(|command| command.split(' ')));
    let output = run.args(words).expect(failures)?;
    let text = output.text();
    for line in lines {
        ensure!(text.lines().any(|has| has == *line), "no line {line:?}: {output}");
    }
    Ok(())
}

fn a_bind_is_read_and_written(node: &Namespace) -> Result<()> {
    for image in [image_of(node, "p1_file.c")?, component_image_of(node, "p1_file.c")?] {
        let volume = node.directory("v")?;
        fs::write(volume.join("in.txt"), "from the node")?;
        let commands = ["read /data/in.txt", "-- write /data/out.txt guest", "-- mkdir /data/sub", "-- list /data"];
        let lines = ["from the node", "read /data/in.txt: ok", "write /data/out.txt: ok", "entry sub", "entry in.txt"];
        check(node.run(&image).bind(&volume, "/data", "rbind:rw"), &commands, 0, &lines)?;
        ensure!(fs::read_to_string(volume.join("out.txt"))? == "guest", "the node reads another text");
        ensure!(volume.join("sub").is_dir(), "the node has no directory sub");
    }
    Ok(())
}

fn a_read_only_bind_refuses_writes(node: &Namespace) -> Result<()> {
    // A component says with its exit code only whether it failed.
    for (image, code) in [(image_of(node, "p1_file.c")?, 5), (component_image_of(node, "p1_file.c")?, 1)] {
        let volume = node.directory("v")?;
        fs::write(volume.join("in.txt"), "from the node")?;
        let commands = [
            "read /data/in.txt",
            "-- write /data/in.txt changed",
            "-- create /data/new",
            "-- mkdir /data/sub",
            "-- unlink /data/in.txt",
            "-- rename /data/in.txt /data/moved",
        ];
        let lines = [
            "from the node",
            "write /data/in.txt: EROFS",
            "create /data/new: EROFS",
            "mkdir /data/sub: EROFS",
            "unlink /data/in.txt: EROFS",
            "rename /data/in.txt: EROFS",
        ];
        check(node.run(&image).bind(&volume, "/data", "rbind:ro"), &commands, code, &lines)?;
        ensure!(fs::read_to_string(volume.join("in.txt"))? == "from the node", "the file changed");
        ensure!(fs::read_dir(&volume)?.count() == 1, "something was made in the volume");
    }
    Ok(())
}

fn a_read_write_bind_below_a_read_only_root(node: &Namespace) -> Result<()> {
    let image = image_of(node, "p1_file.c")?;
    let volume = node.directory("v")?;
    let run = node.run(&image).flags(["--read-only"]).bind(&volume, "/data", "rbind:rw");
    let lines = ["write /data/a: ok", "write /b: EROFS"];
    check(run, &["write /data/a text", "-- write /b text"], 1, &lines)
}

fn a_tmpfs_is_empty_and_bounded(node: &Namespace) -> Result<()> {
    let image = image_of(node, "p1_file.c")?;
    let run = node.run(&image).tmpfs("/tmp", "size=1m");
    let commands = ["list /tmp", "-- write /tmp/a text", "-- read /tmp/a", "-- fill /tmp/big 2"];
    check(run, &commands, 1, &["write /tmp/a: ok", "text", "fill /tmp/big: ENOSPC"])
}

fn a_single_file_is_mounted(node: &Namespace) -> Result<()> {
    let image = image_of(node, "p1_file.c")?;
    let file = node.directory("v")?.join("settings");
    fs::write(&file, "one file")?;
    let read_only = node.run(&image).bind(&file, "/etc/app/settings", "rbind:ro");
    let commands = ["read /etc/app/settings", "-- write /etc/app/settings x", "-- list /etc/app"];
    check(read_only, &commands, 1, &["one file", "write /etc/app/settings: EROFS", "entry settings"])?;
    let read_write = node.run(&image).bind(&file, "/etc/app/settings", "rbind:rw");
    check(read_write, &["write /etc/app/settings changed"], 0, &["write /etc/app/settings: ok"])?;
    ensure!(fs::read_to_string(&file)? == "changed", "the node's file is the old one");
    Ok(())
}

fn mounts_nest(node: &Namespace) -> Result<()> {
    let image = image_of(node, "p1_file.c")?;
    let (outer, inner) = (node.directory("outer")?, node.directory("inner")?);
    fs::create_dir(outer.join("inner"))?;
    fs::write(outer.join("o"), "outer file")?;
    fs::write(inner.join("i"), "inner file")?;
    let run = node.run(&image).bind(&outer, "/data", "rbind:ro").bind(&inner, "/data/inner", "rbind:rw");
    let run = run.tmpfs("/data/inner/deep", "size=64k");
    fs::create_dir(inner.join("deep"))?;
    let commands = [
        "read /data/o",
        "-- read /data/inner/i",
        "-- write /data/inner/w x",
        "-- write /data/w x",
        "-- write /data/inner/deep/t x",
    ];
    let lines =
        ["outer file", "inner file", "write /data/inner/w: ok", "write /data/w: EROFS", "write /data/inner/deep/t: ok"];
    check(run, &commands, 1, &lines)?;
    ensure!(inner.join("w").exists() && !inner.join("deep/t").exists(), "a write went to another mount");
    Ok(())
}

/// By way of the API, so that the container's snapshot can be looked at after the task is gone.
fn missing_mount_points_are_made_and_removed(node: &Namespace) -> Result<()> {
    let image = image_of(node, "p1_file.c")?;
    let (volume, file) = (node.directory("v")?, node.directory("f")?.join("file"));
    fs::write(volume.join("a"), "volume")?;
    fs::write(&file, "file")?;
    let words = ["/app.wasm", "read", "/srv/deep/data/a", "--", "read", "/srv/one", "--", "mkdir", "/kept"];
    let draft = node.task(&image).args(words).bind(&volume, "/srv/deep/data", &["rbind", "ro"]);
    let task = draft.bind(&file, "/srv/one", &["rbind", "ro"]).create()?;
    task.start()?;
    let ended = task.wait()?;
    ensure!(ended.code == 0, "{ended:?}: {}", task.stdio.stdout.text());
    task.api.delete_task(&task.id)?;
    let upper = upper_directory(node, &task)?;
    ensure!(!upper.join("srv").exists(), "mount points stay in {}", upper.display());
    ensure!(upper.join("kept").is_dir(), "what the guest made is gone from {}", upper.display());
    task.api.delete_container(&task.id)?;
    Ok(())
}

/// The writable layer of the task's snapshot.
fn upper_directory(node: &Namespace, task: &testkit::task::Task) -> Result<std::path::PathBuf> {
    let shown = node.ctr(&["snapshots", "mounts", "/target", &format!("snapshot-{}", task.id)])?;
    let text = shown.text();
    let options = text.split([',', ' ']).find_map(|option| option.trim().strip_prefix("upperdir="));
    Ok(options.with_context(|| format!("an upperdir in {shown}"))?.into())
}

fn escapes_are_refused(node: &Namespace) -> Result<()> {
    let rootfs = Rootfs::new()
        .file("app.wasm", &guests::module("p1_file.c")?)
        .symlink("absolute", "/etc")
        .symlink("upward", "../../../../etc");
    let image = Image::new("test.local/escape:1").rootfs(rootfs).entrypoint(["/app.wasm"]);
    node.import(&image)?;
    let (volume, secret) = (node.directory("v")?, node.directory("secret")?);
    fs::write(secret.join("s"), "secret")?;
    symlink(&secret, volume.join("absolute"))?;
    symlink(Path::new("..").join(secret.file_name().context("a name")?), volume.join("upward"))?;
    symlink("/proc/self/exe", volume.join("exe"))?;
    let commands = [
        "read /data/absolute/s",
        "-- read /data/upward/s",
        "-- read /data/../../../../etc/hostname",
        "-- read /data/exe",
        "-- read /absolute/hostname",
        "-- read /upward/hostname",
        "-- read /../../etc/hostname",
        "-- symlink /etc/hostname /data/made",
        "-- symlink ../../../etc/hostname /data/led",
        "-- read /data/led",
    ];
    for image in [image, component_image_of(node, "p1_file.c")?] {
        let run = node.run(&image).bind(&volume, "/data", "rbind:rw");
        let words = ["/app.wasm"].into_iter().chain(commands.iter().flat_map(|command| command.split(' ')));
        let output = run.args(words).output()?;
        let hostname = fs::read_to_string("/etc/hostname").unwrap_or_default();
        let text = output.text();
        let leaked = text.contains("secret\n") || text.lines().any(|line| line == hostname.trim());
        ensure!(!leaked, "{output}");
        let reads: Vec<&str> = text.lines().filter(|line| line.starts_with("read ")).collect();
        ensure!(reads.len() == 8 && reads.iter().all(|line| !line.ends_with(": ok")), "{output}");
    }
    Ok(())
}

/// A mount point in the image that is a link to the node's own directory by name: the image's directory is meant.
fn mount_points_behind_symlinks_stay_inside(node: &Namespace) -> Result<()> {
    let outside = node.directory("outside")?;
    let rootfs = Rootfs::new()
        .file("app.wasm", &guests::module("p1_file.c")?)
        .symlink("data", &outside.to_string_lossy())
        .symlink("up", "../../../../../../../../..");
    let image = Image::new("test.local/mountlink:1").rootfs(rootfs).entrypoint(["/app.wasm"]);
    node.import(&image)?;
    let volume = node.directory("v")?;
    fs::write(volume.join("a"), "volume")?;
    let words = ["/app.wasm", "read", "/up/up2/a"];
    let task = node.task(&image).args(words).bind(&volume, "/up/up2", &["rbind", "ro"]).create()?;
    task.start()?;
    let end = task.finish()?;
    ensure!(end.stdout.contains("volume\n"), "{end:?}");
    ensure!(!Path::new("/up2").exists(), "a mount point was made on the node");
    ensure!(fs::read_dir(&outside)?.count() == 0, "something was made in {}", outside.display());
    Ok(())
}

fn two_volumes_are_apart(node: &Namespace) -> Result<()> {
    let image = image_of(node, "p1_file.c")?;
    let (one, two) = (node.directory("one")?, node.directory("two")?);
    fs::write(one.join("a"), "first")?;
    fs::write(two.join("a"), "second")?;
    let run = node.run(&image).bind(&one, "/one", "rbind:ro").bind(&two, "/two", "rbind:rw");
    let commands = ["read /one/a", "-- read /two/a", "-- write /one/b x", "-- write /two/b x", "-- read /one/../two/a"];
    let lines = ["first", "second", "write /one/b: EROFS", "write /two/b: ok", "read /one/../two/a: EPERM"];
    check(run, &commands, 2, &lines)
}

fn a_read_only_root_refuses_writes(node: &Namespace) -> Result<()> {
    let image = image_of(node, "p1_file.c")?;
    let lines = ["write /a: EROFS", "mkdir /d: EROFS", "unlink /app.wasm: EROFS"];
    let commands = ["write /a x", "-- mkdir /d", "-- unlink /app.wasm"];
    check(node.run(&image).flags(["--read-only"]), &commands, 3, &lines)?;
    let by_annotation = node.run(&image).annotation("io.containerd.wasm.v1/rootfs", "ro");
    check(by_annotation, &commands, 3, &lines)
}

fn a_hidden_root_shows_mounts_only(node: &Namespace) -> Result<()> {
    let image = image_of(node, "p1_file.c")?;
    let (volume, file) = (node.directory("v")?, node.directory("f")?.join("one"));
    fs::write(volume.join("a"), "volume")?;
    fs::write(&file, "single")?;
    let run = node.run(&image).annotation("io.containerd.wasm.v1/rootfs", "none");
    let run = run.bind(&volume, "/data", "rbind:ro").bind(&file, "/etc/one", "rbind:ro");
    let commands =
        ["read /data/a", "-- read /etc/one", "-- read /app.wasm", "-- list /", "-- list /etc", "-- write /etc/x y"];
    let words = ["/app.wasm"].into_iter().chain(commands.iter().flat_map(|command| command.split(' ')));
    let output = run.args(words).output()?;
    let text = output.text();
    ensure!(text.contains("volume\n") && text.contains("single\n") && text.contains("entry one\n"), "{output}");
    ensure!(!text.contains("entry app.wasm") && !text.contains("read /app.wasm: ok"), "{output}");
    ensure!(!text.contains("list /: ok") && !text.contains("write /etc/x: ok"), "{output}");
    Ok(())
}

fn the_root_filesystem_is_written(node: &Namespace) -> Result<()> {
    let image = image_of(node, "p1_file.c")?;
    let commands = ["write /new text", "-- read /new", "-- mkdir /d", "-- rename /new /d/moved", "-- read /d/moved"];
    check(node.run(&image), &commands, 0, &["text", "rename /new: ok", "read /d/moved: ok"])?;
    // Another container of the image has none of it.
    check(node.run(&image), &["read /d/moved"], 1, &["read /d/moved: ENOENT"])
}

fn system_mounts_are_not_visible(node: &Namespace) -> Result<()> {
    let image = image_of(node, "p1_file.c")?;
    let commands = ["list /proc", "-- list /sys", "-- list /dev", "-- stat /dev/null", "-- read /proc/self/status"];
    let lines = ["list /proc: ENOENT", "list /sys: ENOENT", "list /dev: ENOENT", "stat /dev/null: ENOENT"];
    // /dev/shm of ctr's spec is a tmpfs, so it is a mount like any other, and its parent is there.
    let words = ["/app.wasm"].into_iter().chain(commands.iter().flat_map(|command| command.split(' ')));
    let task = node.task(&image).args(words).spec(without_shm).create()?;
    task.start()?;
    let end = task.finish()?;
    for line in lines {
        ensure!(end.stdout.lines().any(|has| has == line), "no line {line:?}: {end:?}");
    }
    ensure!(end.stdout.contains("read /proc/self/status: ENOENT"), "{end:?}");
    Ok(())
}

fn without_shm(spec: &mut serde_json::Value) {
    if let Some(mounts) = spec["mounts"].as_array_mut() {
        mounts.retain(|mount| mount["destination"] != "/dev/shm");
    }
}

fn a_non_root_user_has_no_more_than_its_rights(node: &Namespace) -> Result<()> {
    let image = image_of(node, "p1_file.c")?;
    let volume = node.directory("v")?;
    for (name, mode, group) in [("theirs", 0o600, 0), ("of_group", 0o040, 3000), ("of_all", 0o644, 0)] {
        let path = volume.join(name);
        fs::write(&path, name)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(mode))?;
        nix::unistd::chown(&path, None, Some(nix::unistd::Gid::from_raw(group)))?;
    }
    let open = volume.join("open");
    nix::unistd::mkdir(&open, Mode::S_IRWXU)?;
    fs::set_permissions(&open, fs::Permissions::from_mode(0o777))?;
    let words = "read /v/theirs -- read /v/of_group -- read /v/of_all -- write /v/new x -- write /v/open/new x";
    let words = ["/app.wasm"].into_iter().chain(words.split(' '));
    let task = node
        .task(&image)
        .args(words)
        .bind(&volume, "/v", &["rbind", "rw"])
        .spec(|spec| {
            spec["process"]["user"] =
                serde_json::json!({ "uid": 1000, "gid": 2000, "additionalGids": [3000], "umask": 0o27 });
        })
        .create()?;
    task.start()?;
    let end = task.finish()?;
    let lines = [
        "read /v/theirs: EACCES",
        "read /v/of_group: ok",
        "read /v/of_all: ok",
        "write /v/new: EACCES",
        "write /v/open/new: ok",
    ];
    for line in lines {
        ensure!(end.stdout.lines().any(|has| has == line), "no line {line:?}: {end:?}");
    }
    let made = fs::metadata(open.join("new"))?;
    ensure!((made.uid(), made.gid()) == (1000, 2000), "made by {}:{}", made.uid(), made.gid());
    ensure!(made.mode() & 0o777 == 0o640, "mode {:o}: the umask was not applied", made.mode());
    Ok(())
}
