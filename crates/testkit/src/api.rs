//! A blocking client of containerd's gRPC API, for what `ctr` cannot do one step at a time.
//! It adds nothing to the API but names: a test sees the replies and errors that containerd gives.

mod events;
mod exec;

use crate::Containerd;
use crate::fifo::Stdio;
use crate::runtime::Runtime;
use crate::wait;
use anyhow::{Context, Result};
use containerd_client::services::v1 as services;
use containerd_client::services::v1::containers_client::ContainersClient;
use containerd_client::services::v1::snapshots::snapshots_client::SnapshotsClient;
use containerd_client::services::v1::snapshots::{PrepareSnapshotRequest, RemoveSnapshotRequest};
use containerd_client::services::v1::tasks_client::TasksClient;
use containerd_client::tonic::transport::Channel;
use containerd_client::tonic::{Code, Request, Response, Status};
use containerd_client::types::Mount;
use prost_types::Any;
use serde_json::Value;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::runtime::Builder;

pub use events::{Event, Events};
pub use exec::{Exec, Terminal};

/// The snapshotter of every version here.
const SNAPSHOTTER: &str = "overlayfs";

/// One connection, for one thread; a test with more threads makes one in each.
#[derive(Debug)]
pub struct Api {
    runtime: tokio::runtime::Runtime,
    channel: Channel,
    socket: PathBuf,
    namespace: String,
    container_runtime: Runtime,
    layer_options: Vec<String>,
    upper: Option<PathBuf>,
    patience: Duration,
}

/// How a task ended, as Wait and Delete tell it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ended {
    /// Exit code.
    pub code: u32,
    /// Seconds since the epoch; 0 if containerd says nothing.
    pub at_s: i64,
}

/// A task's state, as Get tells it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct State {
    /// Process id on the node.
    pub pid: i32,
    /// `CREATED`, `RUNNING`, `STOPPED` and so on.
    pub status: String,
    /// Exit code, once it is stopped.
    pub code: u32,
}

impl Api {
    pub(crate) fn connect(containerd: &Containerd, namespace: &str) -> Result<Self> {
        let runtime = runtime()?;
        let socket = containerd.socket();
        let channel = runtime.block_on(containerd_client::connect(&socket))?;
        let container_runtime = Runtime::wasm(&containerd.operator_file());
        let patience = wait::patience();
        Ok(Api {
            runtime,
            channel,
            socket,
            namespace: namespace.to_owned(),
            container_runtime,
            layer_options: Vec::new(),
            upper: None,
            patience,
        })
    }

    /// Gives calls up after this time from now on, as a client does that is killed.
    pub fn patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// With another operator file for the containers made from now on.
    pub fn operator_file(mut self, path: &Path) -> Self {
        self.container_runtime = Runtime::wasm(path);
        self
    }

    /// With another runtime than ours for the containers made from now on.
    pub fn container_runtime(mut self, runtime: &Runtime) -> Self {
        self.container_runtime = runtime.clone();
        self
    }

    /// With more options on each mount of a root filesystem from now on, as some snapshotters have them.
    pub fn layer_options<const N: usize>(mut self, options: [String; N]) -> Self {
        self.layer_options = options.into();
        self
    }

    /// With the writes to root filesystems made from now on in this directory, which has an empty `upper` and `work`.
    pub fn upper(mut self, path: &Path) -> Self {
        self.upper = Some(path.to_owned());
        self
    }

    /// Makes a container with this spec. With a chain id its root filesystem is a snapshot over those
    /// layers, else an empty one.
    pub fn create_container(&self, id: &str, spec: &Value, image: &str, parent: &str) -> Result<()> {
        let key = self.snapshot_key(id);
        let prepare = PrepareSnapshotRequest {
            snapshotter: SNAPSHOTTER.to_owned(),
            key: key.clone(),
            parent: parent.to_owned(),
            // Without a container yet that refers to it, the garbage collector would take it.
            labels: HashMap::from([("containerd.io/gc.root".to_owned(), "test".to_owned())]),
        };
        let container = services::Container {
            id: id.to_owned(),
            image: image.to_owned(),
            runtime: Some(services::container::Runtime {
                name: self.container_runtime.name.clone(),
                options: self.container_runtime.options.clone(),
            }),
            spec: Some(Any {
                type_url: "types.containerd.io/opencontainers/runtime-spec/1/Spec".to_owned(),
                value: spec.to_string().into_bytes(),
            }),
            snapshotter: SNAPSHOTTER.to_owned(),
            snapshot_key: key,
            ..services::Container::default()
        };
        let request = services::CreateContainerRequest { container: Some(container) };
        self.call(async |channel, api| {
            let mut snapshots = SnapshotsClient::new(channel.clone());
            snapshots.prepare(api.request(prepare)).await?;
            ContainersClient::new(channel).create(api.request(request)).await
        })?;
        Ok(())
    }

    /// Removes the container and its snapshot.
    pub fn delete_container(&self, id: &str) -> Result<(), Status> {
        let request = services::DeleteContainerRequest { id: id.to_owned() };
        let remove = RemoveSnapshotRequest { snapshotter: SNAPSHOTTER.to_owned(), key: self.snapshot_key(id) };
        self.call(async |channel, api| {
            let mut containers = ContainersClient::new(channel.clone());
            containers.delete(api.request(request)).await?;
            SnapshotsClient::new(channel).remove(api.request(remove)).await
        })?;
        Ok(())
    }

    /// As [`Api::delete_container`], of which any part may be gone already.
    pub fn discard_container(&self, id: &str) -> Result<(), Status> {
        let request = services::DeleteContainerRequest { id: id.to_owned() };
        let remove = RemoveSnapshotRequest { snapshotter: SNAPSHOTTER.to_owned(), key: self.snapshot_key(id) };
        let gone = |answer: Result<(), Status>| match answer {
            Err(status) if status.code() == Code::NotFound => Ok(()),
            answer => answer,
        };
        gone(self.call(async |channel, api| ContainersClient::new(channel).delete(api.request(request)).await))?;
        gone(self.call(async |channel, api| SnapshotsClient::new(channel).remove(api.request(remove)).await))
    }

    /// Whether the directories of the container's snapshot are there.
    pub fn has_snapshot(&self, id: &str) -> Result<bool, Status> {
        let request =
            services::snapshots::MountsRequest { snapshotter: SNAPSHOTTER.to_owned(), key: self.snapshot_key(id) };
        let mounts =
            self.call(async |channel, api| SnapshotsClient::new(channel).mounts(api.request(request)).await)?.mounts;
        let options = mounts.iter().flat_map(|mount| &mount.options);
        let mut dirs = options.filter_map(|option| option.split_once("dir=")).flat_map(|(_, dirs)| dirs.split(':'));
        Ok(dirs.all(|dir| Path::new(dir).is_dir()))
    }

    /// Creates the task and gives its pid.
    pub fn create_task(&self, id: &str, stdio: Option<&Stdio>) -> Result<i32, Status> {
        let stdin = stdio.and_then(|s| s.stdin.as_ref()).map(|path| path.display().to_string()).unwrap_or_default();
        let [stdout, stderr] = match stdio {
            Some(stdio) => [stdio.stdout.name(), stdio.stderr.name()],
            None => [String::new(), String::new()],
        };
        self.create_task_with(id, stdin, stdout, stderr)
    }

    /// As [`Api::create_task`], with stdio that is named as containerd has it.
    pub fn create_task_with(&self, id: &str, stdin: String, stdout: String, stderr: String) -> Result<i32, Status> {
        let request = services::CreateTaskRequest { stdin, stdout, stderr, ..services::CreateTaskRequest::default() };
        self.request_task(id, request)
    }

    /// As [`Api::create_task`], with a terminal.
    pub fn create_task_on_terminal(&self, id: &str, stdio: &Stdio) -> Result<i32, Status> {
        let request = services::CreateTaskRequest {
            stdin: stdio.stdin.as_ref().map(|path| path.display().to_string()).unwrap_or_default(),
            stdout: stdio.stdout.name(),
            terminal: true,
            ..services::CreateTaskRequest::default()
        };
        self.request_task(id, request)
    }

    fn request_task(&self, id: &str, mut request: services::CreateTaskRequest) -> Result<i32, Status> {
        request.container_id = id.to_owned();
        let mounts =
            services::snapshots::MountsRequest { snapshotter: SNAPSHOTTER.to_owned(), key: self.snapshot_key(id) };
        let response = self.call(async |channel, api| {
            let mut snapshots = SnapshotsClient::new(channel.clone());
            let mounts = snapshots.mounts(api.request(mounts)).await?;
            request.rootfs = mounts.into_inner().mounts;
            for mount in &mut request.rootfs {
                mount.options.extend(api.layer_options.iter().cloned());
            }
            if let Some(upper) = &api.upper {
                request.rootfs.iter_mut().for_each(|mount| redirect(mount, upper));
            }
            TasksClient::new(channel).create(api.request(request)).await
        })?;
        Ok(response.pid as i32)
    }

    /// Starts the task and gives its pid.
    pub fn start(&self, id: &str) -> Result<i32, Status> {
        let request = services::StartRequest { container_id: id.to_owned(), exec_id: String::new() };
        let reply = self.tasks(async |mut tasks, api| tasks.start(api.request(request)).await)?;
        Ok(reply.pid as i32)
    }

    /// Sends a signal to the task's process.
    pub fn kill(&self, id: &str, signal: i32) -> Result<(), Status> {
        self.send_signal(id, signal, false)
    }

    /// Sends a signal to all processes of the task.
    pub fn kill_all(&self, id: &str, signal: i32) -> Result<(), Status> {
        self.send_signal(id, signal, true)
    }

    fn send_signal(&self, id: &str, signal: i32, all: bool) -> Result<(), Status> {
        let request = services::KillRequest {
            container_id: id.to_owned(),
            exec_id: String::new(),
            signal: signal.unsigned_abs(),
            all,
        };
        self.tasks(async |mut tasks, api| tasks.kill(api.request(request)).await)?;
        Ok(())
    }

    /// Stops all processes of the task.
    pub fn pause(&self, id: &str) -> Result<(), Status> {
        let request = services::PauseTaskRequest { container_id: id.to_owned() };
        self.tasks(async |mut tasks, api| tasks.pause(api.request(request)).await)?;
        Ok(())
    }

    /// Lets a paused task go on.
    pub fn resume(&self, id: &str) -> Result<(), Status> {
        let request = services::ResumeTaskRequest { container_id: id.to_owned() };
        self.tasks(async |mut tasks, api| tasks.resume(api.request(request)).await)?;
        Ok(())
    }

    /// Waits for the task's end.
    pub fn wait(&self, id: &str) -> Result<Ended, Status> {
        let request = services::WaitRequest { container_id: id.to_owned(), exec_id: String::new() };
        let reply = self.tasks(async |mut tasks, api| tasks.wait(api.request(request)).await)?;
        Ok(Ended { code: reply.exit_status, at_s: reply.exited_at.map_or(0, |at| at.seconds) })
    }

    /// Deletes the task, which must have ended.
    pub fn delete_task(&self, id: &str) -> Result<Ended, Status> {
        let request = services::DeleteTaskRequest { container_id: id.to_owned() };
        let reply = self.tasks(async |mut tasks, api| tasks.delete(api.request(request)).await)?;
        Ok(Ended { code: reply.exit_status, at_s: reply.exited_at.map_or(0, |at| at.seconds) })
    }

    /// The task's state.
    pub fn state(&self, id: &str) -> Result<State, Status> {
        let request = services::GetRequest { container_id: id.to_owned(), exec_id: String::new() };
        let reply = self.tasks(async |mut tasks, api| tasks.get(api.request(request)).await)?;
        let process = reply.process.unwrap_or_default();
        Ok(State {
            pid: process.pid as i32,
            status: process.status().as_str_name().to_owned(),
            code: process.exit_status,
        })
    }

    /// Waits until the task has this status.
    pub fn until_status(&self, id: &str, status: &str) -> Result<State> {
        wait::until(&format!("task {id} is {status}"), || {
            let state = self.state(id)?;
            Ok((state.status == status).then_some(state))
        })
    }

    /// The pids of the task's processes.
    pub fn pids(&self, id: &str) -> Result<Vec<i32>, Status> {
        let request = services::ListPidsRequest { container_id: id.to_owned() };
        let reply = self.tasks(async |mut tasks, api| tasks.list_pids(api.request(request)).await)?;
        let pids = reply.processes.iter().map(|process| process.pid as i32);
        Ok(pids.collect())
    }

    /// Closes the task's stdin.
    pub fn close_stdin(&self, id: &str) -> Result<(), Status> {
        let request = services::CloseIoRequest { container_id: id.to_owned(), exec_id: String::new(), stdin: true };
        self.tasks(async |mut tasks, api| tasks.close_io(api.request(request)).await)?;
        Ok(())
    }

    /// Any other call of the Tasks service.
    pub fn tasks<T>(
        &self,
        call: impl AsyncFnOnce(TasksClient<Channel>, &Api) -> Result<Response<T>, Status>,
    ) -> Result<T, Status> {
        self.call(async |channel, api| call(TasksClient::new(channel), api).await)
    }

    /// A request of this namespace.
    pub fn request<T>(&self, message: T) -> Request<T> {
        request(&self.namespace, message)
    }

    /// Listens to the events of this namespace from now on.
    pub fn events(&self) -> Result<Events> {
        Events::subscribe(&self.socket, &self.namespace)
    }

    fn snapshot_key(&self, id: &str) -> String {
        format!("snapshot-{id}")
    }

    fn call<T>(&self, call: impl AsyncFnOnce(Channel, &Api) -> Result<Response<T>, Status>) -> Result<T, Status> {
        // A call that is never answered must not hang the test run.
        let patient = async { tokio::time::timeout(self.patience, call(self.channel.clone(), self)).await };
        let answer = self.runtime.block_on(patient);
        let answer = answer.unwrap_or_else(|_| Err(Status::deadline_exceeded("no answer from containerd")));
        answer.map(Response::into_inner)
    }
}

/// Gives an overlay another writable layer.
fn redirect(mount: &mut Mount, upper: &Path) {
    for option in &mut mount.options {
        for (key, name) in [("upperdir", "upper"), ("workdir", "work")] {
            if option.starts_with(&format!("{key}=")) {
                *option = format!("{key}={}", upper.join(name).display());
            }
        }
    }
}

fn runtime() -> Result<tokio::runtime::Runtime> {
    let mut builder = Builder::new_current_thread();
    builder.enable_all().build().context("start a tokio runtime")
}

fn request<T>(namespace: &str, message: T) -> Request<T> {
    let mut request = Request::new(message);
    let value = namespace.parse().expect("a namespace is plain ASCII");
    request.metadata_mut().insert("containerd-namespace", value);
    request
}
