//! Cleans paths that name a place inside the container, by their text alone.
//! It must not resolve symlinks: that is done where the path is used, inside the root.

use std::path::{Component, Path, PathBuf};

/// Absolute, without `.` and `..`; a relative path starts at `/`, and `..` does not climb above it.
pub(super) fn clean(path: &Path) -> PathBuf {
    let mut cleaned = PathBuf::from("/");
    for component in path.components() {
        match component {
            Component::Normal(name) => cleaned.push(name),
            Component::ParentDir => {
                cleaned.pop();
            }
            Component::CurDir | Component::RootDir | Component::Prefix(_) => {}
        }
    }
    cleaned
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_cleaned_below_the_root() {
        let cases = [
            ("/a/b", "/a/b"),
            ("/a/./b//c/", "/a/b/c"),
            ("/a/../b", "/b"),
            ("/../../etc", "/etc"),
            ("a/b", "/a/b"),
            ("..", "/"),
            ("/", "/"),
            ("", "/"),
        ];
        for (path, wanted) in cases {
            assert_eq!(clean(Path::new(path)), Path::new(wanted), "{path:?}");
        }
    }
}
