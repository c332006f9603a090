//! What a containerd and its shims may leave on the node, and its removal.

use crate::process;
use anyhow::{Context, Result};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Where shims have their sockets that do not know of a better place.
const SOCKETS: &str = "/run/containerd/s";
/// Places outside a private containerd's directory that a shim could write to by mistake.
const OUTSIDE: [&str; 3] = [SOCKETS, "/run/containerd/fifo", "/var/lib/containerd-shim-wasm"];

/// Whose containers there were.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Whose {
    /// Our shim's, which removes the parents of cgroups that it made.
    Ours,
    /// Also those of runc, which leaves them, and of shims that leave their sockets in the folder of all shims. Ours has none
    /// there under a containerd that names another.
    Others,
}

/// What was in the shared places before.
#[derive(Debug, Clone)]
pub struct Before(BTreeSet<PathBuf>);

impl Before {
    /// Looks now.
    pub fn look() -> Self {
        Before(OUTSIDE.iter().flat_map(|path| tree(Path::new(path))).collect())
    }
}

/// Everything that is there and should not be, one line each.
pub fn find(
    dir: &Path,
    state: &Path,
    fifos: &Path,
    namespaces: &[String],
    before: &Before,
    whose: Whose,
) -> Vec<String> {
    let mut left = Vec::new();
    for pid in process::mentioning(&dir.to_string_lossy()) {
        left.push(format!("process {pid}: {}", process::command_line(pid)));
    }
    for mount in mounts_below(dir).into_iter().filter(|mount| mount != state && mount != dir) {
        left.push(format!("mount {}", mount.display()));
    }
    for group in cgroups(namespaces).into_iter().chain(parents(namespaces).into_iter().filter(|_| whose == Whose::Ours))
    {
        left.push(format!("cgroup {}", group.display()));
    }
    for folder in [&dir.join("s"), fifos, &dir.join("cache/tmp")] {
        left.extend(tree(folder).map(|path| format!("file {}", path.display())));
    }
    for top in [state, &dir.join("root")] {
        let bundles = top.join("io.containerd.runtime.v2.task");
        // Also those of pods, which are in a namespace of containerd's choice.
        let folders: Vec<PathBuf> = match whose {
            Whose::Ours => fs::read_dir(&bundles).into_iter().flatten().flatten().map(|entry| entry.path()).collect(),
            Whose::Others => namespaces.iter().map(|namespace| bundles.join(namespace)).collect(),
        };
        let below = folders.iter().flat_map(|folder| tree(folder));
        left.extend(below.map(|path| format!("file of a bundle {}", path.display())));
    }
    let of_others = |path: &Path| whose == Whose::Others && path.starts_with(SOCKETS);
    for path in Before::look().0.difference(&before.0).filter(|path| !of_others(path)) {
        left.push(format!("file outside the directory {}", path.display()));
    }
    left
}

/// Removes the sockets that are there since then, and belong to nobody who lives.
pub fn remove_sockets(before: &Before) {
    let now = Before::look();
    let left: Vec<&PathBuf> = now.0.difference(&before.0).filter(|path| path.starts_with(SOCKETS)).collect();
    for path in &left {
        // What is gone by now needs no removal.
        let _ = fs::remove_file(path);
    }
    if let Some(first) = left.first() {
        println!("shims left {} sockets, such as {}", left.len(), first.display());
    }
}

/// Removes all of it: processes, mounts, cgroups, the directory.
pub fn remove(dir: &Path, namespaces: &[String]) -> Result<()> {
    for pid in process::mentioning(&dir.to_string_lossy()) {
        // An error says that it is gone already.
        let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
    }
    for mount in mounts_below(dir) {
        Command::new("umount").arg("-l").arg(mount).status()?;
    }
    let mut groups = cgroups(namespaces);
    groups.extend(parents(namespaces));
    for group in groups {
        // A group with dying processes refuses; the next run's look reports it then.
        let _ = fs::remove_dir(group);
    }
    fs::remove_dir_all(dir).with_context(|| format!("remove {}", dir.display()))
}

/// Mount points below a directory, deepest first.
pub fn mounts_below(dir: &Path) -> Vec<PathBuf> {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let points = table.lines().filter_map(|line| line.split(' ').nth(4));
    let mut below: Vec<PathBuf> = points.map(PathBuf::from).filter(|point| point.starts_with(dir)).collect();
    below.reverse();
    below
}

/// The control groups of containers of the namespaces, children first, in every hierarchy.
pub fn cgroups(namespaces: &[String]) -> Vec<PathBuf> {
    let mut groups = Vec::new();
    for parent in parents(namespaces) {
        let mut below: Vec<PathBuf> = tree(&parent).filter(|path| path.is_dir()).collect();
        below.reverse();
        groups.extend(below);
    }
    groups
}

/// The folder of each namespace in every hierarchy.
fn parents(namespaces: &[String]) -> Vec<PathBuf> {
    let of = |point: PathBuf| namespaces.iter().map(move |namespace| point.join(namespace));
    hierarchies().into_iter().flat_map(of).filter(|path| path.exists()).collect()
}

/// Where the hierarchies of control groups are mounted.
pub fn hierarchies() -> Vec<PathBuf> {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let mut hierarchies = Vec::new();
    for line in table.lines() {
        // proc(5): after the separator `-` comes the type of the filesystem.
        let Some((mount, kind)) = line.split_once(" - ") else {
            continue;
        };
        if kind.starts_with("cgroup") {
            hierarchies.push(PathBuf::from(mount.split(' ').nth(4).unwrap_or_default()));
        }
    }
    hierarchies
}

/// Everything below a folder, parents first, links not followed; nothing if it is not there.
fn tree(folder: &Path) -> impl Iterator<Item = PathBuf> + use<> {
    let mut found = Vec::new();
    collect(folder, &mut found);
    found.into_iter()
}

fn collect(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        found.push(entry.path());
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            collect(&entry.path(), found);
        }
    }
}
