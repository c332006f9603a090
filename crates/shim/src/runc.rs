//! The node's runc, which makes and runs the Linux containers of a pod. The only room that names the `runc` crate.
//! Everything that runc keeps about a container is in the container's bundle, and goes with it.

use crate::spawner::{Spawner, SpawnerError};
use plan::{CgroupPath, Failure, LinuxPlan, Report};
use runc::options::{CreateOpts, DeleteOpts, ExecOpts, GlobalOpts};
use runc::{Command, Io};
use sandbox::children::Adoption;
use sandbox::console::ConsoleSocket;
use sandbox::rootfs::{self, Layer, NodeMounts};
use sandbox::{Child, errand};
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;
use tempfile::NamedTempFile;
use tokio::time::timeout;

/// Runc's own state of a container, in its bundle.
pub(crate) const STATE: &str = "runc";
/// Runc's option for cgroups that systemd makes.
const SYSTEMD: &str = "--systemd-cgroup";
/// How long runc may take to leave a terminal behind once it has ended.
const TERMINAL: Duration = Duration::from_secs(2);

/// Why runc did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RuncError {
    #[error(
        "{runtime} is not on this node, and {id} is a linux container: install runc, or name one by BinaryName in the options of the runtime in containerd's configuration"
    )]
    Missing { runtime: String, id: String },
    #[error("{runtime} {action}: {reason}")]
    Refused { runtime: String, action: &'static str, reason: String },
    #[error("{action} with {runtime}")]
    Ask {
        runtime: String,
        action: &'static str,
        #[source]
        source: SpawnerError<io::Error>,
    },
    /// Of the root filesystem, as the mount says it.
    #[error("{0}")]
    Mount(String),
    #[error("{action}")]
    Step {
        action: String,
        #[source]
        source: io::Error,
    },
}

/// Runc, for one container.
#[derive(Debug)]
pub(crate) struct Runc {
    runtime: String,
    id: String,
    bundle: PathBuf,
    node: NodeMounts,
    how: sandbox::Runtime,
}

/// Where a process of runc's gets its standard input, output and error from.
pub(crate) enum Streams {
    /// From these descriptors.
    Given([OwnedFd; 3]),
    /// From a terminal, which runc makes.
    Terminal,
}

/// How a process that runc is to make is connected: the driver for runc, the streams of the child that asks it, the socket
/// for a terminal.
type Connections = (Option<Arc<dyn Io>>, Option<[OwnedFd; 3]>, Option<ConsoleSocket>);

/// A process that runc made, and the near end of its terminal, if it has one.
pub(crate) struct Started {
    pub(crate) child: Child,
    pub(crate) terminal: Option<OwnedFd>,
}

impl Runc {
    /// Finds the runc of a plan, to be run among the node's mounts: those of its containers may go both ways.
    pub(crate) fn find(plan: &LinuxPlan, bundle: &Path, node: NodeMounts) -> Result<Runc, RuncError> {
        let runtime = plan.runtime.display().to_string();
        let missing = || RuncError::Missing { runtime: runtime.clone(), id: plan.id.clone() };
        let binary = runc::utils::binary_path(&plan.runtime).ok_or_else(missing)?;
        let systemd = matches!(plan.cgroup, CgroupPath::Systemd { .. });
        let root = bundle.join(STATE);
        let mut args = vec!["--root".to_owned(), root.display().to_string()];
        if systemd {
            args.push(SYSTEMD.to_owned());
        }
        let how = sandbox::Runtime { binary, args };
        Ok(Runc { runtime, id: plan.id.clone(), bundle: bundle.to_owned(), node, how })
    }

    /// How the `delete` action does without this shim.
    pub(crate) fn how(&self) -> sandbox::Runtime {
        self.how.clone()
    }

    /// Makes the container up to the point where it waits for start.
    pub(crate) async fn create(&self, spawner: &Spawner, streams: Streams) -> Result<Started, RuncError> {
        let (id, bundle, pid_file) = (self.id.clone(), self.bundle.clone(), self.bundle.join("init.pid"));
        let (io, fds, socket) = self.connect(streams, "init.tty")?;
        let options = CreateOpts {
            io,
            pid_file: Some(pid_file.clone()),
            console_socket: socket.as_ref().map(ConsoleSocket::address),
            ..CreateOpts::default()
        };
        let adoption = Adoption::begin();
        self.ask(spawner, "create", fds, move |client| client.create(&id, &bundle, Some(&options)).map(drop)).await?;
        self.started("create", &adoption, &pid_file, socket).await
    }

    /// Runs one more process in the container.
    pub(crate) async fn exec(
        &self,
        spawner: &Spawner,
        exec: &str,
        process: &oci::Process,
        streams: Streams,
    ) -> Result<Started, RuncError> {
        let (id, process, pid_file) = (self.id.clone(), process.clone(), self.bundle.join(format!("{exec}.pid")));
        let (io, fds, socket) = self.connect(streams, &format!("{exec}.tty"))?;
        let options = ExecOpts {
            io,
            pid_file: Some(pid_file.clone()),
            console_socket: socket.as_ref().map(ConsoleSocket::address),
            detach: true,
        };
        let adoption = Adoption::begin();
        self.ask(spawner, "exec", fds, move |client| client.exec(&id, &process, Some(&options))).await?;
        self.started("exec", &adoption, &pid_file, socket).await
    }

    /// Lets the container run.
    pub(crate) async fn start(&self, spawner: &Spawner) -> Result<(), RuncError> {
        let id = self.id.clone();
        self.ask(spawner, "start", None, move |client| client.start(&id).map(drop)).await
    }

    /// Gives it other limits.
    pub(crate) async fn update(&self, spawner: &Spawner, resources: &oci::LinuxResources) -> Result<(), RuncError> {
        let (id, resources) = (self.id.clone(), resources.clone());
        self.ask(spawner, "update", None, move |client| client.update(&id, &resources)).await
    }

    /// Ends all of it and removes what runc made for it. Not being there is no error.
    pub(crate) async fn delete(&self, spawner: &Spawner) -> Result<(), RuncError> {
        let id = self.id.clone();
        let options = DeleteOpts { force: true };
        self.ask(spawner, "delete", None, move |client| client.delete(&id, Some(&options))).await
    }

    /// Has a child call runc, which takes its time, and waits for it.
    async fn ask(
        &self,
        spawner: &Spawner,
        action: &'static str,
        streams: Option<[OwnedFd; 3]>,
        call: impl FnOnce(&runc::Runc) -> runc::Result<()> + Send + 'static,
    ) -> Result<(), RuncError> {
        // Each call has a log of its own: several may be under way.
        let log = NamedTempFile::new_in(&self.bundle).map_err(|source| RuncError::Step {
            action: format!("make a log for {} in {}", self.runtime, self.bundle.display()),
            source,
        })?;
        let (binary, root, path) = (self.how.binary.clone(), self.bundle.join(STATE), log.path().to_owned());
        let systemd = self.how.args.iter().any(|arg| arg == SYSTEMD);
        let call = move || {
            let options = GlobalOpts::new().command(&binary).root(&root).log(&path).log_json().systemd_cgroup(systemd);
            options.build().and_then(|client| call(&client)).map_err(|error| reason(&path, &error))
        };
        let done = self.on_node(spawner, action, streams, call).await;
        drop(log);
        done?.map_err(|reason| self.refused(action, reason))
    }

    /// Mounts the container's root filesystem on the node.
    pub(crate) async fn mount(&self, spawner: &Spawner, root: &Path, layers: &[Layer]) -> Result<(), RuncError> {
        let (root, layers) = (root.to_owned(), layers.to_owned());
        let mount = move || rootfs::mount_all(&root, &layers).map_err(|error| plan::one_line(&error));
        self.on_node(spawner, "mount", None, mount).await?.map_err(RuncError::Mount)
    }

    /// Undoes that. Not being mounted is no error.
    pub(crate) async fn unmount(&self, spawner: &Spawner, root: &Path) -> Result<(), RuncError> {
        let root = root.to_owned();
        let unmount = move || rootfs::unmount(&root).map_err(|error| plan::one_line(&error));
        self.on_node(spawner, "unmount", None, unmount).await?.map_err(RuncError::Mount)
    }

    async fn on_node(
        &self,
        spawner: &Spawner,
        action: &'static str,
        streams: Option<[OwnedFd; 3]>,
        work: impl FnOnce() -> Result<(), String> + Send + 'static,
    ) -> Result<Result<(), String>, RuncError> {
        let (node, dir) = (self.node.clone(), self.bundle.clone());
        let fork = move || errand::spawn(&node, &dir, streams.as_ref(), work);
        let (child, mut channel) = spawner.spawn(fork).await.map_err(|source| RuncError::Ask {
            runtime: self.runtime.clone(),
            action,
            source,
        })?;
        let said = channel.reports.next().await;
        let _ = child.wait().await;
        match said {
            Ok(Some(Report::Ready)) => Ok(Ok(())),
            Ok(Some(Report::Failed(Failure::Message(reason)))) => Ok(Err(reason)),
            Ok(_) => Err(self.refused(action, "the shim's child that asked it ended without a word".to_owned())),
            Err(error) => Err(self.refused(action, plan::one_line(&error))),
        }
    }

    fn connect(&self, streams: Streams, socket: &str) -> Result<Connections, RuncError> {
        Ok(match streams {
            Streams::Given(fds) => (Some(Arc::new(Driver::Inherited)), Some(fds), None),
            Streams::Terminal => (Some(Arc::new(Driver::Gathered)), None, Some(self.listen(socket)?)),
        })
    }

    fn listen(&self, name: &str) -> Result<ConsoleSocket, RuncError> {
        let failed = |source| RuncError::Step { action: format!("listen for the terminal of {}", self.id), source };
        ConsoleSocket::listen(&self.bundle, name).map_err(failed)
    }

    async fn started(
        &self,
        action: &'static str,
        adoption: &Adoption,
        pid_file: &Path,
        socket: Option<ConsoleSocket>,
    ) -> Result<Started, RuncError> {
        let failed = |source| RuncError::Step { action: format!("adopt the process of {}", self.id), source };
        let pid = fs::read_to_string(pid_file).and_then(|text| text.trim().parse().map_err(io::Error::other));
        let child = pid.and_then(|pid| adoption.child(pid)).map_err(failed)?;
        let _ = fs::remove_file(pid_file);
        let Some(socket) = socket else { return Ok(Started { child, terminal: None }) };
        match timeout(TERMINAL, socket.receive()).await {
            Ok(Ok(terminal)) => Ok(Started { child, terminal: Some(terminal) }),
            Ok(Err(source)) => {
                child.end().await;
                Err(RuncError::Step { action: format!("take the terminal of {}", self.id), source })
            }
            Err(_) => {
                child.end().await;
                Err(self.refused(action, "it left no terminal".to_owned()))
            }
        }
    }

    fn refused(&self, action: &'static str, reason: String) -> RuncError {
        RuncError::Refused { runtime: self.runtime.clone(), action, reason }
    }
}

/// Runc says why in its log; what it prints goes to the container's own output.
fn reason(log: &Path, error: &runc::error::Error) -> String {
    let said = fs::read_to_string(log).ok().and_then(|text| last_error(&text));
    said.unwrap_or_else(|| plan::one_line(error))
}

fn last_error(log: &str) -> Option<String> {
    let message = |line: &str| {
        let line: serde_json::Value = serde_json::from_str(line).ok()?;
        let is_error = matches!(line["level"].as_str(), Some("error" | "fatal"));
        is_error.then(|| plan::printable_line(line["msg"].as_str().unwrap_or_default()))
    };
    log.lines().rev().find_map(message)
}

/// What a process that runc makes has for its streams. Runc itself ends with the shim, before what it makes is recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Driver {
    /// Those of the child that has runc make it.
    Inherited,
    /// None of runc's, whose own are gathered.
    Gathered,
}

impl Io for Driver {
    fn set(&self, command: &mut Command) -> io::Result<()> {
        errand::bind(command);
        if *self == Driver::Inherited {
            command.stdin(Stdio::inherit()).stdout(Stdio::inherit()).stderr(Stdio::inherit());
        }
        Ok(())
    }

    fn close_after_start(&self) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_error_of_the_log_is_the_reason() {
        let log = "{\"level\":\"warning\",\"msg\":\"w\"}\n{\"level\":\"error\",\"msg\":\"first\"}\nnot json\n\
            {\"level\":\"error\",\"msg\":\"exec: \\\"/x\\\": no such file\"}\n{\"level\":\"info\",\"msg\":\"i\"}";
        assert_eq!(last_error(log).as_deref(), Some("exec: \"/x\": no such file"));
        assert_eq!(last_error(""), None);
    }
}
