//! Runs Helm, and reads what it renders. It knows nothing about what the chart should say.

use crate::pods::Pod;
use serde_json::Value;
use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use testkit::{checkout, store};

/// The chart's folder in the workspace.
pub(crate) const CHART: &str = "charts/containerd-shim-wasm";

/// What Helm gives for some values, hooks and tests included.
pub(crate) struct Manifests {
    /// As it was rendered.
    pub(crate) text: String,
    objects: Vec<Value>,
}

impl Manifests {
    /// Renders the chart as the release `wasm` in the namespace `wasm-system`, or says what Helm says.
    pub(crate) fn render(values: &Value) -> Result<Manifests, String> {
        let chart = checkout::root().join(CHART).display().to_string();
        // The oldest Kubernetes that the chart is for; nothing in it depends on the version.
        let of_cluster = ["--namespace", "wasm-system", "--kube-version", "1.30.0"];
        let words = [&["template", "wasm", &chart, "--values", "-"], of_cluster.as_slice()].concat();
        Ok(Manifests::parse(&run(&words, &values.to_string())?))
    }

    /// From YAML.
    pub(crate) fn parse(text: &str) -> Manifests {
        Manifests { objects: documents(text), text: text.to_owned() }
    }

    /// Every object.
    pub(crate) fn all(&self) -> impl Iterator<Item = &Value> {
        self.objects.iter()
    }

    /// The pods, and the templates of what makes pods.
    pub(crate) fn pods(&self) -> Vec<Pod<'_>> {
        self.objects.iter().filter_map(Pod::of).collect()
    }
}

/// Every document of a YAML text.
pub(crate) fn documents(text: &str) -> Vec<Value> {
    let read: Vec<Value> = serde_saphyr::from_multiple(text).unwrap_or_else(|error| panic!("{error}\n{text}"));
    read.into_iter().filter(|document| !document.is_null()).collect()
}

/// A YAML text of one document.
pub(crate) fn document(text: &str) -> Value {
    documents(text).pop().expect("a document")
}

/// Helm itself: the one of the environment's `HELM`, or that which `test/e2e/tools.sh --helm` has built.
pub(crate) fn program() -> PathBuf {
    if let Some(program) = std::env::var_os("HELM") {
        return program.into();
    }
    let entries = std::fs::read_dir(store::dir()).into_iter().flatten().flatten();
    let mut built = entries.filter(|entry| entry.file_name().to_string_lossy().starts_with("helm-"));
    let Some(folder) = built.next() else {
        panic!("no helm in {}: run test/e2e/tools.sh --helm", store::dir().display())
    };
    folder.path().join("helm")
}

/// Its output, or what it says on stderr.
pub(crate) fn run(words: &[&str], input: &str) -> Result<String, String> {
    let piped = || Stdio::piped();
    let mut helm = Command::new(program()).args(words).stdin(piped()).stdout(piped()).stderr(piped()).spawn().unwrap();
    // It need not read all of it.
    let _ = helm.stdin.take().expect("it is piped").write_all(input.as_bytes());
    let output = helm.wait_with_output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr) + &text(&output.stdout)) }
}
