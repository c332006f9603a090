//! One node with everything that the steps need: its files, containerd, systemd, its label.

use crate::args::{Install, Node};
use crate::config::{ConfigError, Daemon, Files};
use crate::containerd::{Containerd, ContainerdError};
use crate::cri::{Cri, CriError, Sandbox};
use crate::facts;
use crate::host::{Host, HostError};
use crate::kubernetes::{Api, ApiError, Held, Lease, NodeInfo, ObjectName, Standing, ThisNode};
use crate::progress::Progress;
use crate::state::{Places, State, StateError};
use crate::systemd::{Systemd, SystemdError, Unit};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::thread;
use std::time::{Duration, Instant};

/// The shim's file name, which containerd derives names from.
const SHIM: &str = "containerd-shim-wasm-v1";
/// Where the shim looks for its operator file.
pub(crate) const OPERATOR_CONFIG: &str = "/etc/containerd-shim-wasm/config.toml";
/// Where the shim keeps compiled code.
pub(crate) const CACHE: &str = "/var/lib/containerd-shim-wasm";
/// How long containerd may take to answer, as it is and after a restart.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);
/// Between two looks at its unit.
const LOOK: Duration = Duration::from_millis(100);

/// Why something was not done.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Fault {
    /// Nothing was changed.
    #[error("refused, and nothing was changed: {0}")]
    Refused(#[source] Refusal),
    /// The same would happen again.
    #[error(
        "not tried again with the same inputs, since it failed: {why}; what else was mended, {file} does not see: remove it to try again"
    )]
    Remembered { why: String, file: PathBuf },
    /// What was changed was taken back.
    #[error("failed, and was taken back: {why}; {afterwards}")]
    TakenBack { why: String, afterwards: String },
    #[error(transparent)]
    Host(#[from] HostError),
    #[error(transparent)]
    State(#[from] StateError),
    #[error(transparent)]
    Containerd(#[from] ContainerdError),
    #[error(transparent)]
    Cri(#[from] CriError),
    #[error(transparent)]
    Systemd(#[from] SystemdError),
    #[error(transparent)]
    Kubernetes(#[from] ApiError),
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error("read {path} of the payload: name its directory with --payload")]
    Payload {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("the node is not verified: {0}")]
    Unverified(String),
}

/// Why nothing was begun.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refusal {
    #[error(transparent)]
    Config(ConfigError),
    #[error("{0}")]
    Unserved(String),
    #[error(
        "{path} was changed after containerd started: what it does is not known before a restart; restart \
             containerd (systemctl restart {unit}), then run this again"
    )]
    Edited { path: PathBuf, unit: String },
    #[error("{unit} has KillMode={found}: a restart would end every container; set KillMode=process")]
    KillMode { unit: String, found: String },
    #[error("{unit} is {found}, not active: start it first")]
    Inactive { unit: String, found: String },
    #[error(
        "{OPERATOR_CONFIG} is there, and wasm-node did not write it: move its settings to the chart's operatorConfig, and \
             remove it"
    )]
    Operator,
    #[error(transparent)]
    Unwritable(HostError),
    #[error(
        "{unit} runs containerd with {found}, not with {named}: name it with --config (the chart's containerd.config)"
    )]
    OtherConfig { unit: String, found: PathBuf, named: PathBuf },
    #[error(transparent)]
    Silent(ContainerdError),
    #[error(transparent)]
    Systemd(SystemdError),
    #[error("{} Wasm pods are on this node: {}; remove them, or use --drain", .0.len(), pods(.0))]
    Pods(Vec<Sandbox>),
}

/// The node that is worked on.
#[derive(Debug)]
pub(crate) struct Site {
    pub(crate) host: Host,
    pub(crate) node: Node,
    pub(crate) places: Places,
    pub(crate) progress: Progress,
    pub(crate) systemd: Systemd,
    pub(crate) label: Option<ThisNode>,
    pub(crate) lease: Option<Lease>,
    /// Whose pod this is.
    pub(crate) daemonset: Option<ObjectName>,
    /// Whether this process is told to end.
    pub(crate) ends: AtomicBool,
}

/// What the installer brings.
#[derive(Debug)]
pub(crate) struct Payload {
    pub(crate) shim: Vec<u8>,
    pub(crate) wasm: Vec<u8>,
}

/// containerd as it is before a change.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) containerd: Containerd,
    pub(crate) unit: Unit,
    pub(crate) files: Files,
    pub(crate) version: String,
}

fn pods(sandboxes: &[Sandbox]) -> String {
    sandboxes.iter().map(|sandbox| sandbox.pod.as_str()).collect::<Vec<_>>().join(", ")
}

impl Site {
    pub(crate) fn new(node: &Node) -> Result<Site, ApiError> {
        let host = Host::new(&node.host_root);
        let label = match &node.name {
            Some(name) => Some(ThisNode::new(Api::of_this_pod()?, name)),
            None => None,
        };
        Ok(Site {
            systemd: Systemd::new(&host),
            host,
            places: Places::new(&node.install_dir),
            progress: Progress::new(node.json),
            label,
            lease: None,
            daemonset: None,
            ends: AtomicBool::new(false),
            node: node.clone(),
        })
    }

    /// With the lease that installs take turns by.
    pub(crate) fn of_install(install: &Install) -> Result<Site, anyhow::Error> {
        let mut site = Site::new(&install.node)?;
        if let (Some(lease), Some(node)) = (&install.lease, &site.label) {
            let name = lease.parse().map_err(|error: String| anyhow::anyhow!("--lease: {error}"))?;
            site.lease = Some(Lease::new(Api::of_this_pod()?, name, node.name()));
        }
        if let Some(daemonset) = &install.daemonset {
            let name = daemonset.parse().map_err(|error: String| anyhow::anyhow!("--daemonset: {error}"))?;
            site.daemonset = Some(name);
        }
        Ok(site)
    }

    /// This process, by the name of its host: a pod's is its own, and other pods' verifications are none of this one's.
    pub(crate) fn installer(&self) -> String {
        std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default().trim().to_owned()
    }

    /// The shim on the node.
    pub(crate) fn shim(&self) -> PathBuf {
        self.node.install_dir.join("bin").join(SHIM)
    }

    pub(crate) fn payload(&self) -> Result<Payload, Fault> {
        Ok(Payload { shim: self.brought(SHIM)?, wasm: self.verifying_wasm()? })
    }

    /// The program that says that it runs.
    pub(crate) fn verifying_wasm(&self) -> Result<Vec<u8>, Fault> {
        self.brought("verify.wasm")
    }

    fn brought(&self, name: &str) -> Result<Vec<u8>, Fault> {
        let own = || std::env::current_exe().ok()?.parent().map(Path::to_owned);
        let path = self.node.payload.clone().or_else(own).unwrap_or_default().join(name);
        std::fs::read(&path).map_err(|source| Fault::Payload { path, source })
    }

    pub(crate) fn state(&self) -> Result<State, StateError> {
        self.places.read(&self.host)
    }

    /// containerd, its unit and its files; refuses what must not be restarted.
    pub(crate) fn found(&self, state: &State) -> Result<Found, Fault> {
        let refused = |refusal| Err(Fault::Refused(refusal));
        if let Some(why) = facts::refusal(&self.info()?) {
            return refused(Refusal::Unserved(why));
        }
        let unit = self.settled()?;
        let name = || self.node.unit.clone();
        if unit.kill_mode != "process" {
            return refused(Refusal::KillMode { unit: name(), found: unit.kill_mode });
        }
        if unit.state != "active" {
            return refused(Refusal::Inactive { unit: name(), found: unit.state });
        }
        if unit.config != self.node.config {
            let (found, named) = (unit.config, self.node.config.clone());
            return refused(Refusal::OtherConfig { unit: name(), found, named });
        }
        let containerd = Containerd::await_answer(&self.host, &self.node.socket, PATIENCE);
        let containerd = containerd.map_err(|error| Fault::Refused(Refusal::Silent(error)))?;
        let version = containerd.version()?;
        let daemon = Daemon::parse(&version).map_err(|error| Fault::Refused(Refusal::Config(error)))?;
        let files = Files::read(&self.host, &self.node.config, daemon);
        let files = files.map_err(|error| Fault::Refused(Refusal::Config(error)))?;
        for file in files.all() {
            let is_later = self.host.changed_at(&file.path).is_some_and(|at| at > unit.started());
            if is_later && !state.knows(&file.path, &file.text) {
                return refused(Refusal::Edited { path: file.path.clone(), unit: name() });
            }
        }
        Ok(Found { containerd, unit, files, version })
    }

    /// containerd's unit, once it is not on its way to another state: a run that was killed leaves a restart behind.
    fn settled(&self) -> Result<Unit, Fault> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let unit = self.systemd.show(&self.node.unit).map_err(|error| Fault::Refused(Refusal::Systemd(error)))?;
            let is_moving = ["activating", "deactivating", "reloading"].contains(&unit.state.as_str());
            if !is_moving || Instant::now() >= deadline {
                return Ok(unit);
            }
            thread::sleep(LOOK);
        }
    }

    fn info(&self) -> Result<NodeInfo, Fault> {
        match &self.label {
            Some(node) => Ok(node.info()?),
            None => {
                let release = self.host.read(Path::new("/etc/os-release"))?.unwrap_or_default();
                Ok(facts::of_release(&String::from_utf8_lossy(&release)))
            }
        }
    }

    /// Waits for this node's turn, where nodes take turns; gives up when this process is told to end.
    pub(crate) fn turn(&self) -> Result<Option<Held>, ApiError> {
        self.turn_unless(&self.ends)
    }

    /// Waits for this node's turn, unless this is set.
    pub(crate) fn turn_unless(&self, given_up: &AtomicBool) -> Result<Option<Held>, ApiError> {
        let Some(lease) = &self.lease else { return Ok(None) };
        let waiting = |holder: &str| format!("{holder} is at work: waiting for its turn");
        let held = lease.hold(given_up, |holder| self.progress.doing("lease", &waiting(holder)))?;
        self.progress.done("lease", "it is this node's turn");
        Ok(Some(held))
    }

    /// Restarts containerd, and waits until CRI answers.
    pub(crate) fn restart(&self) -> Result<Containerd, Fault> {
        self.progress.doing("restart", &format!("{} restarts; containers go on", self.node.unit));
        self.systemd.restart(&self.node.unit)?;
        let containerd = Containerd::await_answer(&self.host, &self.node.socket, PATIENCE)?;
        Cri::of(&containerd).becomes_ready(PATIENCE)?;
        self.progress.done("restart", &format!("{} is up, and CRI answers", self.node.unit));
        Ok(containerd)
    }

    /// Runs a Wasm container by containerd's API, then a pod over CRI.
    pub(crate) fn verify(&self, containerd: &Containerd, wasm: &[u8]) -> Result<(), Fault> {
        let cri = Cri::of(containerd);
        cri.served()?;
        self.progress.done("verify", "containerd serves the handler over CRI");
        let place = self.places.verification();
        containerd.run_wasm(&self.host, &self.shim(), wasm, &place)?;
        self.progress.done("verify", "a Wasm container ran through containerd");
        cri.run_wasm(&self.host, self.node.image.as_deref(), &place)?;
        let ran = if self.node.image.is_some() { "a Wasm container" } else { "a sandbox (no --image)" };
        self.progress.done("verify", &format!("{ran} ran over CRI"));
        Ok(())
    }

    /// As [`Site::verify`], by a connection of its own.
    pub(crate) fn verify_as_it_is(&self) -> Result<(), Fault> {
        let containerd = Containerd::connect(&self.host, &self.node.socket)?;
        self.verify(&containerd, &self.verifying_wasm()?)
    }

    /// Labels the Kubernetes node, if there is one.
    pub(crate) fn say(&self, standing: Option<Standing>) -> Result<(), ApiError> {
        let Some(node) = &self.label else { return Ok(()) };
        node.label(standing)?;
        let said = standing.map_or_else(|| "none".to_owned(), |standing| format!("{standing:?}").to_lowercase());
        self.progress.done("label", &format!("{}={said} on node {}", crate::kubernetes::LABEL, node.name()));
        Ok(())
    }
}
