//! Which cgroup hierarchies this node has.

use super::{CgroupError, Version};
use nix::sys::statfs::{CGROUP2_SUPER_MAGIC, statfs};
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// The hierarchies that every container is put into under version 1.
pub(super) const ALWAYS: [&str; 5] = ["memory", "cpu", "cpuacct", "pids", "freezer"];
/// Those that a container is put into for a limit of its own. The others bound or account nothing that a guest can use.
const FOR_LIMITS: [&str; 3] = ["cpuset", "blkio", "hugetlb"];

/// Room for the mount table of most nodes, bytes.
const MOUNT_TABLE: usize = 16 << 10;
/// Where every distribution mounts cgroups.
const USUAL: &str = "/sys/fs/cgroup";

/// What the node has.
#[derive(Debug)]
pub(super) enum Hierarchy {
    /// One mount for each controller, or for a few together.
    V1(Controllers),
    /// One mount for all.
    V2(PathBuf),
}

/// Mounted version 1 controllers.
#[derive(Debug)]
pub(super) struct Controllers(Vec<(&'static str, PathBuf)>);

impl Hierarchy {
    /// Version 2 if that is what is at the usual place, whatever else is mounted: so decides runc. Else the mount table
    /// says it, which is long where there are many pods; a hybrid node (version 2 mounted without controllers, elsewhere)
    /// counts as version 1.
    pub(super) fn of_this_node() -> io::Result<Hierarchy> {
        if statfs(USUAL).is_ok_and(|mounted| mounted.filesystem_type() == CGROUP2_SUPER_MAGIC) {
            return Ok(Hierarchy::V2(PathBuf::from(USUAL)));
        }
        // With room for it, lest it is read in pieces that begin with 32 bytes.
        let mut mounts = String::with_capacity(MOUNT_TABLE);
        File::open("/proc/self/mounts")?.read_to_string(&mut mounts)?;
        Ok(parse(&mounts))
    }

    /// Which version it is.
    pub(super) fn version(&self) -> Version {
        match self {
            Hierarchy::V1(_) => Version::V1,
            Hierarchy::V2(_) => Version::V2,
        }
    }

    /// The root of the hierarchy that `dir` lies in.
    pub(super) fn root_of<'a>(&'a self, dir: &'a Path) -> &'a Path {
        match self {
            Hierarchy::V1(controllers) => {
                let roots = controllers.0.iter().map(|(_, root)| root.as_path());
                roots.filter(|root| dir.starts_with(root)).max_by_key(|root| root.as_os_str().len()).unwrap_or(dir)
            }
            Hierarchy::V2(root) => root,
        }
    }
}

impl Controllers {
    /// The directory of `path` in the hierarchy of `controller`.
    pub(super) fn dir(&self, controller: &'static str, path: &str) -> Result<PathBuf, CgroupError> {
        let found = self.0.iter().find(|(name, _)| *name == controller);
        found.map(|(_, root)| root.join(path)).ok_or(CgroupError::NoController(controller))
    }

    /// Whether the node has that controller.
    pub(super) fn has(&self, controller: &str) -> bool {
        self.0.iter().any(|(name, _)| *name == controller)
    }

    /// The directories of `path` in all hierarchies, each once.
    pub(super) fn dirs(&self, path: &str) -> Vec<PathBuf> {
        self.dirs_of(path, |_| true)
    }

    /// The directories of `path` in the hierarchies of the controllers that `wanted` picks, each once.
    pub(super) fn dirs_of(&self, path: &str, wanted: impl Fn(&str) -> bool) -> Vec<PathBuf> {
        let picked = self.0.iter().filter(|(name, _)| wanted(name));
        let mut dirs: Vec<PathBuf> = picked.map(|(_, root)| root.join(path)).collect();
        dirs.sort_unstable();
        dirs.dedup();
        dirs
    }
}

fn parse(mounts: &str) -> Hierarchy {
    let mut controllers: Vec<(&'static str, PathBuf)> = Vec::new();
    let mut unified = None;
    for line in mounts.lines() {
        let mut fields = line.split(' ').skip(1);
        let (Some(dir), Some(kind), Some(options)) = (fields.next(), fields.next(), fields.next()) else { continue };
        match kind {
            "cgroup" => {
                let known =
                    ALWAYS.iter().chain(&FOR_LIMITS).filter(|name| options.split(',').any(|option| option == **name));
                for name in known {
                    // A mount comes before those below it, which show a part of it once more, as in the nodes of kind.
                    if !controllers.iter().any(|(known, _)| known == name) {
                        controllers.push((*name, PathBuf::from(dir)));
                    }
                }
            }
            "cgroup2" => unified = unified.or(Some(PathBuf::from(dir))),
            _ => {}
        }
    }
    match unified {
        Some(root) if controllers.is_empty() => Hierarchy::V2(root),
        _ => Hierarchy::V1(Controllers(controllers)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(mounts: &str, dirs: &[&str]) {
        let found = match parse(mounts) {
            Hierarchy::V1(controllers) => controllers.dirs("x"),
            Hierarchy::V2(root) => vec![root.join("x")],
        };
        assert_eq!(found, dirs.iter().map(PathBuf::from).collect::<Vec<_>>(), "{mounts}");
    }

    #[test]
    fn hierarchies_of_each_kind_of_node() {
        check("cgroup2 /run/cgroup cgroup2 rw 0 0", &["/run/cgroup/x"]);
        check(
            "cgroup /c/memory cgroup rw,memory 0 0\ncgroup /c/cpu,cpuacct cgroup rw,cpu,cpuacct 0 0\n\
             cgroup /c/systemd cgroup rw,name=systemd 0 0\ncgroup2 /c/unified cgroup2 rw 0 0",
            &["/c/cpu,cpuacct/x", "/c/memory/x"],
        );
        check(
            "cgroup /c/memory cgroup rw,memory 0 0\ncgroup /c/cpu cgroup rw,cpu 0 0\n\
             cgroup /c/memory/kubelet.slice cgroup rw,memory 0 0\ncgroup /c/cpu/kubelet.slice cgroup rw,cpu 0 0",
            &["/c/cpu/x", "/c/memory/x"],
        );
    }
}
