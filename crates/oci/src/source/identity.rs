//! Identifies a file of the root filesystem by the unchanging file on the node's disk behind it, so that it is not
//! hashed at each start.
//! Invariant: an identity is given only for a file that no container can change in place. Where that is not sure there
//! is none, and the file is hashed: slower, never wrong.

use super::rootfs::{Found, Place, is_absent};
use crate::RootfsMount;
use pathrs::Root;
use pathrs::flags::ResolverFlags;
use plan::FileIdentity;
use std::fs::{File, Metadata};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A younger file could change again within the same tick of the kernel's clock, as git says of its index
/// (git, `Documentation/technical/racy-git`).
const SETTLED: Duration = Duration::from_secs(2);

/// The identity of `found`, if its root filesystem is an overlay (and it lies in a lower directory) or read-only.
pub(crate) fn identify(found: &Found, mounts: &[RootfsMount], now: SystemTime) -> Option<FileIdentity> {
    // A file of the same name, number and length in the image is another's, and its digest not this one's.
    if found.place == Place::Volume {
        return None;
    }
    let [mount] = mounts else {
        return None;
    };
    let behind = match mount.kind.as_str() {
        "overlay" => in_overlay(&found.path, &mount.options)?,
        "bind" | "rbind" if mount.options.iter().any(|option| option == "ro") => {
            match look(Path::new(&mount.source), &found.path) {
                Look::File(metadata) => metadata,
                Look::Absent | Look::Unclear => return None,
            }
        }
        _ => return None,
    };
    let same = behind.ino() == found.metadata.ino() && behind.len() == found.metadata.len();
    (same && is_settled(&behind, now)).then(|| FileIdentity {
        device: behind.dev(),
        inode: behind.ino(),
        changed_ns: changed_ns(&behind),
        size: behind.len(),
    })
}

/// The file in the topmost lower directory that has it; `None` if the container's own layer has it, or may have.
fn in_overlay(path: &Path, options: &[String]) -> Option<Metadata> {
    let value = |key| options.iter().find_map(|option| option.strip_prefix(key));
    if let Some(upper) = value("upperdir=") {
        match look(Path::new(upper), path) {
            Look::Absent => {}
            Look::File(_) | Look::Unclear => return None,
        }
    }
    for lower in lower_dirs(value("lowerdir=")?) {
        // containerd gives full paths; a relative one would depend on the working directory of the mounting process.
        if !lower.is_absolute() {
            return None;
        }
        match look(&lower, path) {
            Look::Absent => {}
            Look::File(metadata) => return Some(metadata),
            Look::Unclear => return None,
        }
    }
    None
}

/// What lies at a path in one directory of an overlay.
enum Look {
    Absent,
    File(Metadata),
    /// A whiteout, a directory, a symlink on the way: the overlay shows something else than this directory has.
    Unclear,
}

fn look(dir: &Path, path: &Path) -> Look {
    // Without symlinks: the path is resolved already, and a link below would lead elsewhere than in the overlay.
    let resolved =
        Root::open(dir).and_then(|root| root.with_resolver_flags(ResolverFlags::NO_SYMLINKS).resolve_nofollow(path));
    match resolved {
        Ok(handle) => match File::from(OwnedFd::from(handle)).metadata() {
            Ok(metadata) if metadata.is_file() => Look::File(metadata),
            Ok(_) | Err(_) => Look::Unclear,
        },
        Err(error) if is_absent(&error) => Look::Absent,
        Err(_) => Look::Unclear,
    }
}

/// Splits at colons; a backslash escapes a colon or a backslash (kernel, `Documentation/filesystems/overlayfs.rst`).
fn lower_dirs(text: &str) -> Vec<PathBuf> {
    let mut dirs = vec![String::new()];
    let mut chars = text.chars();
    while let Some(char) = chars.next() {
        match char {
            ':' => dirs.push(String::new()),
            _ => {
                let char = if char == '\\' { chars.next().unwrap_or(char) } else { char };
                if let Some(last) = dirs.last_mut() {
                    last.push(char);
                }
            }
        }
    }
    dirs.into_iter().map(PathBuf::from).collect()
}

fn is_settled(metadata: &Metadata, now: SystemTime) -> bool {
    let since_epoch = now.duration_since(UNIX_EPOCH).unwrap_or_default();
    let settled_ns = since_epoch.saturating_sub(SETTLED).as_nanos();
    i128::try_from(settled_ns).is_ok_and(|settled_ns| changed_ns(metadata) <= settled_ns)
}

fn changed_ns(metadata: &Metadata) -> i128 {
    i128::from(metadata.ctime()) * 1_000_000_000 + i128::from(metadata.ctime_nsec())
}

#[cfg(test)]
#[path = "identity_tests.rs"]
mod tests;
