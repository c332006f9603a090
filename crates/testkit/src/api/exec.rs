//! Processes that exec brings into a task, and terminals.

use super::{Api, Ended};
use crate::fifo::Stdio;
use anyhow::Result;
use containerd_client::services::v1 as services;
use containerd_client::tonic::Status;
use prost_types::Any;
use serde_json::Value;

/// Whether a process has a terminal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Terminal {
    /// It has three streams.
    None,
    /// It has one, which its stdin and stdout go to.
    Own,
}

/// A process that exec brings in.
#[derive(Debug)]
pub struct Exec<'a> {
    api: &'a Api,
    container: String,
    name: String,
    /// This end of its stdio.
    pub stdio: Stdio,
}

impl Api {
    /// Takes up one more process of a task, with this `process` section of a spec.
    pub fn exec(
        &self,
        id: &str,
        name: &str,
        process: &Value,
        stdio: Stdio,
        terminal: Terminal,
    ) -> Result<Exec<'_>, Status> {
        let request = services::ExecProcessRequest {
            container_id: id.to_owned(),
            exec_id: name.to_owned(),
            stdin: stdio.stdin.as_ref().map(|path| path.display().to_string()).unwrap_or_default(),
            stdout: stdio.stdout.name(),
            stderr: if terminal == Terminal::Own { String::new() } else { stdio.stderr.name() },
            terminal: terminal == Terminal::Own,
            spec: Some(Any {
                type_url: "types.containerd.io/opencontainers/runtime-spec/1/Process".to_owned(),
                value: process.to_string().into_bytes(),
            }),
        };
        self.tasks(async |mut tasks, api| tasks.exec(api.request(request)).await)?;
        Ok(Exec { api: self, container: id.to_owned(), name: name.to_owned(), stdio })
    }

    /// Tells a process (a task's first, if `exec` is empty) the size of its user's terminal.
    pub fn resize(&self, id: &str, exec: &str, width: u32, height: u32) -> Result<(), Status> {
        let request =
            services::ResizePtyRequest { container_id: id.to_owned(), exec_id: exec.to_owned(), width, height };
        self.tasks(async |mut tasks, api| tasks.resize_pty(api.request(request)).await)?;
        Ok(())
    }
}

impl Exec<'_> {
    /// Starts it, and gives its pid.
    pub fn start(&self) -> Result<i32, Status> {
        let request = services::StartRequest { container_id: self.container.clone(), exec_id: self.name.clone() };
        let reply = self.api.tasks(async |mut tasks, api| tasks.start(api.request(request)).await)?;
        Ok(reply.pid as i32)
    }

    /// Waits for its end.
    pub fn wait(&self) -> Result<Ended, Status> {
        let request = services::WaitRequest { container_id: self.container.clone(), exec_id: self.name.clone() };
        let reply = self.api.tasks(async |mut tasks, api| tasks.wait(api.request(request)).await)?;
        Ok(Ended { code: reply.exit_status, at_s: reply.exited_at.map_or(0, |at| at.seconds) })
    }

    /// Sends it a signal.
    pub fn kill(&self, signal: i32) -> Result<(), Status> {
        let request = services::KillRequest {
            container_id: self.container.clone(),
            exec_id: self.name.clone(),
            signal: signal.unsigned_abs(),
            all: false,
        };
        self.api.tasks(async |mut tasks, api| tasks.kill(api.request(request)).await)?;
        Ok(())
    }

    /// Closes its stdin.
    pub fn close_stdin(&self) -> Result<(), Status> {
        let request =
            services::CloseIoRequest { container_id: self.container.clone(), exec_id: self.name.clone(), stdin: true };
        self.api.tasks(async |mut tasks, api| tasks.close_io(api.request(request)).await)?;
        Ok(())
    }

    /// Deletes it.
    pub fn delete(&self) -> Result<Ended, Status> {
        let request =
            services::DeleteProcessRequest { container_id: self.container.clone(), exec_id: self.name.clone() };
        let reply = self.api.tasks(async |mut tasks, api| tasks.delete_process(api.request(request)).await)?;
        Ok(Ended { code: reply.exit_status, at_s: reply.exited_at.map_or(0, |at| at.seconds) })
    }

    /// Waits for its end, reads its output to the end, and deletes it: exit code, stdout, stderr.
    pub fn finish(self) -> Result<(u32, String, String)> {
        let ended = self.wait()?;
        let (stdout, stderr) = (self.stdio.stdout.to_end()?, self.stdio.stderr.to_end()?);
        let deleted = self.delete()?;
        anyhow::ensure!(deleted == ended, "wait said {ended:?}, delete said {deleted:?}");
        Ok((ended.code, stdout, stderr))
    }
}
