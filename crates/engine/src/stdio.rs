//! The guest's standard streams over descriptors, on one thread and without losing or reordering a byte.
//!
//! Pipes never block the thread: a guest that waits for one can still be ended. Other files (`/dev/null`, a log file)
//! are read and written where the guest stands.

use bytes::{Bytes, BytesMut};
use plan::RunPlan;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileTypeExt;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::unix::pipe;
use wasmtime_wasi::async_trait;
use wasmtime_wasi::cli::{InputFile, IsTerminal, OutputFile, StdinStream, StdoutStream};
use wasmtime_wasi::p2::{InputStream, OutputStream, Pollable, StreamError, StreamResult};

/// What a guest may hand over in one write, and gets in one read, bytes: what a pipe holds by default.
const CHUNK: usize = 64 << 10;

/// Lines of ours are dropped while this much waits for somebody to read it, bytes.
const MOST_TOLD: usize = 64 << 10;

/// The descriptors of the guest's standard streams. Pipes are made non-blocking, which holds for everybody who shares
/// their open file description.
#[derive(Debug)]
pub struct Stdio {
    /// Readable.
    pub stdin: OwnedFd,
    /// Writable.
    pub stdout: OwnedFd,
    /// Writable.
    pub stderr: OwnedFd,
}

impl Stdio {
    /// Duplicates of this process's descriptors 0, 1 and 2.
    pub fn of_process() -> io::Result<Self> {
        Ok(Stdio {
            stdin: io::stdin().as_fd().try_clone_to_owned()?,
            stdout: io::stdout().as_fd().try_clone_to_owned()?,
            stderr: io::stderr().as_fd().try_clone_to_owned()?,
        })
    }
}

/// How a guest's world learns that nobody reads its output any more.
#[derive(Debug, Clone, Copy)]
pub(crate) enum BrokenPipe {
    /// As the error of the write. WASI 0.1 makes EPIPE of it.
    Error,
    /// As a closed stream. The libraries of WASI 0.2 make EPIPE of that.
    Closed,
}

/// The stream for a guest's stdin.
pub(crate) fn input(fd: OwnedFd, plan: &RunPlan) -> io::Result<Box<dyn StdinStream + Sync>> {
    let file = File::from(fd);
    let pipe = match Kind::of(&file, plan)? {
        Kind::File => return Ok(Box::new(InputFile::new(file))),
        Kind::Pipe => PipeInput { pipe: Arc::new(pipe::Receiver::from_file(file)?), terminal: false },
        Kind::Terminal => PipeInput { pipe: Arc::new(pipe::Receiver::from_file_unchecked(file)?), terminal: true },
    };
    Ok(Box::new(pipe))
}

/// What a stream is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    File,
    Pipe,
    /// It was made so that it does not block, and is read and written like a pipe.
    Terminal,
}

impl Kind {
    /// The kernel is not asked whether it is a terminal: that takes a call that the guest's process has not.
    fn of(file: &File, plan: &RunPlan) -> io::Result<Kind> {
        Ok(match file.metadata()?.file_type() {
            kind if kind.is_fifo() => Kind::Pipe,
            kind if kind.is_char_device() && plan.terminal => Kind::Terminal,
            _ => Kind::File,
        })
    }
}

/// A pipe, or a terminal, that the guest reads.
#[derive(Clone)]
struct PipeInput {
    pipe: Arc<pipe::Receiver>,
    terminal: bool,
}

impl IsTerminal for PipeInput {
    fn is_terminal(&self) -> bool {
        self.terminal
    }
}

impl StdinStream for PipeInput {
    fn async_stream(&self) -> Box<dyn AsyncRead + Send + Sync> {
        Box::new(PipeReader { pipe: self.pipe.clone(), waiting: None })
    }

    fn p2_stream(&self) -> Box<dyn InputStream> {
        Box::new(self.clone())
    }
}

#[async_trait]
impl Pollable for PipeInput {
    async fn ready(&mut self) {
        // An error shows at the read.
        let _ = self.pipe.readable().await;
    }
}

#[async_trait]
impl InputStream for PipeInput {
    fn read(&mut self, size: usize) -> StreamResult<Bytes> {
        if size == 0 {
            return Ok(Bytes::new());
        }
        let mut buffer = BytesMut::zeroed(size.min(CHUNK));
        match self.pipe.try_read(&mut buffer) {
            Ok(0) => Err(StreamError::Closed),
            Ok(count) => {
                buffer.truncate(count);
                Ok(buffer.freeze())
            }
            Err(error) if is_transient(&error) => Ok(Bytes::new()),
            Err(error) => Err(StreamError::LastOperationFailed(error.into())),
        }
    }
}

/// Waiting for a pipe to become ready.
type Waiting = Option<Pin<Box<dyn Future<Output = io::Result<()>> + Send + Sync>>>;

/// A [`PipeInput`] as tokio reads it.
struct PipeReader {
    pipe: Arc<pipe::Receiver>,
    waiting: Waiting,
}

impl AsyncRead for PipeReader {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            match self.pipe.try_read(buffer.initialize_unfilled()) {
                Ok(count) => {
                    buffer.advance(count);
                    return Poll::Ready(Ok(()));
                }
                Err(error) if is_transient(&error) => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
            let pipe = self.pipe.clone();
            let waiting = self.waiting.get_or_insert_with(|| Box::pin(async move { pipe.readable().await }));
            ready!(waiting.as_mut().poll(context))?;
            self.waiting = None;
        }
    }
}

/// The guest's stdout or stderr.
#[derive(Clone)]
pub(crate) enum Output {
    Pipe(PipeOutput),
    File(OutputFile),
}

impl Output {
    /// Must be called inside of a tokio runtime.
    pub(crate) fn new(fd: OwnedFd, broken_pipe: BrokenPipe, plan: &RunPlan) -> io::Result<Self> {
        let file = File::from(fd);
        let kind = Kind::of(&file, plan)?;
        let pipe = match kind {
            Kind::File => return Ok(Output::File(OutputFile::new(file))),
            Kind::Pipe => pipe::Sender::from_file(file)?,
            Kind::Terminal => pipe::Sender::from_file_unchecked(file)?,
        };
        Ok(Output::Pipe(PipeOutput(Arc::new(Shared {
            pipe,
            terminal: kind == Kind::Terminal,
            broken_pipe,
            state: Mutex::default(),
        }))))
    }

    /// Writes a line of ours between those of the guest, without waiting: what a full pipe does not take, the guest's next
    /// write brings along.
    pub(crate) fn tell(&self, text: &str) {
        match self {
            Output::Pipe(pipe) if pipe.0.state().unwritten.len() > MOST_TOLD => {}
            Output::Pipe(_) | Output::File(_) => self.put(text),
        }
    }

    /// Writes what belongs to the guest's output, all of it by the time of [`Output::drained`].
    pub(crate) fn put(&self, text: &str) {
        match self {
            Output::Pipe(pipe) => pipe.0.write(text.as_bytes()),
            Output::File(file) => {
                let _ = file.p2_stream().write(Bytes::copy_from_slice(text.as_bytes()));
            }
        }
    }

    /// Waits until everything the guest wrote is in the pipe, or the pipe is broken.
    pub(crate) async fn drained(&self) {
        if let Output::Pipe(pipe) = self {
            pipe.0.drained().await;
        }
    }
}

impl IsTerminal for Output {
    fn is_terminal(&self) -> bool {
        matches!(self, Output::Pipe(pipe) if pipe.0.terminal)
    }
}

impl StdoutStream for Output {
    fn async_stream(&self) -> Box<dyn AsyncWrite + Send + Sync> {
        match self {
            Output::Pipe(pipe) => Box::new(PipeWriter { output: pipe.clone(), waiting: None }),
            Output::File(file) => file.async_stream(),
        }
    }

    fn p2_stream(&self) -> Box<dyn OutputStream> {
        match self {
            Output::Pipe(pipe) => Box::new(pipe.clone()),
            Output::File(file) => file.p2_stream(),
        }
    }
}

/// A pipe that the guest writes. All streams of it share what is not written yet, so that order is kept.
#[derive(Clone)]
pub(crate) struct PipeOutput(Arc<Shared>);

struct Shared {
    pipe: pipe::Sender,
    terminal: bool,
    broken_pipe: BrokenPipe,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    unwritten: BytesMut,
    /// The errno that ended this pipe.
    failed: Option<i32>,
}

impl Shared {
    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        // Nothing panics while it is locked, and a half-written buffer would be no worse for it.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn drained(&self) {
        // A write that would block forgets the readiness, so that the next turn waits.
        while !self.drain() {
            if self.pipe.writable().await.is_err() {
                return;
            }
        }
    }

    /// Writes what the pipe takes; tells whether nothing is left to write.
    fn drain(&self) -> bool {
        let mut state = self.state();
        let unwritten = state.unwritten.split().freeze();
        let left = self.write_some(&mut state, &unwritten);
        // An idle guest keeps no buffer.
        state.unwritten = BytesMut::from(left);
        left.is_empty()
    }

    /// Writes, and keeps what the pipe does not take.
    fn write(&self, bytes: &[u8]) {
        let mut state = self.state();
        let left = if state.unwritten.is_empty() { self.write_some(&mut state, bytes) } else { bytes };
        state.unwritten.extend_from_slice(left);
    }

    /// Gives what the pipe did not take: nothing if it failed.
    fn write_some<'a>(&self, state: &mut State, mut bytes: &'a [u8]) -> &'a [u8] {
        while !bytes.is_empty() {
            match self.pipe.try_write(bytes) {
                Ok(count) => bytes = &bytes[count..],
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => {
                    state.failed = Some(error.raw_os_error().unwrap_or_default());
                    return &[];
                }
            }
        }
        bytes
    }

    fn check(&self) -> Result<(), io::Error> {
        match self.state().failed {
            None => Ok(()),
            Some(errno) => Err(io::Error::from_raw_os_error(errno)),
        }
    }

    fn check_stream(&self) -> StreamResult<()> {
        self.check().map_err(|error| match (error.kind(), self.broken_pipe) {
            (io::ErrorKind::BrokenPipe, BrokenPipe::Closed) => StreamError::Closed,
            _ => StreamError::LastOperationFailed(error.into()),
        })
    }
}

#[async_trait]
impl Pollable for PipeOutput {
    async fn ready(&mut self) {
        self.0.drained().await;
    }
}

#[async_trait]
impl OutputStream for PipeOutput {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        self.0.check_stream()?;
        self.0.write(&bytes);
        self.0.check_stream()
    }

    fn flush(&mut self) -> StreamResult<()> {
        self.0.check_stream()
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        let drained = self.0.drain();
        self.0.check_stream()?;
        Ok(if drained { CHUNK } else { 0 })
    }
}

/// A [`PipeOutput`] as tokio writes it.
struct PipeWriter {
    output: PipeOutput,
    waiting: Waiting,
}

impl AsyncWrite for PipeWriter {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        ready!(self.as_mut().poll_flush(context))?;
        self.output.0.write(bytes);
        self.output.0.check()?;
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.output.0.drain() {
            let shared = self.output.0.clone();
            let waiting = self.waiting.get_or_insert_with(|| Box::pin(async move { shared.pipe.writable().await }));
            ready!(waiting.as_mut().poll(context))?;
            self.waiting = None;
        }
        Poll::Ready(self.output.0.check())
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_flush(context)
    }
}

fn is_transient(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}
