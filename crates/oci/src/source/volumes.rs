//! Files that lie on a volume: a container's program may be on one, put there by another container of its pod.
//! Invariant: as in the root filesystem, no symlink leads out of the volume.

use super::rootfs::{Error, Found, Place, Tree};
use oci_spec::runtime::Mount;
use std::path::{Component, Path, PathBuf};

/// A file under a mount.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Covered<'a> {
    /// What is mounted there; nothing that could be looked into, if absent.
    source: Option<&'a Path>,
    /// The file, from the mount on.
    below: PathBuf,
    /// The file, from the container's root on.
    place: PathBuf,
}

/// The mount under which `place` lies: the deepest, and the last of those.
pub(super) fn covering<'a>(mounts: &'a [Mount], place: &Path) -> Option<Covered<'a>> {
    // What a `..` means depends on symlinks; with one, only the root filesystem is looked at.
    if place.components().any(|component| component == Component::ParentDir) {
        return None;
    }
    let covering = mounts.iter().filter(|mount| place.starts_with(mount.destination()));
    let mount = covering.max_by_key(|mount| mount.destination().components().count())?;
    let below = place.strip_prefix(mount.destination()).ok()?.to_owned();
    let source = mount.source().as_deref().filter(|source| is_bind(mount) && source.is_absolute());
    Some(Covered { source, below, place: place.to_owned() })
}

fn is_bind(mount: &Mount) -> bool {
    let by_option = mount.options().iter().flatten().any(|option| option == "bind" || option == "rbind");
    by_option || mount.typ().as_deref() == Some("bind")
}

impl Covered<'_> {
    /// Opens it; `None` if there is no such file.
    pub(super) fn file(&self) -> Result<Option<Found>, Error> {
        let Some(source) = self.source else { return Ok(None) };
        let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        if let Some(kind) = slow(&table, source) {
            return Err(Error::Slow { path: self.place.clone(), kind: kind.to_owned() });
        }
        // A mount of a single file has the directory that the file is in on the node.
        let found = match (self.below.as_os_str().is_empty(), source.parent(), source.file_name()) {
            (true, Some(parent), Some(name)) => Tree::open(parent)?.file(Path::new(name))?,
            _ => Tree::open(source)?.file(&self.below)?,
        };
        Ok(found.map(|found| Found { path: self.place.clone(), place: Place::Volume, ..found }))
    }
}

/// Kinds of filesystem whose server may never answer; the shim, which has one thread, would wait with it.
const SLOW: [&str; 9] = ["nfs", "fuse", "cifs", "smb3", "ceph", "9p", "afs", "glusterfs", "lustre"];

/// The kind of the filesystem that `source` lies on, by the mount table, if it is one of those.
fn slow<'a>(table: &'a str, source: &Path) -> Option<&'a str> {
    let mounts = table.lines().filter_map(|line| {
        let (mount, kind) = line.split_once(" - ")?;
        Some((mount.split(' ').nth(4)?, kind.split(' ').next()?))
    });
    // The last of those mounted at one place is on top.
    let (_, kind) = mounts.filter(|(point, _)| source.starts_with(point)).max_by_key(|(point, _)| point.len())?;
    SLOW.iter().any(|slow| kind.starts_with(slow)).then_some(kind)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn mounts(dir: &Path) -> Vec<Mount> {
        let bind = |destination: &str, source: &Path| serde_json::json!({"destination": destination, "source": source, "options": ["rbind", "ro"]});
        let list = serde_json::json!([
            bind("/tools", &dir.join("volume")),
            {"destination": "/tools/scratch", "type": "tmpfs", "source": "tmpfs"},
            bind("/one", &dir.join("volume/app")),
        ]);
        serde_json::from_value(list).unwrap()
    }

    #[test]
    fn volumes_of_other_hosts_are_not_looked_into() {
        let table = "1 0 0:1 / / rw - ext4 /dev/a rw\n2 1 0:2 / /data rw shared:1 - nfs4 host:/x rw\n\
            3 2 0:3 / /data/local rw - tmpfs tmpfs rw";
        let kind = |source: &str| slow(table, Path::new(source));
        assert_eq!(kind("/data/tools"), Some("nfs4"));
        assert_eq!((kind("/data/local/x"), kind("/database"), kind("/")), (None, None, None));
    }

    #[test]
    fn files_under_a_mount_are_looked_up_in_what_is_mounted() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("volume/scratch")).unwrap();
        fs::write(dir.path().join("volume/app"), "x").unwrap();
        fs::write(dir.path().join("volume/scratch/app"), "hidden").unwrap();
        fs::write(dir.path().join("secret"), "x").unwrap();
        std::os::unix::fs::symlink("../secret", dir.path().join("volume/out")).unwrap();
        let mounts = mounts(dir.path());
        let found = |place: &str| {
            let covered = covering(&mounts, Path::new(place))?;
            Some(covered.file().unwrap().map(|found| found.path))
        };
        assert_eq!(found("/bin/app"), None);
        assert_eq!(found("/tools/../bin/app"), None);
        assert_eq!(found("/toolset"), None);
        assert_eq!(found("/tools/app"), Some(Some("/tools/app".into())));
        assert_eq!(found("/one"), Some(Some("/one".into())));
        assert_eq!(found("/tools/absent"), Some(None));
        assert_eq!(found("/tools/out"), Some(None));
        assert_eq!(found("/tools/scratch/app"), Some(None));
        let file = covering(&mounts, Path::new("/tools/app")).unwrap().file().unwrap().unwrap();
        assert_eq!(file.place, Place::Volume);
    }
}
