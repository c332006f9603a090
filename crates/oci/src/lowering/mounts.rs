//! `mounts`: which become the guest's filesystem, and which are not made.
//! It must not know how a mount becomes a preopen.

use super::paths::clean;
use super::user_namespace::{self, Error as UserNamespaceError};
use crate::bundle::Bundle;
use oci_spec::runtime::Mount as SpecMount;
use plan::{Mount, MountFlags, MountSource, UserNamespace, mapped};
use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// The path of the failure message, on containers of a pod where the operator lets the annotation through.
const TERMINATION_PATH: &str = "io.kubernetes.container.terminationMessagePath";
/// Where Kubernetes mounts it if the pod names no other place.
const DEFAULT_TERMINATION_PATH: &str = "/dev/termination-log";
/// Kernel interfaces: the guest reaches them through WASI or not at all.
const KERNEL_TYPES: [&str; 6] = ["proc", "sysfs", "devpts", "mqueue", "cgroup", "cgroup2"];
/// Where such filesystems would be, so that nothing can be mounted below them.
const KERNEL_PLACES: [&str; 2] = ["/proc", "/sys"];

/// Why a mount is refused.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Neither bind nor tmpfs, nor one of the kernel's own.
    #[error("mount of type {kind} at {destination} is not supported: use bind or tmpfs")]
    Type {
        /// The spec's type.
        kind: String,
        /// In the container.
        destination: PathBuf,
    },
    /// An option we would have to ignore.
    #[error("unknown option {option} of the mount at {destination}: remove it")]
    Option {
        /// The option.
        option: String,
        /// In the container.
        destination: PathBuf,
    },
    /// A bind mount of nothing.
    #[error("bind mount at {0} has no source: name a file or directory of the node")]
    NoSource(PathBuf),
    /// Over the whole root.
    #[error("mount at {0} would hide the root filesystem: mount it below")]
    OverRoot(PathBuf),
    /// The mapping of its ids.
    #[error(transparent)]
    Ids(#[from] UserNamespaceError),
    /// A filesystem in memory has the owner that its options name.
    #[error("tmpfs at {0} maps user ids: use the options uid and gid")]
    MappedTmpfs(PathBuf),
    /// No path of the kernel has one.
    #[error("mount at {0:?} has a null byte in its paths: remove it")]
    Null(PathBuf),
}

/// Lowers the mounts, in their order.
pub(super) fn lower(
    bundle: &Bundle,
    user_namespace: Option<&UserNamespace>,
    warnings: &mut Vec<String>,
) -> Result<Vec<Mount>, Error> {
    let mut mounts = Vec::new();
    for mount in bundle.spec.mounts().iter().flatten() {
        mounts.extend(lower_one(&bundle.path, mount, user_namespace, warnings)?);
    }
    Ok(mounts)
}

/// The node's file that is mounted, to be written, at the place of the termination message.
pub(super) fn termination_file(annotations: &HashMap<String, String>, mounts: &[Mount]) -> Option<PathBuf> {
    let named = annotations.get(TERMINATION_PATH).map(String::as_str);
    let place = clean(Path::new(named.unwrap_or(DEFAULT_TERMINATION_PATH)));
    // Of two mounts at one place the later hides the earlier.
    let mut mounts = mounts.iter().rev();
    let mount = mounts.find(|mount| mount.destination == place)?;
    match &mount.source {
        MountSource::Bind { path, .. } if !mount.flags.read_only => Some(path.clone()),
        MountSource::Bind { .. } | MountSource::Tmpfs { .. } => None,
    }
}

fn lower_one(
    bundle: &Path,
    mount: &SpecMount,
    user_namespace: Option<&UserNamespace>,
    warnings: &mut Vec<String>,
) -> Result<Option<Mount>, Error> {
    let written = mount.destination();
    let has_null = |path: &Path| path.as_os_str().as_encoded_bytes().contains(&0);
    if has_null(written) || mount.source().as_deref().is_some_and(has_null) {
        return Err(Error::Null(written.clone()));
    }
    let destination = clean(written);
    let options = mount.options().as_deref().unwrap_or_default();
    let kind = mount.typ().as_deref().unwrap_or_default();
    // As mount(8) and runc have it, the option makes the bind mount, whatever the type says.
    let is_bind = kind == "bind" || options.iter().any(|one| one == "bind" || one == "rbind");
    if !is_bind {
        if KERNEL_TYPES.contains(&kind) || (kind == "tmpfs" && destination == Path::new("/dev")) {
            return Ok(None);
        }
        if kind != "tmpfs" {
            return Err(Error::Type { kind: kind.to_owned(), destination });
        }
    }
    if destination == Path::new("/") {
        return Err(Error::OverRoot(written.clone()));
    }
    if KERNEL_PLACES.iter().any(|place| destination.starts_with(place)) {
        warnings.push(format!("mount at {} is not made: the guest has no /proc and no /sys", destination.display()));
        return Ok(None);
    }
    let mut read = Options::default();
    for option in options {
        if !read.take(option) {
            if is_bind {
                return Err(Error::Option { option: option.clone(), destination });
            }
            read.data.push(option);
        }
    }
    if let Some(propagation) = read.propagation.filter(|_| is_bind) {
        warnings.push(format!(
            "mount at {} is private, not {propagation}: mounts that the node makes below it later do not appear",
            destination.display()
        ));
    }
    let ids = user_namespace::of_mount(mount, &destination, read.maps_ids, user_namespace)?;
    let source = if is_bind {
        let source = mount.source().as_ref().filter(|path| !path.as_os_str().is_empty());
        let source = source.ok_or_else(|| Error::NoSource(destination.clone()))?;
        MountSource::Bind {
            // The spec lets a source be relative to the bundle.
            path: bundle.join(source),
            recursive: options.iter().any(|one| one == "rbind"),
        }
    } else {
        if ids.is_some() {
            return Err(Error::MappedTmpfs(destination));
        }
        check_tmpfs(&read.data, &destination)?;
        MountSource::Tmpfs { data: tmpfs_data(&read.data, user_namespace) }
    };
    Ok(Some(Mount { destination, source, flags: read.flags, ids }))
}

/// What the options of one mount say.
#[derive(Default)]
struct Options<'a> {
    flags: MountFlags,
    propagation: Option<String>,
    maps_ids: bool,
    /// Not a flag: an option of the filesystem itself.
    data: Vec<&'a str>,
}

impl Options<'_> {
    /// Takes an option that holds for every kind of mount; false if it is none.
    fn take(&mut self, option: &str) -> bool {
        match option {
            // Every read-only mount is so with the mounts below it.
            "ro" | "rro" => self.flags.read_only = true,
            "rw" => self.flags.read_only = false,
            // Devices and set-user-id programs are never for a guest.
            "nosuid" | "suid" | "nodev" | "dev" => {}
            "noexec" => self.flags.noexec = true,
            "exec" => self.flags.noexec = false,
            "noatime" => self.flags.noatime = true,
            // `relatime` is the kernel's default; `strictatime` differs in access times only.
            "relatime" | "strictatime" | "atime" => self.flags.noatime = false,
            "shared" | "rshared" | "slave" | "rslave" => self.propagation = Some(option.to_owned()),
            // Mounts below it are mapped with it.
            "idmap" | "ridmap" => self.maps_ids = true,
            "bind" | "rbind" | "defaults" | "private" | "rprivate" => {}
            _ => return false,
        }
        true
    }
}

/// The options of tmpfs(5) that bound it or set its mode and owner.
fn check_tmpfs(data: &[&str], destination: &Path) -> Result<(), Error> {
    const KNOWN: [&str; 6] = ["mode", "size", "uid", "gid", "nr_inodes", "nr_blocks"];
    let unknown = data.iter().find(|option| {
        let name = option.split_once('=').map(|(name, _)| name);
        // A comma would smuggle in a second option.
        option.contains(',') || !name.is_some_and(|name| KNOWN.contains(&name))
    });
    match unknown {
        None => Ok(()),
        Some(option) => Err(Error::Option { option: (*option).to_owned(), destination: destination.to_owned() }),
    }
}

/// The options as they are given outside of the container's user namespace, where the filesystem is made.
fn tmpfs_data(data: &[&str], user_namespace: Option<&UserNamespace>) -> String {
    let Some(ids) = user_namespace.map(|namespace| &namespace.ids).filter(|ids| !ids.is_empty()) else {
        return data.join(",");
    };
    let owners = [("uid", &ids.uids), ("gid", &ids.gids)].map(|(name, ranges)| {
        let named = data.iter().find_map(|option| option.strip_prefix(name)?.strip_prefix('=')?.parse().ok());
        // What is not mapped belongs to nobody inside, as the kernel has it.
        mapped(ranges, named.unwrap_or(0)).map(|id| format!("{name}={id}"))
    });
    let others = data.iter().filter(|option| !option.starts_with("uid=") && !option.starts_with("gid="));
    others.map(|&option| option.to_owned()).chain(owners.into_iter().flatten()).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
#[path = "mounts_tests.rs"]
mod tests;
