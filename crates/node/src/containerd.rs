//! containerd's own API: its version, and a Wasm container in a namespace of its own, made without CRI, an image or a
//! network.

use crate::host::{Host, HostError, Mode};
use containerd_client::services::v1::containers_client::ContainersClient;
use containerd_client::services::v1::namespaces_client::NamespacesClient;
use containerd_client::services::v1::tasks_client::TasksClient;
use containerd_client::services::v1::version_client::VersionClient;
use containerd_client::services::v1::{
    Container, CreateContainerRequest, CreateNamespaceRequest, CreateTaskRequest, DeleteContainerRequest,
    DeleteNamespaceRequest, DeleteTaskRequest, KillRequest, Namespace, StartRequest, WaitRequest, container,
};
use containerd_client::tonic::transport::{self, Channel};
use containerd_client::tonic::{Code, Request, Response, Status};
use containerd_client::types::Mount;
use prost_types::Any;
use serde_json::json;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tokio::runtime::{Builder, Runtime};

/// The namespace of the container that verifies.
const NAMESPACE: &str = "containerd-shim-wasm-verify";
const ID: &str = "verify";
/// What `verify.wasm` writes.
pub(crate) const SAID: &str = "a Wasm container runs on this node\n";
/// How long one call may take: the first one compiles the module.
const PATIENCE: Duration = Duration::from_secs(60);
/// Between two attempts to connect.
const LOOK: Duration = Duration::from_millis(100);

/// Why containerd did not do it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ContainerdError {
    #[error("start a runtime for calls of containerd")]
    Runtime(#[source] io::Error),
    #[error("reach containerd at {socket}: name its socket with --socket")]
    Connect {
        socket: PathBuf,
        #[source]
        source: transport::Error,
    },
    #[error("containerd does not {call}: {}", status.message())]
    Call { call: &'static str, status: Box<Status> },
    #[error("containerd did not {call} in {} s", PATIENCE.as_secs())]
    Late { call: &'static str },
    #[error(transparent)]
    Host(#[from] HostError),
    #[error("the Wasm container ended with {code} and said {said:?}: expected 0 and {SAID:?}")]
    Wrong { code: u32, said: String },
}

/// A connection to a containerd.
#[derive(Debug)]
pub(crate) struct Containerd {
    pub(crate) runtime: Runtime,
    pub(crate) channel: Channel,
}

impl Containerd {
    /// Connects, once; the socket is the node's.
    pub(crate) fn connect(host: &Host, socket: &Path) -> Result<Containerd, ContainerdError> {
        let runtime = Builder::new_current_thread().enable_all().build().map_err(ContainerdError::Runtime)?;
        let connected = runtime.block_on(containerd_client::connect(host.at(socket)));
        let channel = connected.map_err(|source| ContainerdError::Connect { socket: socket.to_owned(), source })?;
        Ok(Containerd { runtime, channel })
    }

    /// Connects as soon as it answers, within this time.
    pub(crate) fn await_answer(host: &Host, socket: &Path, patience: Duration) -> Result<Containerd, ContainerdError> {
        let deadline = Instant::now() + patience;
        loop {
            let answered = Containerd::connect(host, socket).and_then(|containerd| {
                containerd.version()?;
                Ok(containerd)
            });
            match answered {
                Err(_) if Instant::now() < deadline => std::thread::sleep(LOOK),
                answered => return answered,
            }
        }
    }

    /// As containerd writes it: `v2.3.7`.
    pub(crate) fn version(&self) -> Result<String, ContainerdError> {
        let version = self.call("tell its version", VersionClient::new(self.channel.clone()).version(()))?;
        Ok(version.version)
    }

    /// Runs a module in a container of the shim, and checks what it says. `place` is a directory of the node for its root
    /// filesystem and its output, removed afterwards.
    pub(crate) fn run_wasm(&self, host: &Host, shim: &Path, wasm: &[u8], place: &Path) -> Result<(), ContainerdError> {
        // What a killed run left.
        self.take_away();
        host.remove_all(place)?;
        let (rootfs, output) = (place.join("rootfs"), place.join("output"));
        host.write(&rootfs.join("verify.wasm"), wasm, Mode::Text)?;
        let ran = self.ran(shim, &rootfs, &output);
        self.take_away();
        let said = host.read(&output)?.unwrap_or_default();
        host.remove_all(place)?;
        let (code, said) = (ran?, String::from_utf8_lossy(&said).into_owned());
        if code != 0 || said != SAID {
            return Err(ContainerdError::Wrong { code, said });
        }
        Ok(())
    }

    fn ran(&self, shim: &Path, rootfs: &Path, output: &Path) -> Result<u32, ContainerdError> {
        let mut namespaces = NamespacesClient::new(self.channel.clone());
        let namespace = Namespace { name: NAMESPACE.to_owned(), ..Namespace::default() };
        let request = CreateNamespaceRequest { namespace: Some(namespace) };
        self.call("make a namespace", namespaces.create(request))?;
        let container = Container {
            id: ID.to_owned(),
            runtime: Some(container::Runtime { name: shim.display().to_string(), options: None }),
            spec: Some(Any {
                type_url: "types.containerd.io/opencontainers/runtime-spec/1/Spec".to_owned(),
                value: spec().to_string().into_bytes(),
            }),
            ..Container::default()
        };
        let mut containers = ContainersClient::new(self.channel.clone());
        let request = CreateContainerRequest { container: Some(container) };
        self.call("make a container", containers.create(of_ours(request)))?;
        let mut tasks = TasksClient::new(self.channel.clone());
        let mount = Mount {
            r#type: "bind".to_owned(),
            source: rootfs.display().to_string(),
            options: ["rbind", "ro"].map(str::to_owned).into(),
            ..Mount::default()
        };
        let output = format!("file://{}", output.display());
        let request = CreateTaskRequest {
            container_id: ID.to_owned(),
            rootfs: vec![mount],
            stdout: output.clone(),
            stderr: output,
            ..CreateTaskRequest::default()
        };
        self.call("create the Wasm container", tasks.create(of_ours(request)))?;
        let request = StartRequest { container_id: ID.to_owned(), ..StartRequest::default() };
        self.call("start the Wasm container", tasks.start(of_ours(request)))?;
        let request = WaitRequest { container_id: ID.to_owned(), ..WaitRequest::default() };
        let ended = self.call("see the Wasm container end", tasks.wait(of_ours(request)))?;
        Ok(ended.exit_status)
    }

    /// Removes all that verifying makes, whatever of it is there.
    fn take_away(&self) {
        let id = || ID.to_owned();
        let mut tasks = TasksClient::new(self.channel.clone());
        let kill = KillRequest { container_id: id(), signal: 9, all: true, ..KillRequest::default() };
        if self.call("kill", tasks.kill(of_ours(kill))).is_ok() {
            let wait = WaitRequest { container_id: id(), ..WaitRequest::default() };
            let _ = self.call("wait", tasks.wait(of_ours(wait)));
        }
        let _ = self.call("delete", tasks.delete(of_ours(DeleteTaskRequest { container_id: id() })));
        let mut containers = ContainersClient::new(self.channel.clone());
        let _ = self.call("delete", containers.delete(of_ours(DeleteContainerRequest { id: id() })));
        let mut namespaces = NamespacesClient::new(self.channel.clone());
        let _ = self.call("delete", namespaces.delete(DeleteNamespaceRequest { name: NAMESPACE.to_owned() }));
    }

    /// One call, bounded in time.
    pub(crate) fn call<T>(
        &self,
        call: &'static str,
        answer: impl Future<Output = Result<Response<T>, Status>>,
    ) -> Result<T, ContainerdError> {
        let answer = self.runtime.block_on(async { tokio::time::timeout(PATIENCE, answer).await });
        match answer {
            Ok(Ok(response)) => Ok(response.into_inner()),
            Ok(Err(status)) => Err(ContainerdError::Call { call, status: Box::new(status) }),
            Err(_) => Err(ContainerdError::Late { call }),
        }
    }
}

impl ContainerdError {
    /// Whether the thing is not there, or no longer.
    pub(crate) fn is_absence(&self) -> bool {
        matches!(self, ContainerdError::Call { status, .. } if status.code() == Code::NotFound)
    }

    /// Whether this containerd has no such call.
    pub(crate) fn is_unknown_call(&self) -> bool {
        matches!(self, ContainerdError::Call { status, .. } if status.code() == Code::Unimplemented)
    }
}

fn of_ours<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    let namespace = NAMESPACE.parse().expect("the name is plain ASCII");
    request.metadata_mut().insert("containerd-namespace", namespace);
    request
}

/// No capabilities, no network of the node, nothing of the node to see.
fn spec() -> serde_json::Value {
    let namespaces = ["pid", "ipc", "uts", "mount", "network"];
    json!({
        "ociVersion": "1.1.0",
        "process": {
            "user": { "uid": 0, "gid": 0 }, "args": ["/verify.wasm"], "env": [], "cwd": "/", "noNewPrivileges": true,
        },
        "root": { "path": "rootfs", "readonly": true },
        "mounts": [],
        "linux": {
            "cgroupsPath": format!("/{NAMESPACE}/{ID}"),
            "namespaces": namespaces.map(|kind| json!({ "type": kind })),
            "resources": {},
        },
    })
}
