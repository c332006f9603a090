//! The container's own mounts, made in its mount namespace, and the way into the new root.
//! Every path inside the root filesystem is resolved by the kernel with the root filesystem as `/`
//! (`RESOLVE_IN_ROOT`): no symlink or `..` of an image leads out of it.

use crate::syscall;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, OpenHow, ResolveFlag, openat2};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::stat::{Mode, SFlag, fstat, fstatat, mkdirat};
use nix::unistd::{UnlinkatFlags, pivot_root, unlinkat};
use plan::{Mount, MountFlags, MountSource, RootAccess, RunPlan};
use serde::{Deserialize, Serialize};
use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// `AT_RECURSIVE` of open_tree(2) and mount_setattr(2).
const AT_RECURSIVE: i32 = 0x8000;
const OPEN_TREE_CLONE: u32 = 1;
const OPEN_TREE_CLOEXEC: u32 = libc::O_CLOEXEC as u32;
const ATTR_RDONLY: u64 = 0x1;
const ATTR_NOSUID: u64 = 0x2;
const ATTR_NODEV: u64 = 0x4;
const ATTR_NOEXEC: u64 = 0x8;
const ATTR_NOATIME: u64 = 0x10;

/// A mount point that an image lacked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MountPoint {
    /// Path inside the root filesystem.
    pub path: PathBuf,
    /// File or directory.
    pub kind: MountPointKind,
}

/// What a mount point is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum MountPointKind {
    /// For a directory or a filesystem.
    Directory,
    /// For a single file.
    File,
}

/// Why the container's filesystem could not be put together.
#[derive(Debug, thiserror::Error)]
pub enum MountError {
    /// The root filesystem cannot be opened.
    #[error("open root filesystem {path}")]
    OpenRoot {
        /// Where.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// The source of a bind mount is not there.
    #[error("open {path}, the source of the mount on {destination}")]
    Source {
        /// On the node.
        path: PathBuf,
        /// In the container.
        destination: PathBuf,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// The place to mount on cannot be found or made.
    #[error("make mount point {path} in the container")]
    MountPoint {
        /// In the container.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// The kernel refused the mount.
    #[error("mount on {path} in the container")]
    Mount {
        /// In the container.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// Not every filesystem maps owners.
    #[error("map the owners of the mount on {path}: its filesystem may not support id-mapped mounts")]
    MapIds {
        /// In the container.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// The way into the new root failed.
    #[error("change to the container's root")]
    Pivot(#[source] io::Error),
}

/// A handle on the root filesystem at `path`.
pub(crate) fn open_root(path: &Path) -> Result<OwnedFd, MountError> {
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    nix::fcntl::open(path, flags, Mode::empty())
        .map_err(|errno| MountError::OpenRoot { path: path.to_owned(), source: errno.into() })
}

/// Puts the container's filesystem together on `rootfs`; `ids` are for its mapped mounts, in their order.
///
/// Must run in a mount namespace of the container's own that propagates nothing to the node.
pub(crate) fn put_together(rootfs: &Path, plan: &RunPlan, ids: &[OwnedFd]) -> Result<(), MountError> {
    let fail = |source: io::Error| MountError::Mount { path: PathBuf::from("/"), source };
    // A volume cloned from a slave mount would let mounts in that the node makes later, writable and with devices,
    // since the attributes below are set once.
    let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    mount(None::<&str>, "/", None::<&str>, private, None::<&str>).map_err(|errno| fail(errno.into()))?;
    if plan.root == RootAccess::Hidden {
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
        mount(Some("tmpfs"), rootfs, Some("tmpfs"), flags, Some("mode=755,size=64k")).map_err(|e| fail(e.into()))?;
    }
    let root = open_root(rootfs)?;
    let mut ids = ids.iter();
    for mount in &plan.mounts {
        let ids = mount.ids.as_ref().and_then(|_| ids.next());
        attach(&root, mount, ids)?;
    }
    Ok(())
}

/// Makes what [`put_together`] made this process's root, read-only if the plan says so: hooks may write to it before.
pub(crate) fn enter(rootfs: &Path, plan: &RunPlan) -> Result<(), MountError> {
    let fail = |errno: Errno| MountError::Mount { path: PathBuf::from("/"), source: errno.into() };
    let root = open_root(rootfs)?;
    let read_only = match plan.root {
        RootAccess::ReadWrite => 0,
        RootAccess::ReadOnly | RootAccess::Hidden => ATTR_RDONLY,
    };
    // Device nodes of an image would open the node's devices to a guest that is user 0.
    syscall::mount_set(root.as_fd(), 0, read_only | ATTR_NODEV | ATTR_NOSUID).map_err(fail)?;
    pivot(rootfs).map_err(|errno| MountError::Pivot(errno.into()))
}

/// The mount points that `mount` needs and the root filesystem lacks, parents first.
pub(crate) fn missing(root: &OwnedFd, mount: &Mount) -> Result<Vec<MountPoint>, MountError> {
    let mut points = Vec::new();
    let mut kind = kind_of(mount)?;
    let mut path = mount.destination.as_path();
    loop {
        match resolve(root, path) {
            Ok(_) => break,
            Err(Errno::ENOENT) => points.push(MountPoint { path: path.to_owned(), kind }),
            Err(errno) => return Err(MountError::MountPoint { path: path.to_owned(), source: errno.into() }),
        }
        let Some(parent) = path.parent() else { break };
        (path, kind) = (parent, MountPointKind::Directory);
    }
    points.reverse();
    Ok(points)
}

/// Makes a mount point whose parent exists.
pub(crate) fn make(root: &OwnedFd, point: &MountPoint) -> Result<(), MountError> {
    let fail = |errno: Errno| MountError::MountPoint { path: point.path.clone(), source: errno.into() };
    let (parent, name) = parent(root, &point.path).map_err(fail)?;
    let made = match point.kind {
        MountPointKind::Directory => mkdirat(&parent, name, Mode::from_bits_truncate(0o755)),
        MountPointKind::File => {
            let flags = OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_WRONLY | OFlag::O_CLOEXEC;
            nix::fcntl::openat(&parent, name, flags, Mode::from_bits_truncate(0o644)).map(drop)
        }
    };
    made.map_err(fail)
}

/// Removes a mount point that [`make`] made, if it is still there and empty. What the guest moved, filled or replaced is
/// the guest's now, and no reason to fail: a guest must not be able to hinder its own deletion.
pub(crate) fn remove(root: &OwnedFd, point: &MountPoint) {
    let removed = parent(root, &point.path).and_then(|(parent, name)| match point.kind {
        MountPointKind::Directory => unlinkat(&parent, name, UnlinkatFlags::RemoveDir),
        MountPointKind::File => remove_empty_file(&parent, name),
    });
    if let Err(errno) = removed {
        tracing::debug!(path = %point.path.display(), %errno, "a mount point is left to the root filesystem");
    }
}

fn remove_empty_file(parent: &OwnedFd, name: &Path) -> Result<(), Errno> {
    let file = fstatat(parent, name, AtFlags::AT_SYMLINK_NOFOLLOW)?;
    let kind = SFlag::from_bits_truncate(file.st_mode) & SFlag::S_IFMT;
    if kind != SFlag::S_IFREG || file.st_size > 0 {
        return Ok(());
    }
    unlinkat(parent, name, UnlinkatFlags::NoRemoveDir)
}

fn attach(root: &OwnedFd, mount: &Mount, ids: Option<&OwnedFd>) -> Result<(), MountError> {
    for point in missing(root, mount)? {
        make(root, &point)?;
    }
    let path = mount.destination.clone();
    let target =
        resolve(root, &path).map_err(|errno| MountError::MountPoint { path: path.clone(), source: errno.into() })?;
    let fail = |errno: Errno| MountError::Mount { path: path.clone(), source: errno.into() };
    match &mount.source {
        MountSource::Bind { path: source, recursive } => {
            let tree = detach(source, *recursive, mount)?;
            let depth = if *recursive { AT_RECURSIVE } else { 0 };
            if let Some(ids) = ids {
                let mapped = syscall::mount_map_ids(tree.as_fd(), depth, ids.as_fd());
                mapped.map_err(|errno| MountError::MapIds { path: path.clone(), source: errno.into() })?;
            }
            syscall::mount_set(tree.as_fd(), depth, attributes(mount.flags)).map_err(fail)?;
            syscall::move_mount(tree.as_fd(), target.as_fd()).map_err(fail)
        }
        MountSource::Tmpfs { data } => {
            let target = format!("/proc/self/fd/{}", target.as_raw_fd());
            let flags = tmpfs_flags(mount.flags);
            nix::mount::mount(Some("tmpfs"), target.as_str(), Some("tmpfs"), flags, Some(data.as_str())).map_err(fail)
        }
    }
}

fn detach(source: &Path, recursive: bool, mount: &Mount) -> Result<OwnedFd, MountError> {
    let fail = |source_error: io::Error| MountError::Source {
        path: source.to_owned(),
        destination: mount.destination.clone(),
        source: source_error,
    };
    let text = CString::new(source.as_os_str().as_bytes()).map_err(|error| fail(error.into()))?;
    let depth = if recursive { AT_RECURSIVE.unsigned_abs() } else { 0 };
    syscall::open_tree(&text, OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | depth).map_err(|errno| fail(errno.into()))
}

fn kind_of(mount: &Mount) -> Result<MountPointKind, MountError> {
    let MountSource::Bind { path, .. } = &mount.source else { return Ok(MountPointKind::Directory) };
    let metadata = std::fs::metadata(path).map_err(|source| MountError::Source {
        path: path.clone(),
        destination: mount.destination.clone(),
        source,
    })?;
    Ok(if metadata.is_dir() { MountPointKind::Directory } else { MountPointKind::File })
}

/// Opens `path` as if the root filesystem were `/`.
fn resolve(root: &OwnedFd, path: &Path) -> Result<OwnedFd, Errno> {
    let how = OpenHow::new()
        .flags(OFlag::O_PATH | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    openat2(root, path, how)
}

fn parent<'a>(root: &OwnedFd, path: &'a Path) -> Result<(OwnedFd, &'a Path), Errno> {
    let name = path.file_name().ok_or(Errno::EINVAL)?;
    let parent = resolve(root, path.parent().ok_or(Errno::EINVAL)?)?;
    if SFlag::from_bits_truncate(fstat(&parent)?.st_mode) & SFlag::S_IFMT != SFlag::S_IFDIR {
        return Err(Errno::ENOTDIR);
    }
    Ok((parent, Path::new(name)))
}

/// Devices and set-user-id programs are never for a guest.
fn attributes(flags: MountFlags) -> u64 {
    let chosen = [(flags.read_only, ATTR_RDONLY), (flags.noexec, ATTR_NOEXEC), (flags.noatime, ATTR_NOATIME)];
    let chosen = chosen.iter().filter(|(on, _)| *on);
    chosen.fold(ATTR_NOSUID | ATTR_NODEV, |attributes, (_, attribute)| attributes | attribute)
}

fn tmpfs_flags(flags: MountFlags) -> MsFlags {
    let mut all = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    all.set(MsFlags::MS_RDONLY, flags.read_only);
    all.set(MsFlags::MS_NOEXEC, flags.noexec);
    all.set(MsFlags::MS_NOATIME, flags.noatime);
    all
}

/// Makes the mount at `rootfs` the root, and lets go of the old one (pivot_root(2), "pivot_root(".", ".")").
fn pivot(rootfs: &Path) -> Result<(), Errno> {
    nix::unistd::chdir(rootfs)?;
    pivot_root(".", ".")?;
    umount2(".", MntFlags::MNT_DETACH)?;
    nix::unistd::chdir("/")
}
