//! Stdio of a task as containerd's clients give it: fifos in a directory, with this process at the other ends.

use crate::wait;
use anyhow::Result;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

/// The three fifos of a task; removed when dropped.
#[derive(Debug)]
pub struct Stdio {
    /// For the task's stdin, if it has one.
    pub stdin: Option<PathBuf>,
    /// What the task writes to stdout.
    pub stdout: Reader,
    /// What the task writes to stderr.
    pub stderr: Reader,
}

/// Whether a task has a stdin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Input {
    /// An empty path: reads see the end at once.
    Absent,
    /// A fifo.
    Fifo,
}

impl Stdio {
    /// Makes the fifos `NAME-stdout` and so on, and begins to read.
    pub fn new(folder: &Path, name: &str, input: Input) -> Result<Self> {
        let stdin = match input {
            Input::Absent => None,
            Input::Fifo => {
                let path = folder.join(format!("{name}-stdin"));
                mkfifo(&path, Mode::S_IRUSR | Mode::S_IWUSR)?;
                Some(path)
            }
        };
        Ok(Stdio {
            stdin,
            stdout: Reader::new(folder.join(format!("{name}-stdout")))?,
            stderr: Reader::new(folder.join(format!("{name}-stderr")))?,
        })
    }

    /// Opens the writing end of stdin; waits for the shim to hold the reading end.
    pub fn write_end(&self) -> Result<File> {
        let path = self.stdin.as_ref().expect("the test asked for a stdin");
        let mut options = OpenOptions::new();
        options.write(true).custom_flags(nix::libc::O_NONBLOCK);
        // ENXIO until there is a reader, fifo(7).
        drop(wait::until("the shim opens stdin", || Ok(options.open(path).ok()))?);
        Ok(OpenOptions::new().write(true).open(path)?)
    }
}

impl Drop for Stdio {
    fn drop(&mut self) {
        if let Some(path) = &self.stdin {
            let _ = fs::remove_file(path);
        }
    }
}

/// Gathers what is written to a fifo, in a thread of its own.
#[derive(Debug)]
pub struct Reader {
    path: PathBuf,
    bytes: Arc<Mutex<Vec<u8>>>,
    ended: Arc<AtomicBool>,
    abandoned: Arc<AtomicBool>,
}

impl Reader {
    fn new(path: PathBuf) -> Result<Self> {
        mkfifo(&path, Mode::S_IRUSR | Mode::S_IWUSR)?;
        let mut options = OpenOptions::new();
        options.read(true).custom_flags(nix::libc::O_NONBLOCK);
        let file = options.open(&path)?;
        let reader = Reader { path, bytes: Arc::default(), ended: Arc::default(), abandoned: Arc::default() };
        let (bytes, ended) = (reader.bytes.clone(), reader.ended.clone());
        let abandoned = reader.abandoned.clone();
        thread::spawn(move || {
            gather(file, &bytes, &abandoned);
            ended.store(true, Ordering::Release);
        });
        Ok(reader)
    }

    /// The fifo.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What has come so far.
    pub fn text(&self) -> String {
        let bytes = self.bytes.lock().expect("nothing panics with the lock");
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Waits until `part` has come.
    pub fn wait_for(&self, part: &str) -> Result<()> {
        wait::until(&format!("{part:?} on {}", self.path.display()), || Ok(self.text().contains(part).then_some(())))
    }

    /// Waits until all writers have closed it, and gives everything.
    pub fn to_end(&self) -> Result<String> {
        wait::until(&format!("end of {}", self.path.display()), || {
            Ok(self.ended.load(Ordering::Acquire).then_some(()))
        })?;
        Ok(self.text())
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.abandoned.store(true, Ordering::Release);
        let _ = fs::remove_file(&self.path);
    }
}

/// Reads until the last writer is gone. poll(2) reports no hang-up before the first writer came.
fn gather(mut file: File, bytes: &Mutex<Vec<u8>>, abandoned: &AtomicBool) {
    const LOOK_MS: u16 = 50;
    let mut buffer = vec![0; 65536];
    while !abandoned.load(Ordering::Acquire) {
        let mut set = [PollFd::new(file.as_fd(), PollFlags::POLLIN)];
        if poll(&mut set, PollTimeout::from(LOOK_MS)).is_err() {
            continue;
        }
        let events = set[0].revents().unwrap_or(PollFlags::empty());
        if events.is_empty() {
            continue;
        }
        match file.read(&mut buffer) {
            Ok(0) => return,
            Ok(size) => {
                let mut bytes = bytes.lock().expect("nothing panics with the lock");
                bytes.extend_from_slice(&buffer[..size]);
            }
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(_) => return,
        }
    }
}

/// Writes all of it and closes.
pub fn write_all(mut file: File, bytes: &[u8]) -> Result<()> {
    Ok(file.write_all(bytes)?)
}
