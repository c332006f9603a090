//! The root filesystem of a container: mounted where the bundle says, given the mount points it lacks, and undone.
//!
//! The shim lives in a mount namespace of its own, so that these mounts never show on the node and end with the shim.

mod mapping;

use crate::mounts::{self, MountError, MountPoint};
use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};
use plan::{RootAccess, RunPlan};
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The kernel takes mount data of up to a page.
const LONGEST_DATA: usize = 4095;

/// One mount that makes up the root filesystem, as containerd's snapshotter describes it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Layer {
    /// Filesystem type: `overlay`, `bind`, …
    pub kind: String,
    /// Device or directory.
    pub source: String,
    /// Path below the root filesystem, empty for the root itself.
    pub target: String,
    /// Options as for mount(8).
    pub options: Vec<String>,
}

/// Why the root filesystem could not be made.
#[derive(Debug, thiserror::Error)]
pub enum RootfsError {
    /// The kernel refused a mount.
    #[error("mount {kind} on {path}")]
    Mount {
        /// Filesystem type.
        kind: String,
        /// Where.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// A mount point could not be made.
    #[error(transparent)]
    MountPoint(#[from] MountError),
    /// It could not be unmounted.
    #[error("unmount {path}")]
    Unmount {
        /// Where.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
}

/// The mounts of the node, as the shim found them before it made its own.
#[derive(Debug, Clone)]
pub struct NodeMounts(Arc<File>);

impl NodeMounts {
    /// Joins their namespace, in a child with one thread.
    pub(crate) fn join(namespace: BorrowedFd<'_>) -> io::Result<()> {
        Ok(setns(namespace, CloneFlags::CLONE_NEWNS)?)
    }
}

impl AsFd for NodeMounts {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Gives this process a mount namespace of its own, which still hears of mounts made on the node. Gives the node's.
pub fn enter_own_mount_namespace() -> io::Result<NodeMounts> {
    let node = NodeMounts(Arc::new(File::open("/proc/self/ns/mnt")?));
    unshare(CloneFlags::CLONE_NEWNS)?;
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_SLAVE, None::<&str>)?;
    Ok(node)
}

/// Mounts `layers` on `path`, in their order. Nothing stays mounted on failure.
pub fn mount_all(path: &Path, layers: &[Layer]) -> Result<(), RootfsError> {
    for layer in layers {
        let target = path.join(layer.target.trim_start_matches('/'));
        if let Err(source) = mount_one(&target, layer) {
            let _ = unmount(path);
            return Err(RootfsError::Mount { kind: layer.kind.clone(), path: target, source });
        }
    }
    Ok(())
}

/// Unmounts whatever is mounted on `path`. Not being mounted is no error.
pub fn unmount(path: &Path) -> Result<(), RootfsError> {
    loop {
        match umount2(path, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW) {
            Ok(()) => {}
            Err(Errno::EINVAL | Errno::ENOENT) => return Ok(()),
            Err(errno) => return Err(RootfsError::Unmount { path: path.to_owned(), source: errno.into() }),
        }
    }
}

/// The mount points that `plan` needs and the root filesystem at `path` lacks, parents first. Those below another
/// mount of the plan are not the root filesystem's, and with a hidden root nothing is made in it.
pub fn missing_mount_points(path: &Path, plan: &RunPlan) -> Result<Vec<MountPoint>, RootfsError> {
    if plan.root == RootAccess::Hidden {
        return Ok(Vec::new());
    }
    let root = mounts::open_root(path)?;
    let mut missing: Vec<MountPoint> = Vec::new();
    for (index, mount) in plan.mounts.iter().enumerate() {
        let nested = plan.mounts[..index].iter().any(|outer| mount.destination.starts_with(&outer.destination));
        if nested {
            continue;
        }
        for point in mounts::missing(&root, mount)? {
            if !missing.contains(&point) {
                missing.push(point);
            }
        }
    }
    Ok(missing)
}

/// Makes mount points found by [`missing_mount_points`].
pub fn make_mount_points(path: &Path, points: &[MountPoint]) -> Result<(), RootfsError> {
    let root = mounts::open_root(path)?;
    for point in points {
        mounts::make(&root, point)?;
    }
    Ok(())
}

/// Removes one that [`make_mount_points`] made, unless the guest made something of it. Already gone is fine. To be called
/// in the reverse order.
pub fn remove_mount_point(path: &Path, point: &MountPoint) {
    // A root filesystem that is gone has no mount points.
    if let Ok(root) = mounts::open_root(path) {
        mounts::remove(&root, point);
    }
}

fn mount_one(target: &Path, layer: &Layer) -> io::Result<()> {
    let mapped = mapping::Mapped::of(target, layer)?;
    let layer = mapped.as_ref().map_or(layer, mapping::Mapped::layer);
    let mut flags = MsFlags::empty();
    let mut data = Vec::new();
    for option in &layer.options {
        match flag(option) {
            Some(flag) => flags |= flag,
            None if option == "rw" => {}
            None => data.push(option.as_str()),
        }
    }
    let joined = data.join(",");
    if joined.len() > LONGEST_DATA && layer.kind == "overlay" {
        return mount_overlay_by_relative_paths(target, layer, flags, &data);
    }
    mount(Some(layer.source.as_str()), target, Some(layer.kind.as_str()), flags, Some(joined.as_str()))?;
    if flags.contains(MsFlags::MS_BIND | MsFlags::MS_RDONLY) {
        // The kernel ignores all flags but MS_REC at the bind itself (mount(2)).
        let flags = flags | MsFlags::MS_REMOUNT;
        mount(None::<&str>, target, None::<&str>, flags, None::<&str>)?;
    }
    Ok(())
}

/// Images with many layers exceed a page of mount data; paths relative to the directory that holds the snapshots fit.
fn mount_overlay_by_relative_paths(target: &Path, layer: &Layer, flags: MsFlags, data: &[&str]) -> io::Result<()> {
    let lower = data.iter().find_map(|option| option.strip_prefix("lowerdir=")).unwrap_or_default();
    let Some(base) = common_directory(lower) else { return Err(io::ErrorKind::ArgumentListTooLong.into()) };
    let relative: Vec<&str> = lower.split(':').map(|dir| dir[base.len()..].trim_start_matches('/')).collect();
    let mut options = vec![format!("lowerdir={}", relative.join(":"))];
    options.extend(data.iter().filter(|option| !option.starts_with("lowerdir=")).map(|&option| option.to_owned()));
    let before = std::env::current_dir()?;
    std::env::set_current_dir(base)?;
    let joined = options.join(",");
    let mounted = mount(Some(layer.source.as_str()), target, Some("overlay"), flags, Some(joined.as_str()));
    std::env::set_current_dir(before)?;
    Ok(mounted?)
}

/// The longest directory that all of a `lowerdir` list lie below.
fn common_directory(lower: &str) -> Option<&str> {
    let mut dirs = lower.split(':').map(Path::new);
    let mut common = dirs.next()?.parent()?;
    for dir in dirs {
        while !dir.starts_with(common) {
            common = common.parent()?;
        }
    }
    let length = common.as_os_str().len();
    (length > 1).then(|| &lower[..length])
}

fn flag(option: &str) -> Option<MsFlags> {
    Some(match option {
        "ro" => MsFlags::MS_RDONLY,
        "nosuid" => MsFlags::MS_NOSUID,
        "nodev" => MsFlags::MS_NODEV,
        "noexec" => MsFlags::MS_NOEXEC,
        "sync" => MsFlags::MS_SYNCHRONOUS,
        "noatime" => MsFlags::MS_NOATIME,
        "nodiratime" => MsFlags::MS_NODIRATIME,
        "relatime" => MsFlags::MS_RELATIME,
        "strictatime" => MsFlags::MS_STRICTATIME,
        "bind" => MsFlags::MS_BIND,
        "rbind" => MsFlags::MS_BIND | MsFlags::MS_REC,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lower_directories_share_the_longest_directory() {
        assert_eq!(common_directory("/a/b/1/fs:/a/b/22/fs"), Some("/a/b"));
        assert_eq!(common_directory("/a/b/1/fs"), Some("/a/b/1"));
        assert_eq!(common_directory("/a/1:/b/1"), None);
    }
}
