//! Stdio of a task as containerd's clients give it: fifos in a directory, with this process at the other ends, or a
//! file or a logger for the output.

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

/// Where stdout and stderr go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// A fifo each, which is read here.
    Fifos,
    /// A file that takes both alike; it is the caller's.
    File(PathBuf),
    /// A program of the node that takes both, by its `binary://`. What it makes of them is not seen here.
    Logger(String),
}

impl Stdio {
    /// Makes the fifos `NAME-stdout` and so on, those that there are to be, and begins to read.
    pub fn new(folder: &Path, name: &str, input: Input, output: &Output) -> Result<Self> {
        Ok(Stdio {
            stdin: input.make(folder, name)?,
            stdout: Reader::new(folder.join(format!("{name}-stdout")), output)?,
            stderr: Reader::new(folder.join(format!("{name}-stderr")), output)?,
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

impl Input {
    fn make(self, folder: &Path, name: &str) -> Result<Option<PathBuf>> {
        match self {
            Input::Absent => Ok(None),
            Input::Fifo => {
                let path = folder.join(format!("{name}-stdin"));
                mkfifo(&path, Mode::S_IRUSR | Mode::S_IWUSR)?;
                Ok(Some(path))
            }
        }
    }
}

impl Drop for Stdio {
    fn drop(&mut self) {
        if let Some(path) = &self.stdin {
            let _ = fs::remove_file(path);
        }
    }
}

/// What was written to one of the outputs.
#[derive(Debug)]
pub struct Reader {
    /// As a client names it to containerd.
    name: String,
    source: Source,
}

/// Where what was written can be read.
#[derive(Debug)]
enum Source {
    Fifo(PathBuf, Gathered),
    File(PathBuf),
    Nowhere,
}

/// What was written to a fifo, by a thread that reads it.
#[derive(Debug)]
struct Gathered {
    bytes: Arc<Mutex<Vec<u8>>>,
    ended: Arc<AtomicBool>,
    abandoned: Arc<AtomicBool>,
}

impl Reader {
    fn new(fifo: PathBuf, output: &Output) -> Result<Self> {
        let (name, source) = match output {
            Output::Fifos => (fifo.display().to_string(), Source::Fifo(fifo.clone(), Gathered::begin(&fifo)?)),
            Output::File(path) => (format!("file://{}", path.display()), Source::File(path.clone())),
            Output::Logger(uri) => (uri.clone(), Source::Nowhere),
        };
        Ok(Reader { name, source })
    }

    /// As a client names it to containerd.
    pub fn name(&self) -> String {
        self.name.clone()
    }

    /// What has come so far.
    pub fn text(&self) -> String {
        let bytes = match &self.source {
            Source::Fifo(_, gathered) => gathered.bytes.lock().expect("nothing panics with the lock").clone(),
            // Not there before the first container that writes to it.
            Source::File(path) => fs::read(path).unwrap_or_default(),
            Source::Nowhere => Vec::new(),
        };
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Waits until `part` has come.
    pub fn wait_for(&self, part: &str) -> Result<()> {
        wait::until(&format!("{part:?} on {}", self.name), || Ok(self.text().contains(part).then_some(())))
    }

    /// Waits until all writers have closed it, and gives everything. Only a fifo has an end to wait for.
    pub fn to_end(&self) -> Result<String> {
        if let Source::Fifo(_, gathered) = &self.source {
            wait::until(&format!("end of {}", self.name), || Ok(gathered.ended.load(Ordering::Acquire).then_some(())))?;
        }
        Ok(self.text())
    }
}

impl Gathered {
    /// Makes the fifo and begins to read.
    fn begin(path: &Path) -> Result<Self> {
        mkfifo(path, Mode::S_IRUSR | Mode::S_IWUSR)?;
        let mut options = OpenOptions::new();
        options.read(true).custom_flags(nix::libc::O_NONBLOCK);
        let file = options.open(path)?;
        let gathered = Gathered { bytes: Arc::default(), ended: Arc::default(), abandoned: Arc::default() };
        let (bytes, ended) = (gathered.bytes.clone(), gathered.ended.clone());
        let abandoned = gathered.abandoned.clone();
        thread::spawn(move || {
            gather(file, &bytes, &abandoned);
            ended.store(true, Ordering::Release);
        });
        Ok(gathered)
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        if let Source::Fifo(path, gathered) = &self.source {
            gathered.abandoned.store(true, Ordering::Release);
            let _ = fs::remove_file(path);
        }
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
