//! The line between the shim and a child: reports come as one JSON text a line, orders go as single bytes.

use plan::{Failure, Report};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream as Blocking;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};

/// The longest report that is read, bytes.
const LONGEST_REPORT: u64 = 64 * 1024;
/// The order to go on.
const GO: u8 = b'g';

/// What went wrong between the shim and a child.
#[derive(Debug, thiserror::Error)]
pub enum ChannelError {
    /// The socket failed.
    #[error("talk to the child process")]
    Io(#[from] io::Error),
    /// The child sent something that is not a report.
    #[error("the child process sent an unknown report")]
    Malformed(#[from] serde_json::Error),
}

/// The shim's end: what the child says, and the right to order it on.
#[derive(Debug)]
pub struct Channel {
    /// What the child says.
    pub reports: Reports,
    /// What the child is told.
    pub orders: Orders,
}

/// The half of the shim's end that hears reports.
#[derive(Debug)]
pub struct Reports(BufReader<OwnedReadHalf>);

/// The half of the shim's end that gives orders.
#[derive(Debug)]
pub struct Orders(OwnedWriteHalf);

impl Channel {
    pub(crate) fn new(socket: Blocking) -> io::Result<Channel> {
        socket.set_nonblocking(true)?;
        let (reports, orders) = UnixStream::from_std(socket)?.into_split();
        Ok(Channel { reports: Reports(BufReader::new(reports)), orders: Orders(orders) })
    }
}

impl Reports {
    /// The child's next report; `None` once it is gone.
    pub async fn next(&mut self) -> Result<Option<Report>, ChannelError> {
        let mut line = String::new();
        match (&mut self.0).take(LONGEST_REPORT).read_line(&mut line).await {
            Ok(0) => Ok(None),
            Ok(_) => Ok(Some(serde_json::from_str(&line)?)),
            // A child that is killed with unread orders resets the connection: it is gone all the same.
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

impl Orders {
    /// Lets the child go on.
    pub async fn go(&mut self) -> Result<(), ChannelError> {
        Ok(self.0.write_all(&[GO]).await?)
    }
}

/// The child's end: blocking, for a process that has nothing else to do meanwhile.
#[derive(Debug)]
pub struct ChildEnd(Blocking);

impl ChildEnd {
    pub(crate) fn new(fd: OwnedFd) -> ChildEnd {
        ChildEnd(Blocking::from(fd))
    }

    /// Tells the shim. A shim that is gone cannot be told; the kernel ends this process then (`PR_SET_PDEATHSIG`).
    pub fn report(&mut self, report: &Report) {
        let _ = self.try_report(report);
    }

    /// Tells the shim, unless it is gone or the container's seccomp profile forbids to.
    pub(crate) fn try_report(&mut self, report: &Report) -> io::Result<()> {
        let mut line = serde_json::to_vec(report).expect("a report has no map with keys other than strings");
        line.push(b'\n');
        self.0.write_all(&line)
    }

    /// Says why this process gives up, and ends it.
    pub fn fail(&mut self, failure: Failure) -> ! {
        self.report(&Report::Failed(failure));
        crate::syscall::exit_now(1)
    }

    /// Waits for the order to go on; false if the shim hung up instead.
    pub fn wait_for_go(&mut self) -> bool {
        let mut order = [0];
        matches!(self.0.read(&mut order), Ok(1) if order[0] == GO)
    }
}

impl AsFd for ChildEnd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
