//! The file that takes a container's last message: opened before a guest can change what lies at its path, and only if
//! the container could write it itself, since the shim may write everything.

use plan::{IdRange, RunPlan};
use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// An open file for the message.
#[derive(Debug)]
pub(super) struct TerminationFile {
    path: PathBuf,
    file: File,
}

impl TerminationFile {
    /// Opens the plan's, if it has one that can be used; the log says why one cannot.
    pub(super) fn open(plan: &RunPlan) -> Option<TerminationFile> {
        let path = plan.termination_file.clone()?;
        match open(&path, plan) {
            Ok(file) => Some(TerminationFile { path, file }),
            Err(error) => {
                tracing::warn!(id = plan.id, path = %path.display(), %error, "the termination file takes no reason");
                None
            }
        }
    }

    pub(super) fn take(&self, id: &str, message: &str) {
        if let Err(error) = (&self.file).write_all(message.as_bytes()) {
            tracing::warn!(id, path = %self.path.display(), %error, "the termination file did not take the reason");
        }
    }
}

/// The file lies where the pod's user may have put anything: only a regular file is written to, and nothing waited for.
fn open(path: &Path, plan: &RunPlan) -> io::Result<File> {
    let file = OpenOptions::new().append(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(path)?;
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no regular file"));
    }
    match is_writable(&metadata, plan) {
        true => Ok(file),
        false => Err(io::Error::new(io::ErrorKind::PermissionDenied, "the container's user may not write it")),
    }
}

/// By owner, group and mode, as the kernel would ask (path_resolution(7)).
fn is_writable(metadata: &Metadata, plan: &RunPlan) -> bool {
    let (owner, group, others) = (0o200, 0o020, 0o002);
    let user = &plan.isolation.user;
    let namespace = plan.isolation.user_namespace.as_ref();
    if namespace.is_none() && user.uid == 0 {
        return true;
    }
    let on_node = |id: u32, ranges: fn(&plan::IdMappings) -> &[IdRange]| match namespace {
        None => Some(id),
        Some(namespace) => outside(id, ranges(&namespace.ids)),
    };
    let is_member = |id: &u32| on_node(*id, |ids| &ids.gids) == Some(metadata.gid());
    let asked = if on_node(user.uid, |ids| &ids.uids) == Some(metadata.uid()) {
        owner
    } else if is_member(&user.gid) || user.groups.iter().any(is_member) {
        group
    } else {
        others
    };
    metadata.mode() & asked != 0
}

fn outside(id: u32, ranges: &[IdRange]) -> Option<u32> {
    let range = ranges.iter().find(|range| id.checked_sub(range.inside).is_some_and(|above| above < range.length))?;
    range.outside.checked_add(id - range.inside)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_looked_up_in_their_range() {
        let ranges = [IdRange { inside: 0, outside: 1000, length: 10 }, IdRange { inside: 20, outside: 5, length: 1 }];
        assert_eq!([0, 9, 20].map(|id| outside(id, &ranges)), [Some(1000), Some(1009), Some(5)]);
        assert_eq!([10, 19, 21, u32::MAX].map(|id| outside(id, &ranges)), [None; 4]);
    }
}
