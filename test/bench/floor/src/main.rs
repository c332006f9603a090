//! The floor of the benchmarks: a shim that answers every call at once and starts nothing. What it takes is what
//! containerd takes with any shim: a process for `start`, one that serves, one for `delete`. In a pod, it is what the kubelet
//! and CRI take besides.
//! It knows the newer form of bootstrapping only (containerd 2.3 and later), and no container.

use anyhow::{Context, Result, bail};
use async_trait::async_trait;
use containerd_shim_protos::api::{
    ConnectRequest, ConnectResponse, CreateTaskRequest, CreateTaskResponse, DeleteRequest, DeleteResponse, Empty,
    KillRequest, ShutdownRequest, StartRequest, StartResponse, StateRequest, StateResponse, Status, WaitRequest,
    WaitResponse,
};
use containerd_shim_protos::bootstrap_api::{BootstrapParams, BootstrapResult};
use containerd_shim_protos::shim_async::{Task, create_task};
use containerd_shim_protos::types::introspection::RuntimeInfo;
use protobuf::well_known_types::timestamp::Timestamp;
use protobuf::{EnumOrUnknown, Message, MessageField};
use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::sync::{Notify, watch};
use ttrpc::r#async::transport::Listener;
use ttrpc::asynchronous::{Server, TtrpcContext};

/// How long the last reply may take to leave.
const LAST_REPLY: Duration = Duration::from_millis(10);

fn main() -> Result<()> {
    match std::env::args().next_back().as_deref() {
        Some("start") => start(),
        Some("delete") => {
            let mut gone = DeleteResponse::new();
            gone.exited_at = MessageField::some(now());
            Ok(gone.write_to_writer(&mut io::stdout())?)
        }
        Some("-info") => Ok(RuntimeInfo::new().write_to_writer(&mut io::stdout())?),
        _ => bail!("expected -info, or the action start or delete at the end"),
    }
}

fn start() -> Result<()> {
    let mut input = Vec::new();
    io::stdin().read_to_end(&mut input)?;
    let parameters = BootstrapParams::parse_from_bytes(&input).context("read the bootstrap parameters")?;
    let dir = parameters.socket_dir.filter(|dir| !dir.is_empty()).context("containerd names no socket_dir")?;
    std::fs::create_dir_all(&dir)?;
    let mut name = DefaultHasher::new();
    (&parameters.namespace, &parameters.instance_id).hash(&mut name);
    let socket = Path::new(&dir).join(format!("floor-{:x}", name.finish()));
    let listener = UnixListener::bind(&socket).with_context(|| format!("listen on {}", socket.display()))?;
    let server = socket.clone();
    sandbox::process::daemonize(OwnedFd::from(listener), |listener| {
        let _ = serve(listener.into(), server);
    })?;
    let mut result = BootstrapResult::new();
    result.version = 3;
    result.address = format!("unix://{}", socket.display());
    result.protocol = "ttrpc".to_owned();
    Ok(io::stdout().write_all(&result.write_to_bytes()?)?)
}

fn serve(listener: UnixListener, socket: PathBuf) -> Result<()> {
    std::env::set_current_dir("/")?;
    listener.set_nonblocking(true)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let quit = Arc::new(Notify::new());
        let listener: Listener = tokio::net::UnixListener::from_std(listener)?.into();
        let service = Arc::new(Floor { quit: quit.clone(), pod: Mutex::default() });
        let mut server = Server::new().add_listener(listener).register_service(create_task(service));
        server.start().await?;
        quit.notified().await;
        std::fs::remove_file(&socket)?;
        tokio::time::sleep(LAST_REPLY).await;
        sandbox::process::exit(0)
    })
}

struct Floor {
    quit: Arc<Notify>,
    /// Whether a task of a pod was killed.
    pod: Mutex<HashMap<String, watch::Sender<bool>>>,
}

impl Floor {
    fn killed(&self, id: &str) -> Option<watch::Receiver<bool>> {
        Some(self.pod.lock().expect("nobody panics with the lock").get(id)?.subscribe())
    }
}

type Reply<T> = ttrpc::Result<T>;

/// What CRI says about each container that it makes.
const OF_CRI: &str = "io.kubernetes.cri.container-type";

/// Every task is this process, and ends well: one of a pod when it is killed, another as soon as somebody waits for it.
#[async_trait]
impl Task for Floor {
    async fn create(&self, _: &TtrpcContext, request: CreateTaskRequest) -> Reply<CreateTaskResponse> {
        let spec = std::fs::read_to_string(Path::new(&request.bundle).join("config.json")).unwrap_or_default();
        if spec.contains(OF_CRI) {
            self.pod.lock().expect("nobody panics with the lock").insert(request.id, watch::Sender::new(false));
        }
        Ok(CreateTaskResponse { pid: std::process::id(), ..CreateTaskResponse::default() })
    }

    async fn start(&self, _: &TtrpcContext, _: StartRequest) -> Reply<StartResponse> {
        Ok(StartResponse { pid: std::process::id(), ..StartResponse::default() })
    }

    async fn state(&self, _: &TtrpcContext, request: StateRequest) -> Reply<StateResponse> {
        let has_ended = self.killed(&request.id).is_some_and(|killed| *killed.borrow());
        let status = EnumOrUnknown::new(if has_ended { Status::STOPPED } else { Status::RUNNING });
        Ok(StateResponse { id: request.id, pid: std::process::id(), status, ..StateResponse::default() })
    }

    async fn wait(&self, _: &TtrpcContext, request: WaitRequest) -> Reply<WaitResponse> {
        if let Some(mut killed) = self.killed(&request.id) {
            // It is gone with a delete, too.
            let _ = killed.wait_for(|killed| *killed).await;
        }
        Ok(WaitResponse { exited_at: MessageField::some(now()), ..WaitResponse::default() })
    }

    async fn kill(&self, _: &TtrpcContext, request: KillRequest) -> Reply<Empty> {
        if let Some(killed) = self.pod.lock().expect("nobody panics with the lock").get(&request.id) {
            killed.send_replace(true);
        }
        Ok(Empty::new())
    }

    async fn delete(&self, _: &TtrpcContext, request: DeleteRequest) -> Reply<DeleteResponse> {
        self.pod.lock().expect("nobody panics with the lock").remove(&request.id);
        let exited_at = MessageField::some(now());
        Ok(DeleteResponse { pid: std::process::id(), exited_at, ..DeleteResponse::default() })
    }

    async fn connect(&self, _: &TtrpcContext, _: ConnectRequest) -> Reply<ConnectResponse> {
        let pid = std::process::id();
        Ok(ConnectResponse { shim_pid: pid, task_pid: pid, ..ConnectResponse::default() })
    }

    async fn shutdown(&self, _: &TtrpcContext, _: ShutdownRequest) -> Reply<Empty> {
        if self.pod.lock().expect("nobody panics with the lock").is_empty() {
            self.quit.notify_one();
        }
        Ok(Empty::new())
    }
}

fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp {
        seconds: i64::try_from(since.as_secs()).unwrap_or_default(),
        nanos: i32::try_from(since.subsec_nanos()).unwrap_or_default(),
        ..Timestamp::default()
    }
}
