//! Reading, writing and marking files of cgroupfs.

use super::CgroupError;
use std::ffi::CString;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Marks a directory as made by this shim. Kubelet's and systemd's own are never removed.
const MARK: &std::ffi::CStr = c"trusted.containerd-shim-wasm";

pub(super) fn write(file: &Path, value: &str) -> Result<(), CgroupError> {
    fs::write(file, value).map_err(|source| CgroupError::File {
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
