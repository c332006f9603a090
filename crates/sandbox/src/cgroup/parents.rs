//! The directories above a cgroup, in every hierarchy of the node, also in those that limit nothing: another runtime that
//! makes a container's cgroup makes what is missing there, and leaves it.

use super::files::add_parent_mark;
use super::removal::{remove_made_parents, removed};
use super::{CgroupError, make};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// The directories above one cgroup, in each hierarchy.
#[derive(Debug)]
pub struct Parents {
    /// Root of the hierarchy, and the cgroup in it.
    dirs: Vec<(PathBuf, PathBuf)>,
}

impl Parents {
    /// Those of the cgroup at `path` below the root of each hierarchy.
    pub fn of(path: &str) -> io::Result<Parents> {
        let path = path.trim_start_matches('/');
        let roots = roots(&fs::read_to_string("/proc/self/mounts")?);
        let dirs = roots.into_iter().map(|root| {
            let dir = root.join(path);
            (root, dir)
        });
        Ok(Parents { dirs: dirs.collect() })
    }

    /// Those that are not there, the topmost of each hierarchy first.
    pub fn missing(&self) -> Vec<PathBuf> {
        let mut missing = Vec::new();
        for (root, dir) in &self.dirs {
            let above: Vec<&Path> =
                dir.ancestors().skip(1).take_while(|parent| *parent != root && !parent.exists()).collect();
            missing.extend(above.into_iter().rev().map(Path::to_owned));
        }
        missing
    }

    /// Makes some of them, marked so that [`Parents::remove`] finds them.
    pub fn create(&self, missing: &[PathBuf]) -> Result<(), CgroupError> {
        for parent in missing {
            let Some((root, _)) = self.dirs.iter().find(|(_, dir)| dir.starts_with(parent)) else { continue };
            match make(parent, root) {
                Ok(()) => add_parent_mark(parent),
                Err(CgroupError::Exists(_)) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Marks those that a shim was about to make when it was killed.
    pub fn adopt(&self, missing: &[PathBuf]) {
        let is_ours = |parent: &&PathBuf| self.dirs.iter().any(|(_, dir)| dir != *parent && dir.starts_with(parent));
        missing.iter().filter(is_ours).for_each(|parent| add_parent_mark(parent));
    }

    /// Removes the cgroup below them in every hierarchy, where nobody is in it: of another runtime, which cannot do so itself any
    /// more and puts containers also into those that limit nothing.
    pub fn remove_cgroup(&self) {
        self.dirs.iter().for_each(|(_, dir)| {
            removed(dir);
        });
    }

    /// Removes those that are marked and empty.
    pub fn remove(&self) {
        self.dirs.iter().for_each(|(root, dir)| remove_made_parents(dir, root));
    }
}

/// Where hierarchies are mounted, whatever is in them.
fn roots(mounts: &str) -> Vec<PathBuf> {
    let mut roots = Vec::new();
    for line in mounts.lines() {
        let mut fields = line.split(' ').skip(1);
        if let (Some(dir), Some("cgroup" | "cgroup2")) = (fields.next(), fields.next()) {
            roots.push(PathBuf::from(dir));
        }
    }
    roots.sort_unstable();
    roots.dedup();
    roots
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_hierarchy_counts() {
        let mounts = "cgroup /c/memory cgroup rw,memory 0 0\ntmpfs /c tmpfs rw 0 0\n\
            cgroup /c/systemd cgroup rw,name=systemd 0 0\ncgroup2 /c/unified cgroup2 rw 0 0\n\
            cgroup /c/memory cgroup rw,memory 0 0";
        assert_eq!(roots(mounts), ["/c/memory", "/c/systemd", "/c/unified"].map(PathBuf::from));
    }
}
