//! The task service: decodes requests, asks the tasks, encodes replies. Nothing is decided here.

use crate::task::{ExecRequest, Request, Streams, TaskError, Tasks, Whom};
use crate::wire::{refusal, status, timestamp};
use async_trait::async_trait;
use containerd_shim_protos::api::{
    CheckpointTaskRequest, CloseIORequest, ConnectRequest, ConnectResponse, CreateTaskRequest, CreateTaskResponse,
    DeleteRequest, DeleteResponse, Empty, ExecProcessRequest, KillRequest, PauseRequest, PidsRequest, PidsResponse,
    ProcessInfo, ResizePtyRequest, ResumeRequest, ShutdownRequest, StartRequest, StartResponse, StateRequest,
    StateResponse, StatsRequest, StatsResponse, UpdateTaskRequest, WaitRequest, WaitResponse,
};
use containerd_shim_protos::shim_async::Task;
use protobuf::{EnumOrUnknown, MessageField};
use sandbox::console::Size;
use std::pin::Pin;
use std::sync::Arc;
use ttrpc::asynchronous::TtrpcContext;

pub(crate) struct Service {
    tasks: Arc<Tasks>,
}

type Reply<T> = ttrpc::Result<T>;

impl Service {
    pub(crate) fn new(tasks: Arc<Tasks>) -> Service {
        Service { tasks }
    }
}

/// What changes a task, boxed where it is made: moved about by itself, its 12 KB would be on the stack several times.
type Transition<T> = Pin<Box<dyn Future<Output = Result<T, TaskError>> + Send>>;

/// ttrpc drops a handler's future on disconnect or deadline. A transition that has begun goes on without it.
async fn to_the_end<T: Send + 'static>(transition: Transition<T>) -> Reply<T> {
    let outcome = tokio::spawn(transition).await.unwrap_or(Err(TaskError::Cancelled));
    outcome.map_err(|error| refusal(&error))
}

fn not_built<T>(call: &'static str) -> Reply<T> {
    Err(refusal(&TaskError::NotBuilt(call)))
}

#[async_trait]
impl Task for Service {
    async fn create(&self, _: &TtrpcContext, request: CreateTaskRequest) -> Reply<CreateTaskResponse> {
        let tasks = self.tasks.clone();
        let pid = to_the_end(Box::pin(async move { tasks.create(Request::from(request)).await })).await?;
        Ok(CreateTaskResponse { pid, ..CreateTaskResponse::default() })
    }

    async fn start(&self, _: &TtrpcContext, request: StartRequest) -> Reply<StartResponse> {
        let tasks = self.tasks.clone();
        let pid = to_the_end(Box::pin(async move { tasks.start(&request.id, &request.exec_id).await })).await?;
        Ok(StartResponse { pid, ..StartResponse::default() })
    }

    async fn state(&self, _: &TtrpcContext, request: StateRequest) -> Reply<StateResponse> {
        let task = self.tasks.get(&request.id).map_err(|error| refusal(&error))?;
        let process = self.tasks.process(&request.id, &request.exec_id).map_err(|error| refusal(&error))?;
        let (state, streams) = (process.state(), &process.streams);
        let mut reply = StateResponse::new();
        reply.id = request.id;
        reply.exec_id = request.exec_id;
        reply.bundle = task.request.bundle.display().to_string();
        reply.pid = state.pid().unwrap_or_default();
        reply.status = EnumOrUnknown::new(status(&state));
        reply.stdin = streams.stdin.clone();
        reply.stdout = streams.stdout.clone();
        reply.stderr = streams.stderr.clone();
        reply.terminal = streams.terminal;
        if let Some(exit) = state.exit() {
            reply.exit_status = exit.code;
            reply.exited_at = MessageField::some(timestamp(exit.at));
        }
        Ok(reply)
    }

    async fn pids(&self, _: &TtrpcContext, request: PidsRequest) -> Reply<PidsResponse> {
        let pids = self.tasks.pids(&request.id).map_err(|error| refusal(&error))?;
        let processes = pids.into_iter().map(|pid| ProcessInfo { pid, ..ProcessInfo::default() }).collect();
        Ok(PidsResponse { processes, ..PidsResponse::default() })
    }

    async fn kill(&self, _: &TtrpcContext, request: KillRequest) -> Reply<Empty> {
        let whom = if request.all { Whom::All } else { Whom::First };
        let killed = self.tasks.kill(&request.id, &request.exec_id, request.signal, whom);
        killed.map_err(|error| refusal(&error))?;
        Ok(Empty::new())
    }

    async fn wait(&self, _: &TtrpcContext, request: WaitRequest) -> Reply<WaitResponse> {
        let process = self.tasks.process(&request.id, &request.exec_id).map_err(|error| refusal(&error))?;
        let exit = process.exit().await.map_err(|error| refusal(&error))?;
        let exited_at = MessageField::some(timestamp(exit.at));
        Ok(WaitResponse { exit_status: exit.code, exited_at, ..WaitResponse::default() })
    }

    async fn close_io(&self, _: &TtrpcContext, request: CloseIORequest) -> Reply<Empty> {
        let process = self.tasks.process(&request.id, &request.exec_id).map_err(|error| refusal(&error))?;
        if request.stdin {
            process.close_stdin();
        }
        Ok(Empty::new())
    }

    async fn delete(&self, _: &TtrpcContext, request: DeleteRequest) -> Reply<DeleteResponse> {
        let tasks = self.tasks.clone();
        let exit = to_the_end(Box::pin(async move { tasks.delete(&request.id, &request.exec_id).await })).await?;
        let mut reply = DeleteResponse::new();
        reply.pid = exit.pid;
        reply.exit_status = exit.code;
        reply.exited_at = MessageField::some(timestamp(exit.at));
        Ok(reply)
    }

    async fn connect(&self, _: &TtrpcContext, request: ConnectRequest) -> Reply<ConnectResponse> {
        let task = self.tasks.get(&request.id).map_err(|error| refusal(&error))?;
        let task_pid = task.main.state().pid().unwrap_or_default();
        Ok(ConnectResponse { shim_pid: std::process::id(), task_pid, ..ConnectResponse::default() })
    }

    async fn shutdown(&self, _: &TtrpcContext, _: ShutdownRequest) -> Reply<Empty> {
        self.tasks.shut_down();
        Ok(Empty::new())
    }

    async fn pause(&self, _: &TtrpcContext, request: PauseRequest) -> Reply<Empty> {
        let tasks = self.tasks.clone();
        to_the_end(Box::pin(async move { tasks.pause(&request.id).await })).await?;
        Ok(Empty::new())
    }

    async fn resume(&self, _: &TtrpcContext, request: ResumeRequest) -> Reply<Empty> {
        let tasks = self.tasks.clone();
        to_the_end(Box::pin(async move { tasks.resume(&request.id).await })).await?;
        Ok(Empty::new())
    }

    async fn exec(&self, _: &TtrpcContext, request: ExecProcessRequest) -> Reply<Empty> {
        let spec = request.spec.into_option().unwrap_or_default();
        let wanted = ExecRequest {
            container: request.id,
            exec: request.exec_id,
            streams: Streams {
                stdin: request.stdin,
                stdout: request.stdout,
                stderr: request.stderr,
                terminal: request.terminal,
            },
            spec: oci::ProcessSpec { type_url: spec.type_url, value: spec.value },
        };
        self.tasks.exec(wanted).map_err(|error| refusal(&error))?;
        Ok(Empty::new())
    }

    async fn resize_pty(&self, _: &TtrpcContext, request: ResizePtyRequest) -> Reply<Empty> {
        let process = self.tasks.process(&request.id, &request.exec_id).map_err(|error| refusal(&error))?;
        let characters = |count: u32| u16::try_from(count).unwrap_or(u16::MAX);
        let size = Size { width: characters(request.width), height: characters(request.height) };
        process.resize(size).map_err(|error| refusal(&error))?;
        Ok(Empty::new())
    }

    async fn update(&self, _: &TtrpcContext, request: UpdateTaskRequest) -> Reply<Empty> {
        let (tasks, resources) = (self.tasks.clone(), request.resources.into_option().unwrap_or_default());
        to_the_end(Box::pin(async move { tasks.update(&request.id, &resources.type_url, &resources.value).await }))
            .await?;
        Ok(Empty::new())
    }

    async fn stats(&self, _: &TtrpcContext, request: StatsRequest) -> Reply<StatsResponse> {
        let stats = self.tasks.stats(&request.id).map_err(|error| refusal(&error))?;
        Ok(StatsResponse { stats: MessageField::some(stats), ..StatsResponse::default() })
    }

    async fn checkpoint(&self, _: &TtrpcContext, _: CheckpointTaskRequest) -> Reply<Empty> {
        not_built("checkpoint")
    }
}
