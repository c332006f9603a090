//! What is known of the install, in a file on the node: read at every start, written before what it announces is done.

use crate::host::{Host, HostError, Mode, sha256};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// The file, whole.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct State {
    /// What was done to containerd's configuration.
    pub(crate) edit: Option<Edit>,
    /// The last verification, if it holds.
    pub(crate) verified: Option<Verified>,
    /// sha256 of the files of the configuration when the node was last verified with them: they load.
    pub(crate) loaded: BTreeMap<PathBuf, String>,
    /// sha256 of the operator file that was copied, and of the one that is about to be.
    pub(crate) operator_config: Vec<String>,
}

/// One file of containerd's configuration that is ours, or has something of ours.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Edit {
    /// Which.
    pub(crate) file: PathBuf,
    /// sha256 of what it was; none if it was not there. The backup has its bytes.
    pub(crate) before: Option<String>,
    /// sha256 of what we wrote.
    pub(crate) after: String,
    /// The runtimes that were added.
    pub(crate) runtimes: Vec<String>,
    /// Whether the node was verified with it: until then, an install that fails takes it back.
    pub(crate) is_proven: bool,
}

/// A verification.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Verified {
    /// Version of the installer and its shim.
    pub(crate) version: String,
    /// sha256 of the shim.
    pub(crate) shim: String,
    /// When containerd was started, microseconds since the epoch: it may serve something else since the next start.
    pub(crate) started_us: u64,
    /// Whose: the name of its host, which in a pod is the pod's.
    pub(crate) by: String,
}

/// An install that failed, and is not tried again with the same inputs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Failed {
    /// sha256 of everything that it depended on.
    pub(crate) inputs: String,
    /// One line.
    pub(crate) why: String,
}

/// Why the file could not be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StateError {
    #[error(transparent)]
    Host(#[from] HostError),
    #[error("{path} is not what wasm-node wrote: remove it to start anew")]
    Foreign {
        path: PathBuf,
        #[source]
        source: serde_json::Error,
    },
}

/// The places of what is kept.
#[derive(Debug, Clone)]
pub(crate) struct Places {
    pub(crate) dir: PathBuf,
}

impl Places {
    pub(crate) fn new(install_dir: &Path) -> Places {
        Places { dir: install_dir.join("state") }
    }

    pub(crate) fn lock(&self) -> PathBuf {
        self.dir.join("lock")
    }

    /// The configuration file as it was before the edit.
    pub(crate) fn backup(&self) -> PathBuf {
        self.dir.join("config.before")
    }

    /// The shim that was there before, until the new one is verified; empty if there was none.
    pub(crate) fn previous_shim(&self) -> PathBuf {
        self.dir.join("containerd-shim-wasm-v1.previous")
    }

    /// The operator file that was there before, until the new one is verified; empty if there was none.
    pub(crate) fn previous_operator(&self) -> PathBuf {
        self.dir.join("operator.previous")
    }

    /// The last install that failed; without this file it is tried again.
    pub(crate) fn failure(&self) -> PathBuf {
        self.dir.join("failed.json")
    }

    /// The root filesystem and the output of containers that verify.
    pub(crate) fn verification(&self) -> PathBuf {
        self.dir.join("verify")
    }

    /// The bytes of an edited file as they were before, if the backup has them.
    pub(crate) fn original(&self, host: &Host, edit: &Edit) -> Result<Option<Vec<u8>>, HostError> {
        let bytes = host.read(&self.backup())?;
        Ok(bytes.filter(|bytes| edit.before.as_deref() == Some(sha256(bytes).as_str())))
    }

    /// The file with the state.
    pub(crate) fn state(&self) -> PathBuf {
        self.dir.join("state.json")
    }

    pub(crate) fn read(&self, host: &Host) -> Result<State, StateError> {
        Ok(parsed(host, self.state())?.unwrap_or_default())
    }

    pub(crate) fn write(&self, host: &Host, state: &State) -> Result<(), StateError> {
        saved(host, &self.state(), state)
    }

    pub(crate) fn failed(&self, host: &Host) -> Result<Option<Failed>, StateError> {
        parsed(host, self.failure())
    }

    pub(crate) fn remember(&self, host: &Host, failed: &Failed) -> Result<(), StateError> {
        saved(host, &self.failure(), failed)
    }
}

fn parsed<T: DeserializeOwned>(host: &Host, path: PathBuf) -> Result<Option<T>, StateError> {
    let Some(bytes) = host.read(&path)? else { return Ok(None) };
    serde_json::from_slice(&bytes).map(Some).map_err(|source| StateError::Foreign { path, source })
}

fn saved(host: &Host, path: &Path, value: &impl Serialize) -> Result<(), StateError> {
    let text = serde_json::to_vec_pretty(value).expect("plain data has a form in JSON");
    Ok(host.write(path, &text, Mode::Text)?)
}

impl State {
    /// Whether this content of a configuration file is known to load, or was written by us to be loaded.
    pub(crate) fn knows(&self, file: &Path, text: &str) -> bool {
        let hash = sha256(text.as_bytes());
        let is_of_edit = self.edit.as_ref().is_some_and(|edit| {
            edit.file == file && (edit.after == hash || edit.before.as_deref() == Some(hash.as_str()))
        });
        is_of_edit || self.loaded.get(file) == Some(&hash)
    }
}
