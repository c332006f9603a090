//! Reading, writing and marking files of cgroupfs, and the writes that a set of limits comes to.

use super::CgroupError;
use std::ffi::CString;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// Marks a directory as made by this shim. Kubelet's and systemd's own are never removed.
const MARK: &std::ffi::CStr = c"trusted.containerd-shim-wasm";

/// One limit, as it is written.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Setting {
    pub(super) file: PathBuf,
    pub(super) value: String,
    /// What a kernel without that file means.
    pub(super) absent: Absent,
}

/// What it means that the kernel has no file for a limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Absent {
    /// The limit cannot be kept, so there is no container.
    Refused,
    /// The container runs without, and the log says so.
    Noted,
}

impl Setting {
    /// Writes it; gives the line for the log if it does not apply on this node.
    pub(super) fn apply(&self) -> Result<Option<String>, CgroupError> {
        match write(&self.file, &self.value) {
            Err(CgroupError::File { source, .. })
                if self.absent == Absent::Noted && source.kind() == io::ErrorKind::NotFound =>
            {
                let name = self.file.file_name().unwrap_or_default().to_string_lossy();
                Ok(Some(format!(
                    "limit {} = {} is not applied: this node's cgroups have no such file",
                    name, self.value
                )))
            }
            result => result.map(|()| None),
        }
    }
}

pub(super) fn write(file: &Path, value: &str) -> Result<(), CgroupError> {
    // Never made: a file that is not there is a limit that the kernel does not have.
    let written = fs::OpenOptions::new().write(true).open(file);
    written.and_then(|mut file| io::Write::write_all(&mut file, value.as_bytes())).map_err(|source| CgroupError::File {
        action: format!("write {value} to"),
        path: file.to_owned(),
        source,
    })
}

pub(super) fn read(file: &Path) -> Result<String, CgroupError> {
    fs::read_to_string(file).map_err(|source| CgroupError::File {
        action: "read".to_owned(),
        path: file.to_owned(),
        source,
    })
}

/// A filesystem that takes no mark keeps the directory: an empty one that stays is better than one too many removed.
pub(super) fn add_parent_mark(dir: &Path) {
    let Ok(path) = CString::new(dir.as_os_str().as_bytes()) else { return };
    // SAFETY: both names are C strings and the value is one byte of a static.
    unsafe { libc::setxattr(path.as_ptr(), MARK.as_ptr(), b"1".as_ptr().cast(), 1, 0) };
}

pub(super) fn marked_parent(dir: &Path) -> bool {
    let Ok(path) = CString::new(dir.as_os_str().as_bytes()) else { return false };
    // SAFETY: both names are C strings; a size of 0 asks for the length only.
    let length = unsafe { libc::getxattr(path.as_ptr(), MARK.as_ptr(), std::ptr::null_mut(), 0) };
    length > 0
}
