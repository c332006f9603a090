//! What a container owns on the node, written to its bundle, so that `delete` can undo it when the shim was killed.

use crate::mounts::MountPoint;
use crate::rootfs::Layer;
use plan::{Hook, HookState, RunPlan};
use serde::{Deserialize, Serialize};
use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{Component, Path, PathBuf};

/// The file's name in the bundle.
const NAME: &str = "wasm.json";
/// Its name until it is whole.
const UNFINISHED: &str = ".wasm.json";
/// How the files begin by which a pod's bundle lists those of its containers.
const LISTED: &str = "wasm-";
/// The form of this file. A later release reads older forms.
const VERSION: u32 = 1;

/// What a container owns.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    version: u32,
    /// The container process, once there is one.
    pub pid: Option<u32>,
    /// The bundle of its pod, if that is another, which lists this record.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<PathBuf>,
    /// Path of the container's cgroup below each hierarchy's root.
    pub cgroup: String,
    /// Directories above the cgroup that were not there. A shim may be killed after it made one, before it marked it.
    #[serde(default)]
    pub parents: Vec<PathBuf>,
    /// The mounts that make up the root filesystem.
    pub layers: Vec<Layer>,
    /// The mount points made in it.
    pub mount_points: Vec<MountPoint>,
    /// The hooks that run once all is gone.
    #[serde(default)]
    pub poststop: Vec<Hook>,
    /// What they are told.
    #[serde(default)]
    pub told: HookState,
    /// Who made the container, if it was not the shim itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub runtime: Option<Runtime>,
}

/// The runtime of a Linux container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Runtime {
    /// Its binary.
    pub binary: PathBuf,
    /// Its arguments before the command.
    pub args: Vec<String>,
}

/// What every release reads of a record.
#[derive(Deserialize)]
struct Form {
    version: u32,
}

/// Why a record could not be kept or used.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// Not written.
    #[error("write {path}")]
    Write {
        /// The file.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// Not read.
    #[error("read {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// Not understood.
    #[error("parse {path}")]
    Parse {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: serde_json::Error,
    },
    /// Written by a later release.
    #[error("{path} has version {found}, and this shim reads up to {VERSION}: use the shim that wrote it")]
    Version {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: u32,
    },
    /// Its cgroup is none that a container can have. Whatever is in it would be killed: at the root, the node.
    #[error(
        "{path} names cgroup {cgroup:?}, which is no container's: remove the file, and what the container left, by hand"
    )]
    Cgroup {
        /// The file.
        path: PathBuf,
        /// What it says.
        cgroup: String,
    },
}

impl Record {
    /// How the names of its files in a bundle begin.
    pub const NAMES: [&str; 3] = [NAME, UNFINISHED, LISTED];

    /// A record of a container without a process yet.
    pub fn new(plan: &RunPlan, parents: Vec<PathBuf>, layers: Vec<Layer>, mount_points: Vec<MountPoint>) -> Record {
        let (poststop, told) = (plan.hooks.poststop.clone(), plan.hooks.told.clone());
        Record { mount_points, poststop, told, ..Record::of(plan.isolation.cgroup.path(), parents, layers) }
    }

    /// A record of a container that `runtime` is to make in this cgroup.
    pub fn of_linux(cgroup: String, parents: Vec<PathBuf>, layers: Vec<Layer>, runtime: Runtime) -> Record {
        Record { runtime: Some(runtime), ..Record::of(cgroup, parents, layers) }
    }

    fn of(cgroup: String, parents: Vec<PathBuf>, layers: Vec<Layer>) -> Record {
        Record {
            version: VERSION,
            pid: None,
            pod: None,
            cgroup,
            parents,
            layers,
            mount_points: Vec::new(),
            poststop: Vec::new(),
            told: HookState::default(),
            runtime: None,
        }
    }

    /// Writes it to the bundle, atomically.
    pub fn save(&self, bundle: &Path) -> Result<(), RecordError> {
        let path = bundle.join(NAME);
        let text = serde_json::to_vec(self).expect("a record has no map with keys other than strings");
        let temporary = bundle.join(UNFINISHED);
        fs::write(&temporary, text)
            .and_then(|()| fs::rename(&temporary, &path))
            .map_err(|source| RecordError::Write { path, source })
    }

    /// Lists what is saved in `bundle` in the bundle of its pod: of a pod whose shim was killed, containerd 2.3 has only the
    /// sandbox's deleted. A pod whose bundle is gone lists nothing.
    pub fn list(&self, bundle: &Path) -> Result<(), RecordError> {
        let Some(pod) = &self.pod else { return Ok(()) };
        let path = entry(bundle, pod);
        remove(&path)?;
        match fs::hard_link(bundle.join(NAME), &path) {
            Err(source) if pod.exists() => Err(RecordError::Write { path, source }),
            _ => Ok(()),
        }
    }

    /// The bundles of those that a pod's bundle lists; none if it is gone.
    pub fn listed(pod: &Path) -> Vec<PathBuf> {
        let names = fs::read_dir(pod).into_iter().flatten().flatten().map(|entry| entry.file_name());
        let bundle = |name: OsString| {
            let id = name.to_str()?.strip_prefix(LISTED)?.strip_suffix(".json")?;
            Some(pod.with_file_name(id))
        };
        names.filter_map(bundle).collect()
    }

    /// Reads what the pod's bundle lists of another.
    pub fn load_listed(bundle: &Path, pod: &Path) -> Result<Option<Record>, RecordError> {
        Record::read(entry(bundle, pod))
    }

    /// Reads it from the bundle; `None` if nothing was recorded.
    pub fn load(bundle: &Path) -> Result<Option<Record>, RecordError> {
        Record::read(bundle.join(NAME))
    }

    fn read(path: PathBuf) -> Result<Option<Record>, RecordError> {
        let text = match fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(RecordError::Read { path, source }),
            Ok(text) => text,
        };
        let unreadable = |source| RecordError::Parse { path: path.clone(), source };
        // By itself first: the rest of a later form may be of any shape.
        let Form { version } = serde_json::from_slice(&text).map_err(unreadable)?;
        if version > VERSION {
            return Err(RecordError::Version { path, found: version });
        }
        let record: Record = serde_json::from_slice(&text).map_err(unreadable)?;
        match is_below_root(Path::new(&record.cgroup)) {
            true => Ok(Some(record)),
            false => Err(RecordError::Cgroup { path, cgroup: record.cgroup }),
        }
    }

    /// Removes it from the bundle, and from its pod's list.
    pub fn remove(&self, bundle: &Path) -> Result<(), RecordError> {
        if let Some(pod) = &self.pod {
            remove(&entry(bundle, pod))?;
        }
        remove(&bundle.join(NAME))
    }
}

fn remove(path: &Path) -> Result<(), RecordError> {
    match fs::remove_file(path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            Err(RecordError::Write { path: path.to_owned(), source })
        }
        _ => Ok(()),
    }
}

/// Where a pod's bundle lists another, which has the name of its container.
fn entry(bundle: &Path, pod: &Path) -> PathBuf {
    let id = bundle.file_name().unwrap_or_default().to_string_lossy();
    pod.join(format!("{LISTED}{id}.json"))
}

fn is_below_root(path: &Path) -> bool {
    let mut components = path.components();
    let absolute = components.next() == Some(Component::RootDir);
    absolute && path.parent().is_some() && components.all(|one| matches!(one, Component::Normal(_)))
}

#[cfg(test)]
#[path = "record_fuzz_tests.rs"]
mod fuzz_tests;

#[cfg(test)]
mod tests {
    use super::*;

    /// What the first release wrote, letter by letter: every later one has to undo it.
    const FIRST: &str = r#"{"version":1,"pid":7,"cgroup":"/ns/id",
        "layers":[{"kind":"overlay","source":"overlay","target":"","options":["lowerdir=/a"]}],
        "mount_points":[{"path":"/data","kind":"Directory"},{"path":"/file","kind":"File"}]}"#;

    fn load(text: &str) -> Result<Option<Record>, String> {
        let bundle = tempfile::tempdir().unwrap();
        fs::write(bundle.path().join(NAME), text).unwrap();
        Record::load(bundle.path()).map_err(|error| plan::one_line(&error))
    }

    #[test]
    fn a_record_of_the_first_release_is_read() {
        let record = load(FIRST).unwrap().unwrap();
        assert_eq!((record.pid, record.cgroup.as_str()), (Some(7), "/ns/id"));
        assert_eq!((record.layers.len(), record.mount_points.len(), record.poststop.len()), (1, 2, 0));
    }

    #[test]
    fn a_record_of_a_later_release_is_refused_by_name() {
        let error = load(&FIRST.replace("\"version\":1", "\"version\":2")).unwrap_err();
        assert!(error.contains("has version 2, and this shim reads up to 1: use the shim that wrote it"), "{error}");
    }

    #[test]
    fn a_pod_lists_the_records_of_its_containers_until_they_are_released() {
        let bundles = tempfile::tempdir().unwrap();
        let [pod, container] = ["pod", "c.1"].map(|id| bundles.path().join(id));
        let mut record = load(FIRST).unwrap().unwrap();
        record.pod = Some(pod.clone());
        record.list(&container).expect("a pod that is gone lists nothing");
        for bundle in [&pod, &container] {
            fs::create_dir(bundle).unwrap();
            record.save(bundle).unwrap();
        }
        for _ in ["the first", "one made again of the same id"] {
            record.list(&container).unwrap();
        }
        for name in [&pod, &container].into_iter().flat_map(|bundle| fs::read_dir(bundle).unwrap()) {
            let name = name.unwrap().file_name().into_string().unwrap();
            assert!(Record::NAMES.iter().any(|beginning| name.starts_with(beginning)), "{name}");
        }
        fs::remove_dir_all(&container).unwrap();
        assert_eq!(Record::listed(&pod), std::slice::from_ref(&container));
        assert_eq!(Record::load_listed(&container, &pod).unwrap(), Some(record.clone()));
        record.remove(&container).unwrap();
        assert!(Record::listed(&pod).is_empty());
    }

    #[test]
    fn a_broken_record_is_an_error_and_an_absent_one_none() {
        assert!(load("{").unwrap_err().starts_with("parse "));
        assert_eq!(Record::load(tempfile::tempdir().unwrap().path()).unwrap(), None);
    }
}
