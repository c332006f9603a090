//! The container's standard input, output and error: fifos that containerd's client made, or files or a logger that it
//! names.

use crate::logger::{self, Ends, Logger, LoggerError, Pipes};
use nix::fcntl::{OFlag, open};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::stat::{Mode, SFlag, fstat};
use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::time::{Instant, sleep};

/// How long a message waits for room in a full fifo that nobody reads.
const MESSAGE_PATIENCE: Duration = Duration::from_millis(500);

/// How long the last output waits for a client that reads it.
const READING_PATIENCE: Duration = Duration::from_millis(500);

/// How long it is looked for a reader that is already there, who takes less than the millisecond that tokio counts in.
const SOON: Duration = Duration::from_millis(2);
/// How often that is.
const TICK: Duration = Duration::from_micros(100);

/// Why stdio could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum StdioError {
    /// There are others.
    #[error("stdio by {0} is not supported: use fifos, file:// or binary://")]
    Scheme(String),
    /// A logger has both streams.
    #[error("stdout is the logger {stdout}, and stderr is {stderr}: give both to the same logger")]
    Half {
        /// What is to get stdout.
        stdout: String,
        /// What is to get stderr.
        stderr: String,
    },
    /// The pipes to a logger.
    #[error("make the pipes of a logger")]
    Pipes(#[source] io::Error),
    /// The logger's name.
    #[error(transparent)]
    Logger(#[from] LoggerError),
    /// Standard input comes by a fifo.
    #[error("stdin from {0} is not supported: use a fifo")]
    Input(String),
    /// The path is gone, or nobody may open it.
    #[error("open {path} for stdio")]
    Open {
        /// Which fifo or file.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
}

/// The descriptors of both sides.
#[derive(Debug)]
pub struct Stdio {
    /// What the shim keeps.
    pub kept: Kept,
    /// Standard input, output and error of the container process.
    pub child: [OwnedFd; 3],
}

/// The ends that the shim keeps while the container lives: a writer of stdin, so that the guest sees no end of file
/// before CloseIO, and readers of the outputs, so that it sees no broken pipe while containerd restarts.
#[derive(Debug, Default)]
pub struct Kept {
    stdin: Option<OwnedFd>,
    outputs: [Option<OwnedFd>; 2],
}

/// Where a container's stdio goes, by containerd's names.
#[derive(Debug, Clone, Copy)]
pub struct Names<'a> {
    /// The namespace of containerd.
    pub namespace: &'a str,
    /// The container's id.
    pub id: &'a str,
    /// Standard input.
    pub stdin: &'a str,
    /// Standard output.
    pub stdout: &'a str,
    /// Standard error.
    pub stderr: &'a str,
}

/// The logger that a container's output goes to.
#[derive(Debug)]
pub struct LoggerToRun {
    /// What to run.
    pub logger: Logger,
    /// Its ends.
    pub ends: Ends,
    /// Readable, or at its end, when it is ready.
    pub ready: OwnedFd,
}

fn is_logger(name: &str) -> bool {
    name.split_once("://").is_some_and(|(scheme, _)| scheme == logger::SCHEME)
}

impl Stdio {
    /// Opens the three paths; an empty one is `/dev/null`. A logger is left to the caller to run.
    pub fn open(names: &Names<'_>) -> Result<(Stdio, Option<LoggerToRun>), StdioError> {
        let (kept_in, child_in) = end(names.stdin, OFlag::O_RDONLY)?;
        if is_logger(names.stdout) || is_logger(names.stderr) {
            return Self::to_logger(names, kept_in, child_in);
        }
        let (kept_out, child_out) = end(names.stdout, OFlag::O_WRONLY)?;
        let (kept_err, child_err) = end(names.stderr, OFlag::O_WRONLY)?;
        let kept = Kept { stdin: kept_in, outputs: [kept_out, kept_err] };
        Ok((Stdio { kept, child: [child_in, child_out, child_err] }, None))
    }

    fn to_logger(
        names: &Names<'_>,
        kept_in: Option<OwnedFd>,
        child_in: OwnedFd,
    ) -> Result<(Stdio, Option<LoggerToRun>), StdioError> {
        // nerdctl and ctr name the same logger twice, or none for stderr.
        if !is_logger(names.stdout) || (names.stderr != names.stdout && !names.stderr.is_empty()) {
            return Err(StdioError::Half { stdout: names.stdout.to_owned(), stderr: names.stderr.to_owned() });
        }
        let logger = Logger::parse(names.stdout, names.namespace, names.id)?;
        let Pipes { theirs, streams: [stdout, stderr], ready } = Pipes::new().map_err(StdioError::Pipes)?;
        // An open file description of its own, as for fifos.
        let path = format!("/proc/self/fd/{}", stderr.as_raw_fd());
        let told = open(path.as_str(), OFlag::O_WRONLY | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC, Mode::empty());
        let told = told.map_err(|errno| StdioError::Pipes(errno.into()))?;
        let kept = Kept { stdin: kept_in, outputs: [None, Some(told)] };
        Ok((Stdio { kept, child: [child_in, stdout, stderr] }, Some(LoggerToRun { logger, ends: theirs, ready })))
    }
}

impl Kept {
    /// Lets the guest see the end of its input once the client has closed it too.
    pub fn close_stdin(&mut self) {
        self.stdin = None;
    }

    /// Waits until what was written to the fifos has been read. A client that hears of the end may stop opening them
    /// (containerd's does), and what nobody holds open is lost. What stays unread is given up on.
    pub async fn until_read(&self) {
        let is_unread = || self.outputs.iter().flatten().any(has_unread);
        if !is_unread() {
            return;
        }
        let deadline = Instant::now() + READING_PATIENCE;
        if let Ok(clock) = clock() {
            let soon = Instant::now() + SOON;
            while is_unread() && Instant::now() < soon && tick(&clock).await.is_ok() {}
        }
        while is_unread() && Instant::now() < deadline {
            sleep(Duration::from_millis(1)).await;
        }
    }

    /// Writes a message to the container's stderr. A fifo that stays full is given up on: nobody reads it.
    pub async fn tell(&self, message: &str) -> io::Result<()> {
        let [_, Some(stderr)] = &self.outputs else { return Ok(()) };
        let mut stderr = File::from(stderr.try_clone()?);
        let mut rest = message.as_bytes();
        let deadline = Instant::now() + MESSAGE_PATIENCE;
        while !rest.is_empty() {
            match stderr.write(rest) {
                Ok(written) => rest = &rest[written..],
                Err(error) if error.kind() == io::ErrorKind::WouldBlock && Instant::now() < deadline => {
                    sleep(Duration::from_millis(5)).await;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// Ticks every [`TICK`].
fn clock() -> io::Result<AsyncFd<OwnedFd>> {
    let timer = TimerFd::new(ClockId::CLOCK_MONOTONIC, TimerFlags::TFD_NONBLOCK | TimerFlags::TFD_CLOEXEC)?;
    timer.set(Expiration::Interval(TimeSpec::from_duration(TICK)), TimerSetTimeFlags::empty())?;
    // SAFETY: the AsyncFd owns the descriptor, which thus stays open and the same until it is dropped.
    Ok(unsafe { AsyncFd::register_with_interest(OwnedFd::from(timer), Interest::READABLE) }?)
}

async fn tick(clock: &AsyncFd<OwnedFd>) -> io::Result<()> {
    let mut ticked = clock.readable().await?;
    let _ = nix::unistd::read(clock.get_ref(), &mut [0; 8]);
    ticked.clear_ready();
    Ok(())
}

/// Whether a fifo, which is kept open in both directions, has something to read. Files and pipes of loggers have not.
fn has_unread(output: &OwnedFd) -> bool {
    let is_fifo =
        fstat(output).is_ok_and(|file| SFlag::from_bits_truncate(file.st_mode) & SFlag::S_IFMT == SFlag::S_IFIFO);
    let mut fds = [PollFd::new(output.as_fd(), PollFlags::POLLIN)];
    is_fifo && poll(&mut fds, PollTimeout::ZERO).is_ok_and(|ready| ready > 0)
}

/// The shim's end and the child's. Each is an open file description of its own: the child's mode of blocking is its
/// own affair.
fn end(path: &str, access: OFlag) -> Result<(Option<OwnedFd>, OwnedFd), StdioError> {
    if path.is_empty() {
        let null = Path::new("/dev/null");
        let fd = open(null, access | OFlag::O_CLOEXEC, Mode::empty()).map_err(|errno| failed(null, errno))?;
        return Ok((None, fd));
    }
    if let Some((scheme, file)) = path.split_once("://") {
        return match (scheme, access == OFlag::O_RDONLY) {
            ("file", false) => log_file(Path::new(file)),
            ("file", true) => Err(StdioError::Input(path.to_owned())),
            _ => Err(StdioError::Scheme(format!("{scheme}://"))),
        };
    }
    let path = Path::new(path);
    // Both directions at once never wait for a peer (fifo(7)), and are the peer that the child's end needs.
    let kept = open(path, OFlag::O_RDWR | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC, Mode::empty());
    let kept = kept.map_err(|errno| failed(path, errno))?;
    let child = open(path, access | OFlag::O_CLOEXEC, Mode::empty()).map_err(|errno| failed(path, errno))?;
    Ok((Some(kept), child))
}

/// A file that output is appended to, made with its directories if it is not there.
fn log_file(path: &Path) -> Result<(Option<OwnedFd>, OwnedFd), StdioError> {
    let fail = |source| StdioError::Open { path: path.to_owned(), source };
    if let Some(dir) = path.parent() {
        std::fs::create_dir_all(dir).map_err(fail)?;
    }
    // A fifo without a reader is an error, and nothing to wait for on the shim's only thread.
    let options = File::options().append(true).create(true).mode(0o644).custom_flags(libc::O_NONBLOCK).open(path);
    let file = options.map_err(fail)?;
    let kept = file.try_clone().map_err(fail)?;
    Ok((Some(kept.into()), file.into()))
}

fn failed(path: &Path, errno: nix::errno::Errno) -> StdioError {
    StdioError::Open { path: path.to_owned(), source: errno.into() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::unistd::mkfifo;
    use std::io::Read;
    use tokio::time::timeout;

    #[test]
    fn the_end_waits_for_a_reader_of_the_last_words() {
        let dir = tempfile::tempdir().unwrap();
        let [fifo, file] = ["fifo", "file"].map(|name| dir.path().join(name));
        mkfifo(&fifo, Mode::S_IRUSR | Mode::S_IWUSR).unwrap();
        let (stdout, stderr) = (fifo.display().to_string(), format!("file://{}", file.display()));
        let names = Names { namespace: "n", id: "i", stdin: "", stdout: &stdout, stderr: &stderr };
        let (Stdio { kept, child }, _) = Stdio::open(&names).unwrap();
        let [_, out, err] = child.map(File::from);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            (&err).write_all(b"in a file").unwrap();
            timeout(READING_PATIENCE / 2, kept.until_read()).await.unwrap();
            (&out).write_all(b"last words").unwrap();
            timeout(READING_PATIENCE / 10, kept.until_read()).await.unwrap_err();
            let mut reader = File::open(&fifo).unwrap();
            let mut said = [0; 10];
            reader.read_exact(&mut said).unwrap();
            timeout(READING_PATIENCE / 2, kept.until_read()).await.unwrap();
            assert_eq!(said, *b"last words");
            // Nobody reads this.
            (&out).write_all(b"more").unwrap();
            timeout(READING_PATIENCE * 10, kept.until_read()).await.unwrap();
        });
    }
}
