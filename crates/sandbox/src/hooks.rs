//! Hooks: programs of the node, forked from the shim, told of the container on their standard input.

use crate::cgroup::Cgroup;
use crate::identity;
use crate::namespaces;
use crate::process::{self, Birth, Descriptors, Ended, Spawned};
use crate::seccomp;
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::signal::{SigHandler, Signal, signal};
use nix::unistd::setsid;
use plan::{Failure, Hook, HookState, Isolation};
use std::ffi::CString;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::time::Duration;
use tokio::time::sleep;

/// How much of the end of a hook's output is told, bytes.
const TOLD: u64 = 512;

/// Where a hook runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// In the shim's namespaces.
    Runtime,
    /// In the namespaces of the container process, with the files that its mount namespace shows.
    Container,
    /// There too, and as the container's user.
    ContainerUser(Box<Isolation>),
}

/// What a hook is told, besides what stays the same.
#[derive(Debug, Clone, Copy)]
pub struct Moment<'a> {
    /// The container's id.
    pub id: &'a str,
    /// The container process, while there is one.
    pub pid: Option<u32>,
    /// `creating`, `created`, `running` or `stopped` (OCI runtime spec, "State").
    pub status: &'static str,
}

/// A hook that runs.
#[derive(Debug)]
pub struct Running {
    spawned: Spawned,
    output: File,
}

/// Why a hook failed.
#[derive(Debug, thiserror::Error)]
pub enum HookError {
    /// There is no process of it.
    #[error("run hook {kind} {path}")]
    Spawn {
        /// The list it is of.
        kind: String,
        /// The program.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// It said no, or nothing.
    #[error("hook {kind} {path} {how}{output}")]
    Failed {
        /// The list it is of.
        kind: String,
        /// The program.
        path: PathBuf,
        /// How it ended.
        how: String,
        /// What it wrote last.
        output: String,
    },
}

/// Forks a hook. See [`process::fork`] for what the caller must hold to.
pub fn spawn(hook: &Hook, place: &Place, told: &HookState, moment: Moment<'_>) -> Result<Running, HookError> {
    let spawn = || -> io::Result<Running> {
        let mut input = memfd(c"hook-state")?;
        input.write_all(state(told, moment).as_bytes())?;
        input.seek(SeekFrom::Start(0))?;
        let output = memfd(c"hook-output")?;
        let stdio = [input.as_fd(), output.as_fd(), output.as_fd()];
        let descriptors = Descriptors { stdio, rest: Vec::new() };
        let pid = moment.pid.filter(|_| !matches!(place, Place::Runtime));
        let fork = || {
            process::fork(Birth::default(), &descriptors, |mut channel, _| {
                let Err(error) = become_hook(hook, place, pid, told, &channel);
                channel.fail(Failure::Message(error.to_string()));
            })
        };
        let spawned = match pid {
            Some(pid) => namespaces::in_pid_namespace_of(pid, fork).map_err(io::Error::other)??,
            None => fork()?,
        };
        drop(input);
        Ok(Running { spawned, output })
    };
    spawn().map_err(|source| HookError::Spawn { kind: hook.kind.clone(), path: hook.path.clone(), source })
}

impl Running {
    /// Waits for the end of the hook, which is killed when its time is up, or its container `unwanted`.
    pub async fn finish(self, hook: &Hook, unwanted: impl Future<Output = ()>) -> Result<(), HookError> {
        let Running { spawned, output } = self;
        let failed = |how: String, output: String| HookError::Failed {
            kind: hook.kind.clone(),
            path: hook.path.clone(),
            how,
            output,
        };
        let (child, mut channel) = spawned.watch().map_err(|error| failed(error.to_string(), String::new()))?;
        let time = hook.timeout_s.map_or(Duration::MAX, Duration::from_secs);
        let ended = tokio::select! {
            ended = child.wait() => Ok(ended),
            () = sleep(time) => Err(format!("was killed after {} s", time.as_secs())),
            () = unwanted => Err("was killed: its container is deleted".to_owned()),
        };
        match ended {
            Err(why) => {
                child.end_group().await;
                Err(failed(why, last_words(output)))
            }
            Ok(Ok(Ended::Code(0))) => Ok(()),
            Ok(ended) => match channel.reports.next().await {
                Ok(Some(plan::Report::Failed(Failure::Message(reason)))) => {
                    Err(failed(format!("cannot be run: {reason}"), String::new()))
                }
                _ => Err(failed(how(ended), last_words(output))),
            },
        }
    }
}

fn how(ended: io::Result<Ended>) -> String {
    match ended {
        Ok(Ended::Code(code)) => format!("left with code {code}"),
        Ok(Ended::Signal(signal)) => format!("was ended by signal {signal}"),
        Err(error) => format!("was lost: {error}"),
    }
}

/// Never returns but with the reason why this process did not become the hook.
fn become_hook(
    hook: &Hook,
    place: &Place,
    pid: Option<u32>,
    told: &HookState,
    channel: &impl AsFd,
) -> io::Result<std::convert::Infallible> {
    process::die_with_parent()?;
    // A group of its own, so that `kill 0` in a script does not reach the shim, and all of it ends when its time is up.
    setsid()?;
    // A program that is there takes the hook's end of the channel with it, which tells that all went well so far.
    fcntl(channel.as_fd(), FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC))?;
    // Rust's runtime ignores it, and programs inherit that.
    // SAFETY: the default action is no handler of ours.
    unsafe { signal(Signal::SIGPIPE, SigHandler::SigDfl) }?;
    if let Place::ContainerUser(isolation) = place {
        bind(isolation).map_err(|error| io::Error::other(plan::one_line(error.as_ref())))?;
    }
    match pid {
        Some(pid) => namespaces::join_those_of(pid).map_err(|error| io::Error::other(plan::one_line(&error)))?,
        None => std::env::set_current_dir(&told.bundle)?,
    }
    let words = |words: &[String]| words.iter().map(|word| CString::new(word.as_str())).collect::<Result<Vec<_>, _>>();
    let path = CString::new(hook.path.as_os_str().as_encoded_bytes())?;
    if let Place::ContainerUser(isolation) = place {
        confine(isolation).map_err(|error| io::Error::other(plan::one_line(error.as_ref())))?;
    }
    Ok(nix::unistd::execve(&path, &words(&hook.args)?, &words(&hook.env)?)?)
}

/// Puts a program of the image under the container's bounds, while the node's files are there.
fn bind(isolation: &Isolation) -> Result<(), Box<dyn std::error::Error>> {
    Cgroup::at(&isolation.cgroup.path())?.join_as_it_is()?;
    // As for the guest: a refusal of the kernel is no reason to fail.
    let _ = std::fs::write("/proc/self/oom_score_adj", isolation.oom_score_adj.unwrap_or(0).to_string());
    Ok(identity::limit(&isolation.rlimits)?)
}

/// Takes the rights away that the container's user does not have.
fn confine(isolation: &Isolation) -> Result<(), Box<dyn std::error::Error>> {
    // Built first: a filter may refuse the calls that make the next.
    let filters = seccomp::of_spec(isolation.seccomp.as_ref())?;
    identity::become_user(&isolation.user)?;
    identity::bar_new_privileges()?;
    Ok(filters.iter().try_for_each(seccomp::install)?)
}

/// The state document (OCI runtime spec, "State").
fn state(told: &HookState, moment: Moment<'_>) -> String {
    let mut state = serde_json::json!({
        "ociVersion": told.version,
        "id": moment.id,
        "status": moment.status,
        "bundle": told.bundle,
        "annotations": told.annotations,
    });
    if let Some(pid) = moment.pid {
        state["pid"] = pid.into();
    }
    state.to_string()
}

fn memfd(name: &std::ffi::CStr) -> io::Result<File> {
    let fd: OwnedFd = memfd_create(name, MFdFlags::MFD_CLOEXEC)?;
    Ok(fd.into())
}

/// The end of what a hook wrote, as the end of a message.
fn last_words(mut output: File) -> String {
    let mut text = Vec::new();
    let length = output.metadata().map_or(0, |metadata| metadata.len());
    let read = output.seek(SeekFrom::Start(length.saturating_sub(TOLD))).and_then(|_| output.read_to_end(&mut text));
    let text = String::from_utf8_lossy(&text);
    match (read, text.trim()) {
        (Ok(_), text) if !text.is_empty() => format!(": {}", text.replace('\n', " | ")),
        _ => String::new(),
    }
}
