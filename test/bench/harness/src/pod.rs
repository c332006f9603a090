//! A pod by CRI's own calls, as the kubelet makes them, with the time that they take: a client that starts a process for each
//! call would be measured with the contender.

use anyhow::{Context, Result};
use containerd_client::tonic::transport::Channel;
use containerd_client::tonic::{Response, Status};
use k8s_cri::v1::runtime_service_client::RuntimeServiceClient;
use k8s_cri::v1::{
    ContainerConfig, ContainerMetadata, CreateContainerRequest, ImageSpec, KeyValue, LinuxContainerConfig,
    LinuxPodSandboxConfig, PodSandboxConfig, PodSandboxMetadata, PodSandboxStatusRequest, RemovePodSandboxRequest,
    RunPodSandboxRequest, StartContainerRequest, StopPodSandboxRequest,
};
use std::net::IpAddr;
use std::path::Path;
use tokio::runtime::{Builder, Runtime};

/// A connection of one thread.
pub(crate) struct Cri {
    runtime: Runtime,
    channel: Channel,
}

/// A sandbox that runs.
pub(crate) struct Sandbox {
    pub(crate) id: String,
    config: PodSandboxConfig,
}

/// What runs in a pod.
pub(crate) struct Program<'a> {
    pub(crate) image: &'a str,
    pub(crate) command: &'a [&'a str],
    pub(crate) env: Option<(&'a str, &'a str)>,
}

impl Cri {
    pub(crate) fn connect(socket: &Path) -> Result<Cri> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let channel = runtime.block_on(containerd_client::connect(socket))?;
        Ok(Cri { runtime, channel })
    }

    /// Runs the sandbox of a pod of this handler; `parent` is the cgroup above it.
    pub(crate) fn sandbox(&self, handler: &str, name: &str, logs: &Path, parent: &str) -> Result<Sandbox> {
        let config = PodSandboxConfig {
            metadata: Some(PodSandboxMetadata {
                name: name.to_owned(),
                uid: name.to_owned(),
                namespace: "bench".to_owned(),
                attempt: 0,
            }),
            log_directory: logs.display().to_string(),
            linux: Some(LinuxPodSandboxConfig { cgroup_parent: parent.to_owned(), ..LinuxPodSandboxConfig::default() }),
            ..PodSandboxConfig::default()
        };
        let request = RunPodSandboxRequest { config: Some(config.clone()), runtime_handler: handler.to_owned() };
        let run = self.call("run a sandbox", self.client().run_pod_sandbox(request))?;
        Ok(Sandbox { id: run.pod_sandbox_id, config })
    }

    /// Creates and starts a container in it.
    pub(crate) fn start(&self, sandbox: &Sandbox, program: &Program<'_>) -> Result<()> {
        let env = program.env.map(|(key, value)| KeyValue { key: key.to_owned(), value: value.to_owned() });
        let config = ContainerConfig {
            metadata: Some(ContainerMetadata { name: "program".to_owned(), attempt: 0 }),
            image: Some(ImageSpec { image: program.image.to_owned(), ..ImageSpec::default() }),
            command: program.command.iter().map(|&word| word.to_owned()).collect(),
            envs: env.into_iter().collect(),
            log_path: format!("{}.log", sandbox.id),
            linux: Some(LinuxContainerConfig::default()),
            ..ContainerConfig::default()
        };
        let request = CreateContainerRequest {
            pod_sandbox_id: sandbox.id.clone(),
            config: Some(config),
            sandbox_config: Some(sandbox.config.clone()),
        };
        let created = self.call("create a container", self.client().create_container(request))?;
        let request = StartContainerRequest { container_id: created.container_id };
        self.call("start a container", self.client().start_container(request)).map(drop)
    }

    /// Its address.
    pub(crate) fn address(&self, sandbox: &Sandbox) -> Result<IpAddr> {
        let request = PodSandboxStatusRequest { pod_sandbox_id: sandbox.id.clone(), verbose: false };
        let status = self.call("tell the status of a sandbox", self.client().pod_sandbox_status(request))?;
        let network = status.status.unwrap_or_default().network.unwrap_or_default();
        network.ip.parse().with_context(|| format!("the address {:?} of a pod", network.ip))
    }

    /// Stops and removes all of it.
    pub(crate) fn remove(&self, sandbox: &Sandbox) -> Result<()> {
        let stop = StopPodSandboxRequest { pod_sandbox_id: sandbox.id.clone() };
        self.call("stop a sandbox", self.client().stop_pod_sandbox(stop))?;
        let remove = RemovePodSandboxRequest { pod_sandbox_id: sandbox.id.clone() };
        self.call("remove a sandbox", self.client().remove_pod_sandbox(remove)).map(drop)
    }

    fn client(&self) -> RuntimeServiceClient<Channel> {
        RuntimeServiceClient::new(self.channel.clone())
    }

    fn call<T>(&self, what: &str, answer: impl Future<Output = Result<Response<T>, Status>>) -> Result<T> {
        Ok(self.runtime.block_on(answer).with_context(|| what.to_owned())?.into_inner())
    }
}
