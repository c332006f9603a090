//! systemd, over its private socket: it needs no bus daemon, and no capabilities but the user root.
//!
//! A child of this program asks, since the library takes its address from the environment and waits without a bound; it
//! is given up on when its time is over.

mod asked;

pub(crate) use asked::answer;

use crate::args::Asked;
use crate::host::Host;
use serde::{Deserialize, Serialize};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant, SystemTime};

const SOCKET: &str = "/run/systemd/private";
/// The unit that removes directories.
const SWEEP: &str = "wasm-node-sweep.service";
/// How long systemd may take to restart a unit.
const PATIENCE: Duration = Duration::from_secs(120);
/// Between two looks whether the child is done.
const LOOK: Duration = Duration::from_millis(20);

/// What systemd knows of a unit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Unit {
    /// `process` leaves its other processes alone when it stops.
    pub(crate) kill_mode: String,
    /// `active`, `failed`, `activating`.
    pub(crate) state: String,
    /// When its main process was started, microseconds since the epoch; 0 if never.
    pub(crate) started_us: u64,
    /// The configuration that its command names, or containerd's own choice.
    pub(crate) config: PathBuf,
}

/// Why systemd did not do it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SystemdError {
    #[error("start the child that speaks to systemd")]
    Child(#[source] io::Error),
    #[error("systemd gave no answer about {unit} in {} s", PATIENCE.as_secs())]
    Silent { unit: String },
    #[error("{0}")]
    Refused(String),
    #[error("the child that speaks to systemd gave no sense")]
    Senseless(#[source] serde_json::Error),
}

/// Where systemd is reached.
#[derive(Debug, Clone)]
pub(crate) struct Systemd {
    address: String,
}

impl Unit {
    pub(crate) fn started(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_micros(self.started_us)
    }
}

impl Systemd {
    pub(crate) fn new(host: &Host) -> Systemd {
        Systemd { address: format!("unix:path={}", host.at(Path::new(SOCKET)).display()) }
    }

    /// What it knows of the unit.
    pub(crate) fn show(&self, unit: &str) -> Result<Unit, SystemdError> {
        let told = self.ask(&Asked::Show { unit: unit.to_owned() })?;
        serde_json::from_slice(&told).map_err(SystemdError::Senseless)
    }

    /// Restarts the unit, and waits until systemd says that it is up.
    pub(crate) fn restart(&self, unit: &str) -> Result<(), SystemdError> {
        self.ask(&Asked::Restart { unit: unit.to_owned() }).map(drop)
    }

    /// Removes a tree of the node, and of the directories those that are empty: to a pod they are mount points, which it
    /// cannot remove, or out of its sight.
    pub(crate) fn sweep(&self, tree: &Path, empty: &[&Path]) -> Result<(), SystemdError> {
        let text = |path: &Path| path.display().to_string();
        let empty = empty.iter().map(|path| text(path)).collect();
        self.ask(&Asked::Sweep { unit: SWEEP.to_owned(), tree: text(tree), empty }).map(drop)
    }

    fn ask(&self, asked: &Asked) -> Result<Vec<u8>, SystemdError> {
        let (word, unit, more) = match asked {
            Asked::Show { unit } => ("show", unit, Vec::new()),
            Asked::Restart { unit } => ("restart", unit, Vec::new()),
            Asked::Sweep { unit, tree, empty } => ("sweep", unit, [std::slice::from_ref(tree), empty].concat()),
        };
        let mut command = Command::new("/proc/self/exe");
        command.args(["systemd", word, unit]).args(more).env("DBUS_SESSION_BUS_ADDRESS", &self.address);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(SystemdError::Child)?;
        let deadline = Instant::now() + PATIENCE;
        // What it says fits into the pipes.
        while child.try_wait().map_err(SystemdError::Child)?.is_none() {
            if Instant::now() >= deadline {
                let _ = child.kill();
                let _ = child.wait();
                return Err(SystemdError::Silent { unit: unit.clone() });
            }
            std::thread::sleep(LOOK);
        }
        let output = child.wait_with_output().map_err(SystemdError::Child)?;
        if output.status.success() {
            return Ok(output.stdout);
        }
        Err(SystemdError::Refused(String::from_utf8_lossy(&output.stderr).trim().to_owned()))
    }
}
