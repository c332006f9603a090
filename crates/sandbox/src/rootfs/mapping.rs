//! Layers whose owners are mapped for a user namespace: containerd writes that as the options `uidmap` and `gidmap`,
//! which the kernel does not know.

use super::Layer;
use crate::{syscall, user_namespace};
use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::mount::{MntFlags, umount2};
use nix::sys::stat::Mode;
use plan::{IdMappings, IdRange};
use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

/// `OPEN_TREE_CLONE` and `OPEN_TREE_CLOEXEC` (open_tree(2)).
const CLONE: u32 = 1 | libc::O_CLOEXEC as u32;

/// A layer with mapped copies of its directories in place of the directories. The copies are attached for as long as
/// this lives: the mount made of them keeps what it needs.
pub(super) struct Mapped {
    layer: Layer,
    dir: PathBuf,
    attached: Vec<PathBuf>,
}

impl Mapped {
    /// Maps the directories of a layer that asks for it; `None` for one that does not.
    pub(super) fn of(target: &Path, layer: &Layer) -> io::Result<Option<Mapped>> {
        let option = |name: &str| layer.options.iter().find_map(|option| option.strip_prefix(name)?.strip_prefix('='));
        let (uids, gids) = match (option("uidmap"), option("gidmap")) {
            (None, None) => return Ok(None),
            (uids, gids) => (ranges(uids.unwrap_or_default())?, ranges(gids.unwrap_or_default())?),
        };
        let namespace = user_namespace::make(&IdMappings { uids, gids });
        let namespace = namespace.map_err(|error| io::Error::other(plan::one_line(&error)))?;
        let rest =
            layer.options.iter().filter(|option| !option.starts_with("uidmap=") && !option.starts_with("gidmap="));
        let mut mapped = Mapped {
            layer: Layer { options: rest.cloned().collect(), ..layer.clone() },
            dir: target.with_extension("mapped"),
            attached: Vec::new(),
        };
        mapped.attach(&namespace)?;
        Ok(Some(mapped))
    }

    pub(super) fn layer(&self) -> &Layer {
        &self.layer
    }

    fn attach(&mut self, namespace: &OwnedFd) -> io::Result<()> {
        if self.layer.kind != "overlay" {
            let source = self.copy(&self.layer.source.clone(), namespace)?;
            self.layer.source = source;
            return Ok(());
        }
        let lower = self.layer.options.iter().position(|option| option.starts_with("lowerdir="));
        let lower = lower.ok_or_else(|| io::Error::other("an overlay without lowerdir has no owners to map"))?;
        let dirs = self.layer.options[lower]["lowerdir=".len()..].to_owned();
        let copies = layers(&dirs).iter().map(|dir| self.copy(dir, namespace)).collect::<io::Result<Vec<_>>>()?;
        self.layer.options[lower] = format!("lowerdir={}", copies.join(":"));
        Ok(())
    }

    /// Attaches a mapped copy of a directory; gives its path.
    fn copy(&mut self, dir: &str, namespace: &OwnedFd) -> io::Result<String> {
        let tree = syscall::open_tree(&CString::new(dir)?, CLONE)?;
        syscall::mount_map_ids(tree.as_fd(), 0, namespace.as_fd()).map_err(|errno| {
            io::Error::other(format!("map the owners of {dir}, whose filesystem may not support it: {errno}"))
        })?;
        let path = self.dir.join(self.attached.len().to_string());
        std::fs::create_dir_all(&path)?;
        let point = open(&path, OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())?;
        syscall::move_mount(tree.as_fd(), point.as_fd())?;
        let text = path.to_string_lossy().replace('\\', r"\\").replace(':', r"\:");
        self.attached.push(path);
        Ok(text)
    }
}

impl Drop for Mapped {
    fn drop(&mut self) {
        for path in &self.attached {
            match umount2(path, MntFlags::MNT_DETACH) {
                Ok(()) | Err(Errno::EINVAL | Errno::ENOENT) => {}
                Err(errno) => tracing::warn!(path = %path.display(), %errno, "a mapped layer stays mounted"),
            }
        }
        // Nothing is in it but empty directories: one that is not empty stays.
        for path in &self.attached {
            let _ = std::fs::remove_dir(path);
        }
        let _ = std::fs::remove_dir(&self.dir);
    }
}

/// The directories of a `lowerdir`, where a backslash takes its meaning from what follows, as from a colon.
fn layers(text: &str) -> Vec<String> {
    let mut dirs = vec![String::new()];
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        let taken = match character {
            '\\' => characters.next(),
            ':' => {
                dirs.push(String::new());
                None
            }
            other => Some(other),
        };
        if let Some(dir) = dirs.last_mut() {
            dir.extend(taken);
        }
    }
    dirs
}

/// `0:100000:65536`, several joined by commas: inside, outside, how many.
fn ranges(text: &str) -> io::Result<Vec<IdRange>> {
    let wrong = || io::Error::new(io::ErrorKind::InvalidInput, format!("{text:?} is no mapping of ids"));
    let range = |part: &str| {
        let mut numbers = part.splitn(3, ':').map(str::parse::<u32>);
        match (numbers.next(), numbers.next(), numbers.next()) {
            (Some(Ok(inside)), Some(Ok(outside)), Some(Ok(length))) => Ok(IdRange { inside, outside, length }),
            _ => Err(wrong()),
        }
    };
    text.split(',').map(range).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_are_parted_at_plain_colons() {
        assert_eq!(layers(r"/a/fs:/b\:c\\/fs"), ["/a/fs", r"/b:c\/fs"]);
    }

    #[test]
    fn mappings_are_read_as_containerd_writes_them() {
        let range = |inside, outside, length| IdRange { inside, outside, length };
        assert_eq!(ranges("0:1000:10,10:5:1").unwrap(), [range(0, 1000, 10), range(10, 5, 1)]);
        for wrong in ["", "0:1", "a:b:c", "0:1:2:3", "-1:0:1"] {
            assert!(ranges(wrong).is_err(), "{wrong}");
        }
    }
}
