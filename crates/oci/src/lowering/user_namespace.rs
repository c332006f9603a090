//! The user namespace: `linux.uidMappings`, `linux.gidMappings`, and those of single mounts.

use crate::bundle::Bundle;
use oci_spec::runtime::{LinuxIdMapping, LinuxNamespaceType, Mount as SpecMount};
use plan::{IdMappings, IdRange, User, UserNamespace, mapped};
use std::path::{Path, PathBuf};

/// Why the mapping of ids is refused.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Nobody would have an id.
    #[error(
        "the user namespace of linux.namespaces has no path and no mappings: add linux.uidMappings and gidMappings"
    )]
    Unmapped,
    /// No path has one.
    #[error("user namespace {0:?} has a null byte in its path: remove it")]
    Null(PathBuf),
    /// They would have no effect.
    #[error("linux.uidMappings or gidMappings without a user namespace: add one to linux.namespaces")]
    NoNamespace,
    /// The process could not become that user.
    #[error("process.user has the {what} {id}, which linux.{list} does not map: map it")]
    Outside {
        /// `uid` or `gid`.
        what: &'static str,
        /// The id.
        id: u32,
        /// The list.
        list: &'static str,
    },
    /// A list of mappings without the other.
    #[error("{0} maps user ids or group ids, and not both: map both")]
    Half(String),
    /// The kernel takes no more.
    #[error("{0} maps ids in more than 340 ranges: use fewer")]
    TooMany(String),
    /// Which ids?
    #[error(
        "mount at {0} is to map ids and names no mappings, nor has the container any: add uidMappings and gidMappings"
    )]
    Mount(PathBuf),
}

/// The kernel's bound on the lines of a map (user_namespaces(7)).
const MOST_RANGES: usize = 340;

/// Lowers the container's own.
pub(super) fn lower(bundle: &Bundle, user: &User) -> Result<Option<UserNamespace>, Error> {
    let linux = &bundle.linux;
    let ids = mappings("the spec", linux.uid_mappings().as_deref(), linux.gid_mappings().as_deref())?;
    let mut listed = linux.namespaces().iter().flatten();
    let Some(namespace) = listed.find(|one| one.typ() == LinuxNamespaceType::User) else {
        return if ids.is_empty() { Ok(None) } else { Err(Error::NoNamespace) };
    };
    // Go writes an absent path as an empty one.
    let path = namespace.path().clone().filter(|path| !path.as_os_str().is_empty());
    if let Some(path) = path.as_ref().filter(|path| path.as_os_str().as_encoded_bytes().contains(&0)) {
        return Err(Error::Null(path.clone()));
    }
    if path.is_none() && ids.is_empty() {
        return Err(Error::Unmapped);
    }
    if !ids.is_empty() {
        let wanted = [("uid", user.uid, &ids.uids, "uidMappings"), ("gid", user.gid, &ids.gids, "gidMappings")];
        if let Some((what, id, _, list)) = wanted.into_iter().find(|(_, id, ranges, _)| mapped(ranges, *id).is_none()) {
            return Err(Error::Outside { what, id, list });
        }
    }
    Ok(Some(UserNamespace { path, ids }))
}

/// Lowers those of a bind mount: its own, or with the option `idmap` or `ridmap` the container's.
pub(super) fn of_mount(
    mount: &SpecMount,
    destination: &Path,
    is_asked: bool,
    container: Option<&UserNamespace>,
) -> Result<Option<IdMappings>, Error> {
    let place = format!("mount at {}", destination.display());
    let ids = mappings(&place, mount.uid_mappings().as_deref(), mount.gid_mappings().as_deref())?;
    match (ids.is_empty(), is_asked) {
        (false, _) => Ok(Some(ids)),
        (true, false) => Ok(None),
        (true, true) => {
            let container = container.map(|namespace| namespace.ids.clone()).filter(|ids| !ids.is_empty());
            container.map(Some).ok_or_else(|| Error::Mount(destination.to_owned()))
        }
    }
}

fn mappings(
    place: &str,
    uids: Option<&[LinuxIdMapping]>,
    gids: Option<&[LinuxIdMapping]>,
) -> Result<IdMappings, Error> {
    let ranges = |list: Option<&[LinuxIdMapping]>| -> Vec<IdRange> {
        let list = list.unwrap_or_default().iter();
        let range =
            |one: &LinuxIdMapping| IdRange { inside: one.container_id(), outside: one.host_id(), length: one.size() };
        list.map(range).filter(|range| range.length > 0).collect()
    };
    let ids = IdMappings { uids: ranges(uids), gids: ranges(gids) };
    if ids.uids.is_empty() != ids.gids.is_empty() {
        return Err(Error::Half(place.to_owned()));
    }
    match ids.uids.len().max(ids.gids.len()) > MOST_RANGES {
        true => Err(Error::TooMany(place.to_owned())),
        false => Ok(ids),
    }
}
