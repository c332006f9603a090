//! A process's terminal: its far end is the process's, and what passes through its near end (`master`) is copied from and
//! to the fifos of containerd's client.

use crate::syscall;
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, FdFlag, OFlag, fcntl};
use nix::pty::{OpenptyResult, openpty};
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};
use nix::sys::termios::{LocalFlags, SpecialCharacterIndices, tcgetattr};
use std::io::{self, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::net::UnixListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// How long a terminal stays silent before its output counts as read to the end, where processes hold it that outlive the
/// one it was made for.
const SILENCE: Duration = Duration::from_millis(200);
/// How long a client may take to read the last output.
const LAST_OUTPUT: Duration = Duration::from_secs(2);
const CHUNK_BYTES: usize = 16 << 10;

/// The size of a terminal, in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size {
    /// Columns.
    pub width: u16,
    /// Lines.
    pub height: u16,
}

/// A terminal in use.
#[derive(Debug)]
pub struct Console {
    master: Arc<Descriptor>,
    ended: watch::Sender<bool>,
    output: Option<JoinHandle<()>>,
    input: Option<JoinHandle<()>>,
}

/// Makes a terminal: its near end, and its far end thrice, for a process of the shim's own. They do not block: the process
/// waits for its streams by other means.
pub fn open() -> io::Result<(OwnedFd, [OwnedFd; 3])> {
    let OpenptyResult { master, slave } = openpty(None, None)?;
    for end in [&master, &slave] {
        fcntl(end, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC))?;
    }
    let flags = OFlag::from_bits_retain(fcntl(&slave, FcntlArg::F_GETFL)?);
    fcntl(&slave, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
    Ok((master, [slave.try_clone()?, slave.try_clone()?, slave]))
}

impl Console {
    /// Copies from now on: what comes from `stdin`, if somebody types there, to the terminal, and what the terminal says to
    /// `stdout`. Without a stdin there is no input, and no end of it.
    pub fn serve(master: OwnedFd, stdin: Option<OwnedFd>, stdout: OwnedFd) -> io::Result<Console> {
        let master = Arc::new(Descriptor::new(master)?);
        let (stdin, stdout) = (stdin.map(Descriptor::new).transpose()?, Descriptor::new(stdout)?);
        let (ended, ends) = watch::channel(false);
        let output = tokio::spawn(copy_output(master.clone(), stdout, ends));
        let input = stdin.map(|stdin| tokio::spawn(copy_input(stdin, master.clone())));
        Ok(Console { master, ended, output: Some(output), input })
    }

    /// Tells the terminal, and through it the process, how large the user's is.
    pub fn resize(&self, size: Size) -> io::Result<()> {
        let size = libc::winsize { ws_row: size.height, ws_col: size.width, ws_xpixel: 0, ws_ypixel: 0 };
        Ok(syscall::set_window_size(self.master.as_fd(), &size)?)
    }

    /// Copies the last output, once the process has ended.
    pub async fn finish(&mut self) {
        self.ended.send_replace(true);
        let Some(mut output) = self.output.take() else { return };
        if timeout(LAST_OUTPUT, &mut output).await.is_err() {
            output.abort();
        }
    }
}

impl Drop for Console {
    fn drop(&mut self) {
        self.input.iter().chain(&self.output).for_each(JoinHandle::abort);
    }
}

async fn copy_output(master: Arc<Descriptor>, stdout: Descriptor, mut ends: watch::Receiver<bool>) {
    let mut buffer = vec![0; CHUNK_BYTES];
    loop {
        let read = if *ends.borrow_and_update() {
            match timeout(SILENCE, master.read(&mut buffer)).await {
                Ok(read) => read,
                Err(_) => return,
            }
        } else {
            tokio::select! {
                read = master.read(&mut buffer) => read,
                _ = ends.changed() => continue,
            }
        };
        // At its end a terminal gives EIO: nobody holds its far end any more.
        let Ok(length @ 1..) = read else { return };
        if stdout.write_all(&buffer[..length]).await.is_err() {
            return;
        }
    }
}

async fn copy_input(stdin: Descriptor, master: Arc<Descriptor>) {
    let mut buffer = vec![0; CHUNK_BYTES];
    let mut last = b'\n';
    loop {
        match stdin.read(&mut buffer).await {
            Ok(0) | Err(_) => break,
            Ok(length) => {
                last = buffer[length - 1];
                if master.write_all(&buffer[..length]).await.is_err() {
                    return;
                }
            }
        }
    }
    // A terminal has no end of input but a character, and that only where it edits lines.
    if let Ok(settings) = tcgetattr(master.as_fd())
        && settings.local_flags.contains(LocalFlags::ICANON)
    {
        let character = settings.control_chars[SpecialCharacterIndices::VEOF as usize];
        // The first after an unfinished line passes that on only.
        let times = if last == b'\n' { 1 } else { 2 };
        let _ = master.write_all(&[character; 2][..times]).await;
    }
}

/// A descriptor that is read and written without blocking the thread. Files cannot be waited for, and need not.
#[derive(Debug)]
enum Descriptor {
    Awaited(AsyncFd<OwnedFd>),
    Ready(OwnedFd),
}

impl Descriptor {
    fn new(fd: OwnedFd) -> io::Result<Descriptor> {
        let flags = OFlag::from_bits_retain(fcntl(&fd, FcntlArg::F_GETFL)?);
        let probe = fd.try_clone()?;
        // SAFETY: the AsyncFd owns the descriptor, which thus stays open and the same until it is dropped.
        match unsafe { AsyncFd::register_with_interest(fd, interest(flags)) } {
            Ok(awaited) => {
                fcntl(&awaited, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
                Ok(Descriptor::Awaited(awaited))
            }
            // EPERM of epoll_ctl(2): a regular file, or `/dev/null`.
            Err(_) => Ok(Descriptor::Ready(probe)),
        }
    }

    async fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        self.io(Interest::READABLE, |fd| Ok(nix::unistd::read(fd, buffer)?)).await
    }

    async fn write_all(&self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let written = self.io(Interest::WRITABLE, |fd| Ok(nix::unistd::write(fd, bytes)?)).await?;
            bytes = &bytes[written..];
        }
        Ok(())
    }

    async fn io<T>(&self, interest: Interest, mut act: impl FnMut(BorrowedFd<'_>) -> io::Result<T>) -> io::Result<T> {
        match self {
            Descriptor::Awaited(fd) => fd.async_io(interest, |fd| act(fd.as_fd())).await,
            Descriptor::Ready(fd) => act(fd.as_fd()),
        }
    }
}

impl AsFd for Descriptor {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Descriptor::Awaited(fd) => fd.get_ref().as_fd(),
            Descriptor::Ready(fd) => fd.as_fd(),
        }
    }
}

fn interest(flags: OFlag) -> Interest {
    match flags & OFlag::O_ACCMODE {
        OFlag::O_RDONLY => Interest::READABLE,
        OFlag::O_WRONLY => Interest::WRITABLE,
        _ => Interest::READABLE | Interest::WRITABLE,
    }
}

/// The socket at which runc leaves the near end of a terminal that it made.
#[derive(Debug)]
pub struct ConsoleSocket {
    listener: UnixListener,
    dir: OwnedFd,
    name: String,
    file: PathBuf,
}

impl ConsoleSocket {
    /// Listens in `dir`. A bundle's path is longer than the address of a socket may be: a descriptor of it stands for it.
    pub fn listen(dir: &Path, name: &str) -> io::Result<ConsoleSocket> {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let opened = nix::fcntl::open(dir, flags, nix::sys::stat::Mode::empty())?;
        let file = dir.join(name);
        let listener = UnixListener::bind(format!("/proc/self/fd/{}/{name}", opened.as_raw_fd()))?;
        Ok(ConsoleSocket { listener, dir: opened, name: name.to_owned(), file })
    }

    /// Its address for other processes, while this lives.
    pub fn address(&self) -> PathBuf {
        PathBuf::from(format!("/proc/{}/fd/{}/{}", std::process::id(), self.dir.as_raw_fd(), self.name))
    }

    /// The terminal that was left here.
    pub async fn receive(&self) -> io::Result<OwnedFd> {
        let (stream, _) = self.listener.accept().await?;
        loop {
            stream.readable().await?;
            match stream.try_io(Interest::READABLE, || received(stream.as_raw_fd())) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                received => return received,
            }
        }
    }
}

impl Drop for ConsoleSocket {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.file);
    }
}

fn received(socket: i32) -> io::Result<OwnedFd> {
    let mut name = [0; 4096];
    let mut buffers = [IoSliceMut::new(&mut name)];
    let mut space = nix::cmsg_space!(i32);
    let message = recvmsg::<()>(socket, &mut buffers, Some(&mut space), MsgFlags::MSG_CMSG_CLOEXEC)?;
    let rights = message.cmsgs()?.find_map(|one| match one {
        ControlMessageOwned::ScmRights(fds) => fds.first().copied(),
        _ => None,
    });
    let fd = rights.ok_or_else(|| io::Error::from(Errno::EBADMSG))?;
    // SAFETY: the kernel made the descriptor for this process just now.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::io::{Read, Write};

    fn runtime() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
    }

    #[test]
    fn what_is_typed_comes_in_and_what_is_said_goes_out() {
        let (master, slave) = openpty(None, None).map(|pair| (pair.master, pair.slave)).unwrap();
        let (typed, mut keyboard) = std::io::pipe().unwrap();
        let (mut screen, shown) = std::io::pipe().unwrap();
        runtime().block_on(async {
            let mut console = Console::serve(master, Some(typed.into()), shown.into()).unwrap();
            console.resize(Size { width: 100, height: 30 }).unwrap();
            keyboard.write_all(b"a line").unwrap();
            drop(keyboard);
            let mut far = File::from(slave);
            let read = tokio::task::spawn_blocking(move || {
                let mut line = [0; 16];
                let length = far.read(&mut line).unwrap();
                // The end of the keyboard is the end of the terminal's input.
                assert_eq!(far.read(&mut [0; 16]).unwrap(), 0);
                far.write_all(b"said").unwrap();
                line[..length].to_vec()
            });
            assert_eq!(read.await.unwrap(), b"a line");
            console.finish().await;
        });
        let mut all = String::new();
        screen.read_to_string(&mut all).unwrap();
        // The terminal echoes.
        assert_eq!(all, "a linesaid");
    }
}
