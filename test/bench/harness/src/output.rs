//! The fifos of a container's output, held open at this end by descriptors alone: a thread for each would be measured
//! with the contender.

use anyhow::{Context, Result, anyhow, ensure};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Read};
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

/// Between two looks whether the work is done.
const LOOK_MS: u16 = 5;

/// Both fifos, removed when this is dropped.
pub(crate) struct Output {
    paths: [PathBuf; 2],
    files: [File; 2],
}

impl Output {
    pub(crate) fn new(folder: &Path, id: &str) -> Result<Output> {
        let paths = ["stdout", "stderr"].map(|name| folder.join(format!("{id}-{name}")));
        for path in &paths {
            mkfifo(path, Mode::S_IRUSR | Mode::S_IWUSR).with_context(|| format!("make {}", path.display()))?;
        }
        let files = [open(&paths[0])?, open(&paths[1])?];
        Ok(Output { paths, files })
    }

    /// As they are named to containerd.
    pub(crate) fn names(&self) -> [String; 2] {
        self.paths.each_ref().map(|path| path.display().to_string())
    }

    /// What has come on stdout since the last look.
    pub(crate) fn text(&self) -> String {
        read(&self.files[0])
    }

    /// Reads both beside the work, whatever comes and whenever, as clients do; what came on stdout.
    pub(crate) fn read_during<T>(&self, work: impl FnOnce() -> T) -> Result<(T, String)> {
        let is_done = AtomicBool::new(false);
        thread::scope(|scope| {
            let reader = scope.spawn(|| -> Result<String> {
                let mut text = String::new();
                while !is_done.load(Ordering::Relaxed) {
                    let mut set = self.files.each_ref().map(|file| PollFd::new(file.as_fd(), PollFlags::POLLIN));
                    poll(&mut set, PollTimeout::from(LOOK_MS))?;
                    text += &read(&self.files[0]);
                    read(&self.files[1]);
                }
                Ok(text + &read(&self.files[0]))
            });
            let done = work();
            is_done.store(true, Ordering::Relaxed);
            Ok((done, reader.join().map_err(|_| anyhow!("a reader panicked"))??))
        })
    }

    /// Waits until something comes on stdout, and gives it.
    pub(crate) fn wait_for_some(&self, patience: Duration) -> Result<String> {
        let mut set = [PollFd::new(self.files[0].as_fd(), PollFlags::POLLIN)];
        let ready = poll(&mut set, PollTimeout::try_from(patience)?)?;
        ensure!(ready > 0, "nothing came on {}", self.paths[0].display());
        Ok(self.text())
    }
}

/// What is in it now.
fn read(mut file: &File) -> String {
    let mut text = Vec::new();
    let mut part = [0; 4096];
    loop {
        match file.read(&mut part) {
            Ok(length) if length > 0 => text.extend_from_slice(&part[..length]),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            _ => return String::from_utf8_lossy(&text).into_owned(),
        }
    }
}

/// For reading and writing, which waits for nobody and never sees an end, fifo(7).
fn open(path: &Path) -> Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).custom_flags(nix::libc::O_NONBLOCK);
    options.open(path).with_context(|| format!("open {}", path.display()))
}

impl Drop for Output {
    fn drop(&mut self) {
        for path in &self.paths {
            let _ = fs::remove_file(path);
        }
    }
}
