//! Preopens and the errors of the filesystem.

use crate::guests::{WORLDS, World, guest};
use crate::stage::{Stage, mount, plan};
use plan::{ExitStatus, RunPlan};
use std::fs;
use std::path::Path;
use std::process::Command;
use tempfile::TempDir;

/// Opens `path` below the first preopen with these flags (create 1, exclusive 4), writes to it if it could, and leaves
/// with the errno or 0.
fn open_and_write(world: World, path: &str, flags: u32) -> Vec<u8> {
    guest(
        world,
        path,
        &format!(
            "(local.set $a (call $path_open (i32.const 3) (i32.const 1) (i32.const 1024) (i32.const {})
                (i32.const {flags}) (i64.const 64) (i64.const 0) (i32.const 0) (i32.const 32)))
             (if (i32.eqz (local.get $a))
                (then (call $print (i32.load (i32.const 32)) (i32.const 1024) (i32.const 1))))
             {}",
            path.len(),
            leave()
        ),
    )
}

/// Leaves with the errno in $a. Components know codes 0 and 1 only, so it is printed as one byte.
fn leave() -> &'static str {
    "(i32.store8 (i32.const 48) (local.get $a))
     (call $print (i32.const 1) (i32.const 48) (i32.const 1))"
}

fn plan_with(mounts: &[&Path]) -> RunPlan {
    let mut plan = plan();
    plan.mounts = mounts.iter().map(|path| mount(path)).collect();
    plan
}

/// Runs a guest that prints an errno.
fn errno(wasm: &[u8], plan: &RunPlan) -> u8 {
    let run = Stage::new().run(wasm, plan, b"");
    assert_eq!(run.status, ExitStatus::Code(0), "{run:?}");
    assert_eq!(run.stdout.len(), 1, "{run:?}");
    run.stdout[0]
}

#[test]
fn mounted_directory_is_written() {
    for world in WORLDS {
        let dir = TempDir::new().unwrap();
        let plan = plan_with(&[dir.path()]);
        assert_eq!(errno(&open_and_write(world, "new", 1), &plan), 0, "{world:?}");
        assert_eq!(fs::read(dir.path().join("new")).unwrap(), b"n", "{world:?}");
    }
}

#[test]
fn nothing_outside_of_a_mount_is_reached() {
    let outside = TempDir::new().unwrap();
    fs::write(outside.path().join("secret"), "x").unwrap();
    for world in WORLDS {
        let dir = TempDir::new().unwrap();
        std::os::unix::fs::symlink(outside.path(), dir.path().join("link")).unwrap();
        let up = format!("../{}/secret", outside.path().file_name().unwrap().to_str().unwrap());
        for path in ["link/secret", up.as_str(), "/etc/hosts"] {
            let errno = errno(&open_and_write(world, path, 0), &plan_with(&[dir.path()]));
            assert_ne!(errno, 0, "{world:?} {path}");
        }
        assert_eq!(fs::read(outside.path().join("secret")).unwrap(), b"x");
    }
}

#[test]
fn preopens_are_the_mounts_in_their_order() {
    let (one, two) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    fs::create_dir(one.path().join("nested")).unwrap();
    let single = two.path().join("dir");
    fs::create_dir(&single).unwrap();
    fs::write(single.join("file"), "").unwrap();
    // The names of preopens, from descriptor 3 on, each ended by a line break.
    let wasm = guest(
        World::Module,
        "\\n",
        "(local.set $a (i32.const 3))
         (block $end (loop $more
            (br_if $end (call $fd_prestat_get (local.get $a) (i32.const 32)))
            (drop (call $fd_prestat_dir_name (local.get $a) (i32.const 4096) (i32.load (i32.const 36))))
            (call $print (i32.const 1) (i32.const 4096) (i32.load (i32.const 36)))
            (call $print (i32.const 1) (i32.const 1024) (i32.const 1))
            (local.set $a (i32.add (local.get $a) (i32.const 1)))
            (br $more)))",
    );
    let nested = one.path().join("nested");
    let mut plan = plan_with(&[&nested, &single.join("file"), one.path()]);
    let run = Stage::new().run(&wasm, &plan, b"");
    let expected = [nested.as_path(), one.path(), &single]
        .map(|path| format!("{}\n", fs::canonicalize(path).unwrap().display()))
        .concat();
    assert_eq!(run.stdout_text(), expected, "{run:?}");

    plan.root = plan::RootAccess::ReadWrite;
    let run = Stage::new().run(&wasm, &plan, b"");
    // The single file is reached through `/` now.
    let expected = ["/".as_ref(), nested.as_path(), one.path()]
        .map(|path: &Path| format!("{}\n", fs::canonicalize(path).unwrap().display()))
        .concat();
    assert_eq!(run.stdout_text(), expected, "{run:?}");
}

/// A read-only tmpfs, unmounted when dropped. Needs root, as running containers does.
struct ReadOnlyMount(TempDir);

impl ReadOnlyMount {
    fn new() -> Self {
        let mount = ReadOnlyMount(TempDir::new().unwrap());
        let status = Command::new("mount")
            .args(["-t", "tmpfs", "-o", "ro", "engine-test"])
            .arg(mount.0.path())
            .status()
            .expect("mount is missing: install util-linux");
        assert!(status.success(), "mount failed: run the tests as root");
        mount
    }
}

impl Drop for ReadOnlyMount {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.0.path()).status();
    }
}

#[test]
fn write_to_a_read_only_mount_is_refused_as_such() {
    const READ_ONLY: u8 = 69;
    let mount = ReadOnlyMount::new();
    for world in WORLDS {
        let plan = plan_with(&[mount.0.path()]);
        let errno = errno(&open_and_write(world, "new", 1), &plan);
        assert_eq!(errno, READ_ONLY, "{world:?}");
    }
}

#[test]
fn rename_to_another_filesystem_is_told_as_such() {
    const CROSS_DEVICE: u8 = 75;
    let shm = TempDir::new_in("/dev/shm").unwrap();
    for world in WORLDS {
        let dir = TempDir::new().unwrap();
        fs::write(dir.path().join("f"), "").unwrap();
        let wasm = guest(
            world,
            "f",
            &format!(
                "(local.set $a (call $path_rename (i32.const 3) (i32.const 1024) (i32.const 1)
                    (i32.const 4) (i32.const 1024) (i32.const 1)))
                 {}",
                leave()
            ),
        );
        let plan = plan_with(&[dir.path(), shm.path()]);
        assert_eq!(errno(&wasm, &plan), CROSS_DEVICE, "{world:?}");
    }
}
