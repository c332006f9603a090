//! The task service: decodes requests, asks the tasks, encodes replies. Nothing is decided here.

use crate::task::{Request, TaskError, Tasks};
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

/// ttrpc drops a handler's future on disconnect or deadline. A transition that has begun goes on without it.
async fn to_the_end<T: Send + 'static>(
    transition: impl Future<Output = Result<T, TaskError>> + Send + 'static,
) -> Reply<T> {
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
        let pid = to_the_end(async move { tasks.create(Request::from(request)).await }).await?;
        Ok(CreateTaskResponse { pid, ..CreateTaskResponse::default() })
    }

    async fn start(&self, _: &TtrpcContext, request: StartRequest) -> Reply<StartResponse> {
        let tasks = self.tasks.clone();
        let pid = to_the_end(async move { tasks.start(&request.id, &request.exec_id).await }).await?;
        Ok(StartResponse { pid, ..StartResponse::default() })
    }

    async fn state(&self, _: &TtrpcContext, request: StateRequest) -> Reply<StateResponse> {
        let task = self.tasks.get(&request.id, &request.exec_id).map_err(|error| refusal(&error))?;
        let state = task.state();
        let mut reply = StateResponse::new();
        reply.id = request.id;
        reply.bundle = task.request.bundle.display().to_string();
        reply.pid = state.pid().unwrap_or_default();
        reply.status = EnumOrUnknown::new(status(&state));
        reply.stdin = task.request.stdin.clone();
        reply.stdout = task.request.stdout.clone();
        reply.stderr = task.request.stderr.clone();
        if let Some(exit) = state.exit() {
            reply.exit_status = exit.code;
            reply.exited_at = MessageField::some(timestamp(exit.at));
        }
        Ok(reply)
    }

    async fn pids(&self, _: &TtrpcContext, request: PidsRequest) -> Reply<PidsResponse> {
        let task = self.tasks.get(&request.id, "").map_err(|error| refusal(&error))?;
        // Always one at least: containerd takes a shim without for leaked, and kills it.
        let pids = task.state().pid().into_iter();
        let processes = pids.map(|pid| ProcessInfo { pid, ..ProcessInfo::default() }).collect();
        Ok(PidsResponse { processes, ..PidsResponse::default() })
    }

    async fn kill(&self, _: &TtrpcContext, request: KillRequest) -> Reply<Empty> {
        let task = self.tasks.get(&request.id, &request.exec_id).map_err(|error| refusal(&error))?;
        // A container is one process, so `all` changes nothing.
        task.kill(request.signal).map_err(|error| refusal(&error))?;
        Ok(Empty::new())
    }

    async fn wait(&self, _: &TtrpcContext, request: WaitRequest) -> Reply<WaitResponse> {
        let task = self.tasks.get(&request.id, &request.exec_id).map_err(|error| refusal(&error))?;
        let exit = task.exit().await.map_err(|error| refusal(&error))?;
        let exited_at = MessageField::some(timestamp(exit.at));
        Ok(WaitResponse { exit_status: exit.code, exited_at, ..WaitResponse::default() })
    }

    async fn close_io(&self, _: &TtrpcContext, request: CloseIORequest) -> Reply<Empty> {
        let task = self.tasks.get(&request.id, &request.exec_id).map_err(|error| refusal(&error))?;
        if request.stdin {
            task.close_stdin();
        }
        Ok(Empty::new())
    }

    async fn delete(&self, _: &TtrpcContext, request: DeleteRequest) -> Reply<DeleteResponse> {
        let tasks = self.tasks.clone();
        let exit = to_the_end(async move { tasks.delete(&request.id, &request.exec_id).await }).await?;
        let mut reply = DeleteResponse::new();
        reply.pid = exit.pid;
        reply.exit_status = exit.code;
        reply.exited_at = MessageField::some(timestamp(exit.at));
        Ok(reply)
    }

    async fn connect(&self, _: &TtrpcContext, request: ConnectRequest) -> Reply<ConnectResponse> {
        let task = self.tasks.get(&request.id, "").map_err(|error| refusal(&error))?;
        let task_pid = task.state().pid().unwrap_or_default();
        Ok(ConnectResponse { shim_pid: std::process::id(), task_pid, ..ConnectResponse::default() })
    }

    async fn shutdown(&self, _: &TtrpcContext, _: ShutdownRequest) -> Reply<Empty> {
        self.tasks.shut_down();
        Ok(Empty::new())
    }

    async fn pause(&self, _: &TtrpcContext, request: PauseRequest) -> Reply<Empty> {
        let tasks = self.tasks.clone();
        to_the_end(async move { tasks.pause(&request.id).await }).await?;
        Ok(Empty::new())
    }

    async fn resume(&self, _: &TtrpcContext, request: ResumeRequest) -> Reply<Empty> {
        let tasks = self.tasks.clone();
        to_the_end(async move { tasks.resume(&request.id).await }).await?;
        Ok(Empty::new())
    }

    async fn exec(&self, _: &TtrpcContext, _: ExecProcessRequest) -> Reply<Empty> {
        not_built("exec")
    }

    async fn resize_pty(&self, _: &TtrpcContext, _: ResizePtyRequest) -> Reply<Empty> {
        not_built("resize_pty")
    }

    async fn update(&self, _: &TtrpcContext, request: UpdateTaskRequest) -> Reply<Empty> {
        let (tasks, resources) = (self.tasks.clone(), request.resources.into_option().unwrap_or_default());
        to_the_end(async move { tasks.update(&request.id, &resources.type_url, &resources.value).await }).await?;
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
