//! Loggers: programs of the node that take a container's output, named as `binary:///path?argument=value` (containerd,
//! "logging"). One logger has both streams; it lives until both have ended, also longer than the shim.

use crate::channel::ChildEnd;
use crate::process::{self, Birth, Descriptors, Spawned};
use crate::syscall;
use nix::fcntl::OFlag;
use nix::sys::signal::{SigHandler, Signal, signal};
use nix::unistd::{execve, pipe2};
use plan::Failure;
use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;

/// How a logger is named.
pub const SCHEME: &str = "binary";

/// Where a logger finds the first of its ends.
const FIRST: i32 = 3;

/// A logger that is to be run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Logger {
    /// The program.
    pub path: PathBuf,
    args: Vec<String>,
    env: Vec<String>,
}

/// What a logger reads, and the end by which it says that it is ready.
#[derive(Debug)]
pub struct Ends {
    /// Reading ends of the container's standard output and error.
    pub streams: [OwnedFd; 2],
    /// Written to or closed when it is ready.
    pub ready: OwnedFd,
}

/// Both ends of what connects a container to its logger.
#[derive(Debug)]
pub struct Pipes {
    /// The logger's.
    pub theirs: Ends,
    /// Writing ends of the container's standard output and error.
    pub streams: [OwnedFd; 2],
    /// Readable, or at its end, when the logger is ready.
    pub ready: OwnedFd,
}

/// Why the name is none of a logger.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum LoggerError {
    /// Not of the form.
    #[error("{0} names no logger: use the form binary:///path?argument=value")]
    Form(String),
    /// No program can be given one.
    #[error("logger {0:?} has a null byte in its name or arguments: remove it")]
    Null(String),
}

impl Logger {
    /// Reads `binary:///path?argument=value`, for container `id` in `namespace`.
    pub fn parse(uri: &str, namespace: &str, id: &str) -> Result<Logger, LoggerError> {
        let wrong = || LoggerError::Form(uri.to_owned());
        let rest = uri.strip_prefix(SCHEME).and_then(|rest| rest.strip_prefix("://")).ok_or_else(wrong)?;
        let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
        let path = percent_encoding::percent_decode_str(path).decode_utf8().map_err(|_| wrong())?.into_owned();
        if !path.starts_with('/') {
            return Err(wrong());
        }
        let mut args = vec![path.clone()];
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            args.extend([name.into_owned(), value.into_owned()].into_iter().filter(|word| !word.is_empty()));
        }
        let inherited =
            std::env::vars_os().filter_map(|(name, value)| Some(format!("{}={}", name.to_str()?, value.to_str()?)));
        let own = [format!("CONTAINER_ID={id}"), format!("CONTAINER_NAMESPACE={namespace}")];
        let env: Vec<String> = inherited.chain(own).collect();
        match args.iter().any(|word| word.contains('\0')) {
            true => Err(LoggerError::Null(uri.to_owned())),
            false => Ok(Logger { path: path.into(), args, env }),
        }
    }

    /// Forks the logger. See [`process::fork`] for what the caller must hold to. It is not tied to this process's life:
    /// what a container wrote before its shim died is to be logged too.
    pub fn spawn(&self, ends: Ends) -> io::Result<Spawned> {
        let null = File::options().read(true).write(true).open("/dev/null")?;
        let [stdout, stderr] = &ends.streams;
        let rest = vec![stdout.as_fd(), stderr.as_fd(), ends.ready.as_fd()];
        let descriptors = Descriptors { stdio: [null.as_fd(); 3], rest };
        process::fork(Birth::default(), &descriptors, |channel, rest| {
            // A group of its own, as for hooks.
            if nix::unistd::setsid().is_err() {
                return;
            }
            // Out of the way of the ends, and gone once the program is there, which tells that it is.
            let Ok(parked) = syscall::duplicate_above(channel.as_fd(), FIRST + 16) else { return };
            let Err(error) = self.become_logger(rest);
            // What had the number of the channel is an end of the logger's now.
            std::mem::forget(channel);
            ChildEnd::new(parked).fail(Failure::Message(error.to_string()));
        })
    }

    fn become_logger(&self, ends: Vec<OwnedFd>) -> io::Result<std::convert::Infallible> {
        for (number, end) in (FIRST..).zip(&ends) {
            // SAFETY: what has the number is the channel, which is used by its duplicate only, or an end that has its
            // place already.
            unsafe { syscall::duplicate_to(end.as_fd(), number) }?;
        }
        // SAFETY: the ends have their places below; the parked channel is to go with the exec.
        unsafe { syscall::close_on_exec_from(FIRST + ends.len() as i32) }?;
        std::mem::forget(ends);
        // Rust's runtime ignores it, and programs inherit that.
        // SAFETY: the default action is no handler of ours.
        unsafe { signal(Signal::SIGPIPE, SigHandler::SigDfl) }?;
        let words = |words: &[String]| words.iter().map(|w| CString::new(w.as_str())).collect::<Result<Vec<_>, _>>();
        let path = CString::new(self.path.as_os_str().as_encoded_bytes())?;
        Ok(execve(&path, &words(&self.args)?, &words(&self.env)?)?)
    }
}

impl Pipes {
    /// Makes them.
    pub fn new() -> io::Result<Pipes> {
        let pipe = || pipe2(OFlag::O_CLOEXEC);
        let (stdout, stderr, ready) = (pipe()?, pipe()?, pipe()?);
        let theirs = Ends { streams: [stdout.0, stderr.0], ready: ready.1 };
        Ok(Pipes { theirs, streams: [stdout.1, stderr.1], ready: ready.0 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uri_names_program_and_arguments() {
        let logger = Logger::parse("binary:///opt/my%20log?tag=a+b&-v=&x=%3D", "ns", "id").unwrap();
        assert_eq!(logger.path, PathBuf::from("/opt/my log"));
        assert_eq!(logger.args, ["/opt/my log", "tag", "a b", "-v", "x", "="]);
        assert!(logger.env.ends_with(&["CONTAINER_ID=id".to_owned(), "CONTAINER_NAMESPACE=ns".to_owned()]));
        for wrong in ["binary://x/y", "binary://", "file:///a", "binary:/a"] {
            assert_eq!(Logger::parse(wrong, "ns", "id"), Err(LoggerError::Form(wrong.to_owned())));
        }
        assert!(matches!(Logger::parse("binary:///a?x=%00", "ns", "id"), Err(LoggerError::Null(_))));
    }
}
