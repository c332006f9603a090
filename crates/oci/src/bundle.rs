//! Reads the bundle's `config.json`, the OCI runtime spec, once; behind it nobody opens the file again.
//! It must not know what the spec's fields are turned into.

use oci_spec::runtime::{Linux, Process, Spec};
use serde::Deserialize;
use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// A spec of a pod with hundreds of mounts and a seccomp profile stays below 1 MiB.
const MAX_CONFIG_BYTES: u64 = 16 << 20;
/// Set by CRI on every container of a pod (containerd, `internal/cri/annotations`).
const SANDBOX_ID: &str = "io.kubernetes.cri.sandbox-id";

/// `sandbox` for the pause container of a pod, `container` for the others (containerd, `internal/cri/annotations`).
const CONTAINER_TYPE: &str = "io.kubernetes.cri.container-type";

/// What a container is to its pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// It holds the pod's namespaces.
    Sandbox,
    /// It is one of the pod's containers, or of no pod.
    Container,
}

/// Why the bundle cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file is absent or unreadable.
    #[error("read oci spec {path}")]
    Read {
        /// The `config.json`.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// The file is larger than any real spec.
    #[error("oci spec {path} is larger than {}: give the container a smaller spec", plan::Size(MAX_CONFIG_BYTES))]
    TooBig {
        /// The `config.json`.
        path: PathBuf,
    },
    /// Not JSON, or not of the shape the runtime spec demands.
    #[error("oci spec {path} is not a valid runtime spec")]
    Parse {
        /// The `config.json`.
        path: PathBuf,
        /// The place and the reason.
        #[source]
        source: serde_json::Error,
    },
    /// A part that a Linux container cannot do without.
    #[error("oci spec {path} has no {part}: a linux container needs one")]
    Missing {
        /// The `config.json`.
        path: PathBuf,
        /// The absent part.
        part: &'static str,
    },
}

/// The parts of the spec, present for sure.
#[derive(Debug)]
pub(crate) struct Bundle {
    /// The bundle's directory.
    pub(crate) path: PathBuf,
    pub(crate) spec: Spec,
    pub(crate) process: Process,
    pub(crate) linux: Linux,
    pub(crate) annotations: HashMap<String, String>,
}

impl Bundle {
    /// What the container is to its pod.
    pub(crate) fn role(&self) -> Role {
        match self.annotations.get(CONTAINER_TYPE).map(String::as_str) {
            Some("sandbox") => Role::Sandbox,
            _ => Role::Container,
        }
    }
}

/// Reads and checks the spec of the bundle at `path`.
pub(crate) fn load(path: &Path) -> Result<Bundle, Error> {
    let config = path.join("config.json");
    let mut spec: Spec = parse(&config)?;
    let missing = |part| Error::Missing { path: config.clone(), part };
    let process = spec.process().clone().ok_or_else(|| missing("process section"))?;
    let linux = spec.linux().clone().ok_or_else(|| missing("linux section"))?;
    let annotations = spec.annotations_mut().take().unwrap_or_default();
    Ok(Bundle { path: path.to_owned(), spec, process, linux, annotations })
}

/// The group whose containers share one shim: the pod's sandbox id if CRI made the container, else the container.
///
/// Reads nothing but the annotations, because the `start` action waits for it.
pub fn group_of(bundle: &Path, id: &str) -> Result<String, Error> {
    #[derive(Deserialize)]
    struct Annotated {
        annotations: Option<HashMap<String, String>>,
    }
    let annotated: Annotated = parse(&bundle.join("config.json"))?;
    let sandbox = annotated
        .annotations
        .and_then(|mut annotations| annotations.remove(SANDBOX_ID))
        .filter(|sandbox| !sandbox.is_empty());
    Ok(sandbox.unwrap_or_else(|| id.to_owned()))
}

fn parse<T: for<'de> Deserialize<'de>>(path: &Path) -> Result<T, Error> {
    let text = read(path)?;
    serde_json::from_slice(&text).map_err(|source| Error::Parse { path: path.to_owned(), source })
}

fn read(path: &Path) -> Result<Vec<u8>, Error> {
    let failed = |source| Error::Read { path: path.to_owned(), source };
    let file = File::open(path).map_err(failed)?;
    let mut text = Vec::new();
    file.take(MAX_CONFIG_BYTES + 1).read_to_end(&mut text).map_err(failed)?;
    if text.len() as u64 > MAX_CONFIG_BYTES {
        return Err(Error::TooBig { path: path.to_owned() });
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chain;

    const PROCESS: &str = r#""process":{"user":{"uid":0,"gid":0},"cwd":"/"}"#;

    fn check(config: &str, group: Result<&str, &str>, load_error: Option<&str>) {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("config.json"), config).unwrap();
        let file = dir.path().join("config.json").display().to_string();
        let named = |text: &str| text.replace("FILE", &file);
        let got = group_of(dir.path(), "the-id").map_err(|error| chain(&error));
        let wanted = group.map(str::to_owned).map_err(named);
        assert_eq!(got, wanted, "group of {config}");
        let got = load(dir.path()).err().map(|error| chain(&error));
        assert_eq!(got, load_error.map(named), "load of {config}");
    }

    #[test]
    fn config_is_read_or_refused_by_name() {
        check(&format!("{{{PROCESS},\"linux\":{{}}}}"), Ok("the-id"), None);
        let sandbox = r#""annotations":{"io.kubernetes.cri.sandbox-id":"pod"}"#;
        check(&format!("{{{PROCESS},\"linux\":{{}},{sandbox}}}"), Ok("pod"), None);
        check(
            &format!("{{{PROCESS}}}"),
            Ok("the-id"),
            Some("oci spec FILE has no linux section: a linux container needs one"),
        );
        check(
            r#"{"linux":{}}"#,
            Ok("the-id"),
            Some("oci spec FILE has no process section: a linux container needs one"),
        );
        let broken = "oci spec FILE is not a valid runtime spec: EOF while parsing an object at line 1 column 1";
        check("{", Err(broken), Some(broken));
        let oversized = " ".repeat(MAX_CONFIG_BYTES as usize + 1);
        let too_big = "oci spec FILE is larger than 16Mi: give the container a smaller spec";
        check(&oversized, Err(too_big), Some(too_big));
    }

    #[test]
    fn absent_config_is_named() {
        let error = group_of(Path::new("/nowhere"), "id").unwrap_err();
        let wanted = "read oci spec /nowhere/config.json: No such file or directory (os error 2)";
        assert_eq!(chain(&error), wanted);
    }
}
