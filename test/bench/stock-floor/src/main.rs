//! The stock floor: a shim on `containerd-shim`, as that library's example has it, which answers every call at once and
//! starts nothing. The peer's library stands on the same. `test/bench/floor` does without it, and is leaner.
//! It knows no pods.

use containerd_shim::protos::protobuf::well_known_types::timestamp::Timestamp;
use containerd_shim::protos::protobuf::{EnumOrUnknown, MessageField};
use containerd_shim::synchronous::publisher::RemotePublisher;
use containerd_shim::{
    Config, DeleteResponse, Error, ExitSignal, Flags, Shim, StartOpts, Task, TtrpcContext, TtrpcResult, api,
};
use std::process;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

#[derive(Clone)]
struct Floor {
    quit: Arc<ExitSignal>,
}

impl Shim for Floor {
    type T = Floor;

    fn new(_: &str, _: &Flags, _: &mut Config) -> Self {
        Floor { quit: Arc::default() }
    }

    fn start_shim(&mut self, options: StartOpts) -> Result<String, Error> {
        let pod = options.id.clone();
        let (_, address) = containerd_shim::spawn(options, &pod, Vec::new())?;
        // The server removes its socket by it.
        containerd_shim::util::write_address(&address)?;
        Ok(address)
    }

    fn delete_shim(&mut self) -> Result<DeleteResponse, Error> {
        Ok(DeleteResponse { exited_at: now(), ..DeleteResponse::default() })
    }

    fn wait(&mut self) {
        self.quit.wait();
    }

    fn create_task_service(&self, _: RemotePublisher) -> Floor {
        self.clone()
    }
}

/// Every task is this process, and ends well as soon as somebody waits for it.
impl Task for Floor {
    fn create(&self, _: &TtrpcContext, _: api::CreateTaskRequest) -> TtrpcResult<api::CreateTaskResponse> {
        Ok(api::CreateTaskResponse { pid: process::id(), ..Default::default() })
    }

    fn start(&self, _: &TtrpcContext, _: api::StartRequest) -> TtrpcResult<api::StartResponse> {
        Ok(api::StartResponse { pid: process::id(), ..Default::default() })
    }

    fn state(&self, _: &TtrpcContext, request: api::StateRequest) -> TtrpcResult<api::StateResponse> {
        let status = EnumOrUnknown::new(api::Status::RUNNING);
        Ok(api::StateResponse { id: request.id, pid: process::id(), status, ..Default::default() })
    }

    fn wait(&self, _: &TtrpcContext, _: api::WaitRequest) -> TtrpcResult<api::WaitResponse> {
        Ok(api::WaitResponse { exited_at: now(), ..Default::default() })
    }

    fn kill(&self, _: &TtrpcContext, _: api::KillRequest) -> TtrpcResult<api::Empty> {
        Ok(api::Empty::new())
    }

    fn delete(&self, _: &TtrpcContext, _: api::DeleteRequest) -> TtrpcResult<api::DeleteResponse> {
        Ok(api::DeleteResponse { pid: process::id(), exited_at: now(), ..Default::default() })
    }

    fn connect(&self, _: &TtrpcContext, _: api::ConnectRequest) -> TtrpcResult<api::ConnectResponse> {
        Ok(api::ConnectResponse { shim_pid: process::id(), task_pid: process::id(), ..Default::default() })
    }

    fn shutdown(&self, _: &TtrpcContext, _: api::ShutdownRequest) -> TtrpcResult<api::Empty> {
        self.quit.signal();
        Ok(api::Empty::new())
    }
}

fn now() -> MessageField<Timestamp> {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    MessageField::some(Timestamp {
        seconds: i64::try_from(since.as_secs()).unwrap_or_default(),
        nanos: i32::try_from(since.subsec_nanos()).unwrap_or_default(),
        ..Timestamp::default()
    })
}

fn main() {
    containerd_shim::run::<Floor>("io.containerd.stock-floor.v1", None);
}
