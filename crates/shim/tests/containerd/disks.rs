//! Disks that are full, read-only, or gone: of the cache, of the root filesystem, of a volume, of the log.

use crate::Cases;
use crate::cache::{artifacts, fresh_image, own_cache, run};
use crate::output::image_of;
use anyhow::{Result, bail, ensure};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use testkit::disk::Disk;
use testkit::guests::{self, Work};
use testkit::{Image, Namespace, cases, process, wait};

pub(crate) const CASES: Cases = cases![
    crate::disks::a_full_cache_fails_create_and_keeps_nothing_half,
    crate::disks::a_full_cache_runs_what_is_in_it,
    crate::disks::a_full_root_is_told_to_the_guest,
    crate::disks::a_full_volume_is_told_to_the_guest,
    crate::disks::a_full_log_is_told_to_the_guest,
    crate::disks::a_full_log_changes_no_exit_code,
    crate::disks::a_read_only_cache_is_refused_by_name,
    crate::disks::a_cache_removed_while_containers_run_is_made_anew,
];

/// A cache on a disk of its own: the operator file that names it, the cache, the disk.
fn cache_on_a_disk(node: &Namespace, kib: u64) -> Result<(PathBuf, PathBuf, Disk)> {
    let disk = Disk::mount(&node.directory("disk")?, kib)?;
    let cache = disk.path().join("cache");
    let file = node.operator_file(&format!("[cache]\ndir = {:?}\n", cache.display().to_string()))?;
    Ok((file, cache, disk))
}

/// What would keep a later create from working, or stay for ever.
fn half_done(cache: &Path) -> Vec<PathBuf> {
    let of = |folder: &str| fs::read_dir(cache.join(folder)).into_iter().flatten().flatten();
    let mut files: Vec<PathBuf> = of("tmp").map(|entry| entry.path()).collect();
    let empty = of("artifacts").chain(of("index")).filter(|entry| entry.metadata().is_ok_and(|data| data.len() == 0));
    files.extend(empty.map(|entry| entry.path()));
    files
}

/// With every amount of room from none to enough.
fn a_full_cache_fails_create_and_keeps_nothing_half(node: &Namespace) -> Result<()> {
    const STEP_KIB: u64 = 4;
    const MOST_KIB: u64 = 256;
    let (image, wasm) = fresh_image(node, "full")?;
    let (operator_file, cache, disk) = cache_on_a_disk(node, 1024)?;
    let no_space = format!("no space for compiled code in cache directory {}: free some", cache.display());
    let unmade = format!("use cache directory {}", cache.display());
    let mut refused = 0;
    for room in (0..MOST_KIB / STEP_KIB).map(|step| step * STEP_KIB) {
        disk.fill_but(room)?;
        let outcome = node.task(&image).operator_file(&operator_file).create();
        let half = half_done(&cache);
        ensure!(half.is_empty(), "{room} KiB of room: {half:?}");
        disk.make_room()?;
        match outcome {
            Ok(task) => {
                task.remove()?;
                break;
            }
            Err(error) => {
                let text = format!("{error:#}");
                ensure!(text.contains(&no_space) || text.contains(&unmade), "{room} KiB of room: {text}");
                refused += 1;
            }
        }
    }
    ensure!(refused > 3, "only {refused} were refused");
    ensure!(node.compilations(&wasm) == 1, "{} compilations", node.compilations(&wasm));
    // A big one finds out while it writes.
    let big = guests::many_functions(Work { functions: 400, steps: 120 }, std::process::id());
    let big = Image::with_file("test.local/big:1", &big);
    node.import(&big)?;
    disk.fill_but(64)?;
    node.task(&big).operator_file(&operator_file).refused(&[&no_space, "set another one"])?;
    ensure!(half_done(&cache).is_empty(), "{:?}", half_done(&cache));
    disk.make_room()?;
    node.until_nothing_remains()?;
    // Room enough, or a bigger disk: all is well again.
    run(node, &image, &operator_file)?;
    let (other, _) = fresh_image(node, "other")?;
    run(node, &other, &operator_file)
}

fn a_full_cache_runs_what_is_in_it(node: &Namespace) -> Result<()> {
    let (image, wasm) = fresh_image(node, "warm")?;
    let (operator_file, cache, disk) = cache_on_a_disk(node, 1024)?;
    run(node, &image, &operator_file)?;
    disk.fill_but(0)?;
    run(node, &image, &operator_file)?;
    // Another file with the same wasm, whose digest cannot be noted.
    let same = Image::with_file("test.local/same:1", &wasm);
    node.import(&same)?;
    run(node, &same, &operator_file)?;
    ensure!(node.compilations(&wasm) == 1, "{} compilations", node.compilations(&wasm));
    ensure!(half_done(&cache).is_empty(), "{:?}", half_done(&cache));
    node.until_nothing_remains()
}

const FILLING: [&str; 10] = ["/app.wasm", "fill", "BIG", "8", "--", "write", "BIG", "text", "--", "read"];

fn full(output: &str, big: &str) -> bool {
    output == format!("fill {big}: ENOSPC\nwrite {big}: ok\ntext\nread {big}: ok\n")
}

fn filling(big: &str) -> Vec<String> {
    let words = FILLING.iter().map(|word| if *word == "BIG" { big } else { word });
    words.chain([big]).map(str::to_owned).collect()
}

fn a_full_root_is_told_to_the_guest(node: &Namespace) -> Result<()> {
    let image = image_of(node, "p1_file.c")?;
    let disk = Disk::mount(&node.directory("upper")?, 1024)?;
    for name in ["upper", "work"] {
        fs::create_dir(disk.path().join(name))?;
    }
    let task = node.task(&image).upper(disk.path()).args(filling("/big")).create()?;
    task.start()?;
    let end = task.finish()?;
    ensure!(end.code == 1 && full(&end.stdout, "/big"), "{end:?}");
    node.until_nothing_remains()
}

fn a_full_volume_is_told_to_the_guest(node: &Namespace) -> Result<()> {
    let image = image_of(node, "p1_file.c")?;
    let disk = Disk::mount(&node.directory("volume")?, 1024)?;
    let task = node.task(&image).bind(disk.path(), "/v", &["rbind", "rw"]).args(filling("/v/big")).create()?;
    task.start()?;
    let end = task.finish()?;
    ensure!(end.code == 1 && full(&end.stdout, "/v/big"), "{end:?}");
    node.until_nothing_remains()
}

/// The guest, its neighbour and the shim of both live on; once there is room, so does the log.
fn a_full_log_is_told_to_the_guest(node: &Namespace) -> Result<()> {
    let image = image_of(node, "p1_tick.c")?;
    let disk = Disk::mount(&node.directory("log")?, 256)?;
    let (log, volume, pod) = (disk.path().join("out.log"), node.directory("v")?, node.fresh("pod"));
    let in_pod = || node.task(&image).annotation("io.kubernetes.cri.sandbox-id", &pod);
    let neighbour = in_pod().create()?;
    neighbour.start_until("line 1\n")?;
    let task = in_pod().log_file(&log).bind(&volume, "/v", &["rbind", "rw"]).args(["/app.wasm", "/v/why"]).create()?;
    task.start_until("line 1\n")?;
    disk.fill_but(0)?;
    let why = wait::until("the guest is told", || {
        // Empty for a moment when it is written.
        Ok(fs::read_to_string(volume.join("why")).ok().filter(|why| why.ends_with('\n')))
    })?;
    ensure!(why == "ENOSPC\n", "{why}");
    ensure!(task.api.state(&task.id)?.status == "RUNNING", "{:?}", task.api.state(&task.id)?);
    ensure!(process::parent(task.pid)? == process::parent(neighbour.pid)?, "two shims");
    let lines = neighbour.stdio.stdout.text().lines().count();
    neighbour.stdio.stdout.wait_for(&format!("line {}\n", lines + 5))?;
    let size = fs::metadata(&log)?.len();
    disk.make_room()?;
    wait::until("the log goes on", || Ok((fs::metadata(&log)?.len() > size).then_some(())))?;
    disk.fill_but(0)?;
    task.kill(9)?;
    let end = task.finish()?;
    ensure!(end.code == 137, "{end:?}");
    let another = in_pod().create()?;
    another.start_until("line 1\n")?;
    another.remove()?;
    neighbour.remove()?;
    node.until_nothing_remains()
}

fn a_full_log_changes_no_exit_code(node: &Namespace) -> Result<()> {
    let disk = Disk::mount(&node.directory("log")?, 64)?;
    // It has no byte of room for them, and is there: without one, create would make it.
    fs::write(disk.path().join("out.log"), "")?;
    disk.fill_but(0)?;
    for (guest, code) in [("p1_exit.c", 9), ("p1_trap.wat", 134)] {
        let image = image_of(node, guest)?;
        let draft = node.task(&image).log_file(&disk.path().join("out.log")).args(["/app.wasm", "9"]);
        let task = draft.create()?;
        task.start()?;
        let end = task.finish()?;
        ensure!(end.code == code && end.stdout.is_empty(), "{guest}: {end:?}");
    }
    node.until_nothing_remains()
}

fn a_read_only_cache_is_refused_by_name(node: &Namespace) -> Result<()> {
    let (image, _) = fresh_image(node, "once")?;
    let (operator_file, cache, disk) = cache_on_a_disk(node, 1024)?;
    run(node, &image, &operator_file)?;
    disk.make_read_only()?;
    let dir = cache.display().to_string();
    let parts = [&format!("use cache directory {dir}: make it writable for root or set another one"), "Read-only"];
    // A new one, and one whose code is there.
    let (other, _) = fresh_image(node, "other")?;
    for image in [&other, &image] {
        node.task(image).operator_file(&operator_file).refused(&parts)?;
    }
    // Where it was never made.
    let inner = format!("{dir}/further/in");
    let file = node.operator_file(&format!("[cache]\ndir = {inner:?}\n"))?;
    node.task(&image).operator_file(&file).refused(&[&format!("use cache directory {inner}: make it writable")])?;
    node.until_nothing_remains()
}

fn a_cache_removed_while_containers_run_is_made_anew(node: &Namespace) -> Result<()> {
    let mark = format!("{} removed", node.name());
    let wasm = guests::padded(&guests::module("p1_cat.c")?, &mark, 0);
    let image = Image::with_file("test.local/cat:1", &wasm);
    node.import(&image)?;
    let (operator_file, cache) = own_cache(node, "")?;
    let pod = node.fresh("pod");
    let task = || {
        let draft = node.task(&image).operator_file(&operator_file).stdin();
        draft.annotation("io.kubernetes.cri.sandbox-id", &pod).create()
    };
    let (running, created) = (task()?, task()?);
    running.start()?;
    let Some(parent) = cache.parent() else { bail!("{} has no parent", cache.display()) };
    fs::remove_dir_all(&cache)?;
    ensure!(fs::read_dir(parent)?.next().is_none(), "{} is there", cache.display());
    created.start()?;
    let later = task()?;
    later.start()?;
    ensure!(node.compilations(&wasm) == 2, "{} compilations", node.compilations(&wasm));
    let mode = fs::metadata(&cache)?.permissions().mode();
    ensure!(mode & 0o777 == 0o700 && artifacts(&cache)?.len() == 1, "mode {mode:o}, {:?}", artifacts(&cache)?);
    for task in [running, created, later] {
        let mut input = task.stdio.write_end()?;
        std::io::Write::write_all(&mut input, b"typed")?;
        task.api.close_stdin(&task.id)?;
        drop(input);
        let end = task.finish()?;
        ensure!(end.code == 0 && end.stdout == "typed", "{end:?}");
    }
    node.until_nothing_remains()
}
