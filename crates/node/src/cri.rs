//! CRI, as the kubelet speaks it: what containerd serves under our handler, the sandboxes that use it, and a pod of our
//! own for a moment.

use crate::config::RUNTIME;
use crate::containerd::{Containerd, ContainerdError, SAID};
use crate::host::{Host, HostError};
use k8s_cri::v1::runtime_service_client::RuntimeServiceClient;
use k8s_cri::v1::{
    CgroupDriver, ContainerConfig, ContainerMetadata, ContainerState, ContainerStatusRequest, CreateContainerRequest,
    ImageSpec, LinuxContainerConfig, LinuxPodSandboxConfig, LinuxSandboxSecurityContext, ListPodSandboxRequest,
    NamespaceMode, NamespaceOption, PodSandboxConfig, PodSandboxMetadata, PodSandboxState, RemovePodSandboxRequest,
    RunPodSandboxRequest, RuntimeConfigRequest, StartContainerRequest, StatusRequest, StopPodSandboxRequest,
};
use std::path::Path;
use std::time::{Duration, Instant};

/// How often a pod is tried: the kubelet stops sandboxes that it does not know, every other second.
const TRIES: usize = 6;
/// After one that failed.
const PAUSE: Duration = Duration::from_millis(700);
/// How long the container may run.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long its log may take after its end.
const WRITING: Duration = Duration::from_secs(10);
const LOOK: Duration = Duration::from_millis(50);
/// The pod's name, namespace and unique id.
const POD: [&str; 3] = ["wasm-node-verify", "wasm-node", "wasm-node-verify"];

/// Why CRI did not do it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CriError {
    #[error(transparent)]
    Call(#[from] ContainerdError),
    #[error(transparent)]
    Host(#[from] HostError),
    #[error("containerd does not serve the handler `{RUNTIME}` over CRI: it has {0}")]
    NotServed(String),
    #[error("CRI says that it is not ready: {0}")]
    NotReady(String),
    #[error("the Wasm container over CRI ended with {code} ({reason}) and said {said:?}: {message}")]
    Wrong { code: i32, reason: String, said: String, message: String },
    #[error("the Wasm container over CRI did not end in {} s", PATIENCE.as_secs())]
    Late,
}

/// A sandbox of our handler.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Sandbox {
    pub(crate) id: String,
    /// `namespace/name` of its pod.
    pub(crate) pod: String,
    pub(crate) is_ready: bool,
}

/// CRI of a containerd.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cri<'a> {
    containerd: &'a Containerd,
}

impl Sandbox {
    /// Whether it is one of [`Cri::run_wasm`].
    fn verifies(&self) -> bool {
        self.pod == format!("{}/{}", POD[1], POD[0])
    }
}

type Client = RuntimeServiceClient<containerd_client::tonic::transport::Channel>;

impl Cri<'_> {
    pub(crate) fn of(containerd: &Containerd) -> Cri<'_> {
        Cri { containerd }
    }

    fn client(self) -> Client {
        RuntimeServiceClient::new(self.containerd.channel.clone())
    }

    /// The handlers that containerd serves, whatever its files say by now.
    pub(crate) fn handlers(self) -> Result<Vec<String>, CriError> {
        let status =
            self.containerd.call("tell CRI's status", self.client().status(StatusRequest { verbose: true }))?;
        if !status.runtime_handlers.is_empty() {
            return Ok(status.runtime_handlers.into_iter().map(|handler| handler.name).collect());
        }
        // containerd 1.x tells its configuration instead.
        let config: serde_json::Value =
            status.info.get("config").and_then(|config| serde_json::from_str(config).ok()).unwrap_or_default();
        let runtimes = config["containerd"]["runtimes"].as_object();
        Ok(runtimes.into_iter().flat_map(|runtimes| runtimes.keys().cloned()).collect())
    }

    /// Whether our handler is served.
    pub(crate) fn serves(self) -> Result<bool, CriError> {
        Ok(is_among(&self.handlers()?))
    }

    /// Fails unless our handler is served.
    pub(crate) fn served(self) -> Result<(), CriError> {
        let handlers = self.handlers()?;
        if is_among(&handlers) {
            return Ok(());
        }
        let named = |name: String| if name.is_empty() { "the default".to_owned() } else { name };
        Err(CriError::NotServed(handlers.into_iter().map(named).collect::<Vec<_>>().join(", ")))
    }

    /// As [`Cri::serves`], once CRI answers: of a run that was killed, a restart may be on its way.
    pub(crate) fn serves_within(self, patience: Duration) -> Result<bool, CriError> {
        answered(patience, || self.serves())
    }

    /// Waits until it answers that its runtime is ready, as the kubelet asks: its plugins may come up after the socket.
    pub(crate) fn becomes_ready(self, patience: Duration) -> Result<(), CriError> {
        answered(patience, || self.ready())
    }

    fn ready(self) -> Result<(), CriError> {
        let status =
            self.containerd.call("tell CRI's status", self.client().status(StatusRequest { verbose: false }))?;
        let conditions = status.status.unwrap_or_default().conditions;
        // The network's plugins are somebody else's.
        match conditions.into_iter().find(|condition| condition.r#type == "RuntimeReady" && !condition.status) {
            Some(condition) => Err(CriError::NotReady(condition.message)),
            None => Ok(()),
        }
    }

    /// The sandboxes of our handler, without those that verify.
    pub(crate) fn sandboxes(self) -> Result<Vec<Sandbox>, CriError> {
        Ok(self.of_handler()?.into_iter().filter(|sandbox| !sandbox.verifies()).collect())
    }

    fn of_handler(self) -> Result<Vec<Sandbox>, CriError> {
        let listed =
            self.containerd.call("list sandboxes", self.client().list_pod_sandbox(ListPodSandboxRequest::default()))?;
        let ours = listed.items.into_iter().filter(|sandbox| sandbox.runtime_handler == RUNTIME);
        let sandboxes = ours.map(|sandbox| {
            let is_ready = sandbox.state() == PodSandboxState::SandboxReady;
            let metadata = sandbox.metadata.unwrap_or_default();
            Sandbox { id: sandbox.id, pod: format!("{}/{}", metadata.namespace, metadata.name), is_ready }
        });
        Ok(sandboxes.collect())
    }

    /// Stops a sandbox with its containers, and removes it. It may be gone, and the kubelet may remove it at the same time.
    pub(crate) fn remove(self, id: &str) -> Result<(), CriError> {
        let mut tries = 1..TRIES;
        loop {
            match (self.stop_and_remove(id), tries.next()) {
                (Err(CriError::Call(ContainerdError::Call { .. })), Some(_)) => std::thread::sleep(PAUSE),
                (removed, _) => return removed,
            }
        }
    }

    fn stop_and_remove(self, id: &str) -> Result<(), CriError> {
        let gone = |answer: Result<(), ContainerdError>| match answer {
            Err(error) if !error.is_absence() => Err(CriError::from(error)),
            _ => Ok(()),
        };
        let stop = StopPodSandboxRequest { pod_sandbox_id: id.to_owned() };
        gone(self.containerd.call("stop the sandbox", self.client().stop_pod_sandbox(stop)).map(drop))?;
        let remove = RemovePodSandboxRequest { pod_sandbox_id: id.to_owned() };
        gone(self.containerd.call("remove the sandbox", self.client().remove_pod_sandbox(remove)).map(drop))
    }

    /// Makes a pod of our handler on the node's network, and runs the image's `/verify.wasm` in it; without an image the
    /// sandbox alone. `place` is a directory of the node for its log, removed afterwards.
    pub(crate) fn run_wasm(self, host: &Host, image: Option<&str>, place: &Path) -> Result<(), CriError> {
        // Of a run that was killed, where no kubelet removes them: they have the names that are wanted.
        for sandbox in self.of_handler()?.into_iter().filter(Sandbox::verifies) {
            self.remove(&sandbox.id)?;
        }
        let mut tries = 0..TRIES;
        loop {
            let attempt = tries.next().unwrap_or_default();
            let ran = self.attempt(host, image, place, attempt);
            host.remove_all(place)?;
            match ran {
                // Many things are said where the kubelet was quicker, and none of them says so.
                Err(_) if !tries.is_empty() => std::thread::sleep(PAUSE),
                ran => return ran,
            }
        }
    }

    fn attempt(self, host: &Host, image: Option<&str>, place: &Path, attempt: usize) -> Result<(), CriError> {
        let config = self.sandbox_config(place, attempt)?;
        let request = RunPodSandboxRequest { config: Some(config.clone()), runtime_handler: RUNTIME.to_owned() };
        let run = self.containerd.call("run a sandbox", self.client().run_pod_sandbox(request))?;
        let ran = match image {
            Some(image) => self.container(host, &run.pod_sandbox_id, config, image, place),
            None => Ok(()),
        };
        let removed = self.remove(&run.pod_sandbox_id);
        ran.and(removed)
    }

    fn container(
        self,
        host: &Host,
        sandbox: &str,
        pod: PodSandboxConfig,
        image: &str,
        place: &Path,
    ) -> Result<(), CriError> {
        let config = ContainerConfig {
            metadata: Some(ContainerMetadata { name: "verify".to_owned(), attempt: 0 }),
            image: Some(ImageSpec { image: image.to_owned(), ..ImageSpec::default() }),
            command: vec!["/verify.wasm".to_owned()],
            log_path: "verify.log".to_owned(),
            linux: Some(LinuxContainerConfig::default()),
            ..ContainerConfig::default()
        };
        let request = CreateContainerRequest {
            pod_sandbox_id: sandbox.to_owned(),
            config: Some(config),
            sandbox_config: Some(pod),
        };
        let id = self
            .containerd
            .call("create the Wasm container over CRI", self.client().create_container(request))?
            .container_id;
        let request = StartContainerRequest { container_id: id.clone() };
        self.containerd.call("start the Wasm container over CRI", self.client().start_container(request))?;
        let deadline = Instant::now() + PATIENCE;
        let ended = loop {
            let request = ContainerStatusRequest { container_id: id.clone(), verbose: false };
            let status =
                self.containerd.call("tell the Wasm container's status", self.client().container_status(request))?;
            let status = status.status.unwrap_or_default();
            match status.state() {
                ContainerState::ContainerExited => break status,
                _ if Instant::now() >= deadline => return Err(CriError::Late),
                _ => std::thread::sleep(LOOK),
            }
        };
        // The end may be told before the last line is in the log.
        let deadline = Instant::now() + WRITING;
        let said = loop {
            let log = host.read(&place.join("verify.log"))?.unwrap_or_default();
            let said = text_of(&String::from_utf8_lossy(&log));
            if said == SAID || ended.exit_code != 0 || Instant::now() >= deadline {
                break said;
            }
            std::thread::sleep(LOOK);
        };
        if ended.exit_code == 0 && said == SAID {
            return Ok(());
        }
        Err(CriError::Wrong { code: ended.exit_code, reason: ended.reason, said, message: ended.message })
    }

    fn sandbox_config(self, place: &Path, attempt: usize) -> Result<PodSandboxConfig, CriError> {
        let namespaces = NamespaceOption { network: NamespaceMode::Node.into(), ..NamespaceOption::default() };
        let security = LinuxSandboxSecurityContext {
            namespace_options: Some(namespaces),
            ..LinuxSandboxSecurityContext::default()
        };
        Ok(PodSandboxConfig {
            metadata: Some(PodSandboxMetadata {
                name: POD[0].to_owned(),
                namespace: POD[1].to_owned(),
                uid: POD[2].to_owned(),
                attempt: u32::try_from(attempt).unwrap_or_default(),
            }),
            log_directory: place.display().to_string(),
            linux: Some(LinuxPodSandboxConfig {
                cgroup_parent: self.cgroup_parent()?.to_owned(),
                security_context: Some(security),
                ..LinuxPodSandboxConfig::default()
            }),
            ..PodSandboxConfig::default()
        })
    }

    /// Where pods are, in the form of the driver that containerd has.
    fn cgroup_parent(self) -> Result<&'static str, CriError> {
        const OF_FILES: &str = "/kubepods/besteffort";
        const OF_SYSTEMD: &str = "kubepods-besteffort.slice";
        let mut client = self.client();
        match self.containerd.call("tell its cgroup driver", client.runtime_config(RuntimeConfigRequest {})) {
            Ok(config) => {
                let driver = config.linux.unwrap_or_default().cgroup_driver();
                Ok(if driver == CgroupDriver::Systemd { OF_SYSTEMD } else { OF_FILES })
            }
            // containerd 1.x: as its default runtime is configured.
            Err(error) if error.is_unknown_call() => {
                let status =
                    self.containerd.call("tell CRI's status", self.client().status(StatusRequest { verbose: true }))?;
                let config: serde_json::Value =
                    status.info.get("config").and_then(|config| serde_json::from_str(config).ok()).unwrap_or_default();
                let default = config["containerd"]["defaultRuntimeName"].as_str().unwrap_or("runc");
                let is_systemd = &config["containerd"]["runtimes"][default]["options"]["SystemdCgroup"];
                Ok(if is_systemd.as_bool() == Some(true) { OF_SYSTEMD } else { OF_FILES })
            }
            Err(error) => Err(error.into()),
        }
    }
}

/// Whether our handler is one of these.
fn is_among(handlers: &[String]) -> bool {
    handlers.iter().any(|handler| handler == RUNTIME)
}

/// Asks until there is an answer that is no error.
fn answered<T>(patience: Duration, ask: impl Fn() -> Result<T, CriError>) -> Result<T, CriError> {
    let deadline = Instant::now() + patience;
    loop {
        match ask() {
            Err(_) if Instant::now() < deadline => std::thread::sleep(LOOK),
            answer => return answer,
        }
    }
}

/// What was said, from CRI's log format: `TIME stdout F text`, a line each.
fn text_of(log: &str) -> String {
    log.lines().filter_map(|line| Some(format!("{}\n", line.splitn(4, ' ').nth(3)?))).collect()
}
