//! A real cluster, by the tools of its users: kubectl, helm, and a shell on its nodes.

use crate::Image;
use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// The namespace of the installer; it mounts hostPaths, which `baseline` forbids.
pub const KIT: &str = "wasm-system";
/// The namespace of workloads, under Pod Security `restricted`.
pub const APPS: &str = "apps";
/// The namespace of the samples in `deploy`.
pub const SAMPLES: &str = "wasm-samples";
/// The namespace of `deploy/install.yaml`.
pub const MANIFESTS: &str = "containerd-shim-wasm";
/// How long anything may take: a node restarts, an image is unpacked.
const PATIENCE: Duration = Duration::from_secs(180);
const LOOK: Duration = Duration::from_millis(300);

/// One control plane and two workers.
#[derive(Debug)]
pub struct Cluster {
    name: String,
    dir: tempfile::TempDir,
    bin: PathBuf,
}

impl Cluster {
    /// The one that `test/e2e/cluster.sh up` made.
    pub fn from_environment(bin: &Path) -> Result<Cluster> {
        let name = std::env::var("E2E_CLUSTER").context("E2E_CLUSTER is not set: use `make test-kind`")?;
        Ok(Cluster { name, dir: tempfile::tempdir()?, bin: bin.to_owned() })
    }

    /// A program that was built.
    pub fn program(&self, name: &str) -> Result<Vec<u8>> {
        let path = self.bin.join(name);
        std::fs::read(&path).with_context(|| format!("read {}", path.display()))
    }

    /// Its name, as kind knows it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The names of its workers.
    pub fn workers(&self) -> [String; 2] {
        [format!("{}-worker", self.name), format!("{}-worker2", self.name)]
    }

    /// What kubectl says.
    pub fn kubectl(&self, args: &[&str]) -> Result<String> {
        run("kubectl", args, "")
    }

    /// What helm says.
    pub fn helm(&self, args: &[&str]) -> Result<String> {
        run("helm", args, "")
    }

    /// What helm says, with what it says beside, such as the logs of hooks.
    pub fn helm_aloud(&self, args: &[&str]) -> Result<String> {
        run("sh", &[&["-c", "exec helm \"$@\" 2>&1", "helm"], args].concat(), "")
    }

    /// What the node's shell says.
    pub fn on(&self, node: &str, script: &str) -> Result<String> {
        run("docker", &["exec", node, "sh", "-c", script], "")
    }

    /// What the engine of the nodes says.
    pub fn docker(&self, args: &[&str]) -> Result<String> {
        run("docker", args, "")
    }

    /// Makes or changes objects.
    pub fn apply(&self, objects: &[Value]) -> Result<()> {
        let list = serde_json::json!({ "apiVersion": "v1", "kind": "List", "items": objects });
        run("kubectl", &["apply", "-f", "-"], &list.to_string()).map(drop)
    }

    /// Removes objects, and waits until they are gone.
    pub fn delete(&self, objects: &[Value]) -> Result<()> {
        let list = serde_json::json!({ "apiVersion": "v1", "kind": "List", "items": objects });
        run("kubectl", &["delete", "--ignore-not-found", "-f", "-"], &list.to_string()).map(drop)
    }

    /// Takes the finalizers off a pod of [`APPS`]: it goes once it has ended.
    pub fn let_go(&self, pod: &str) -> Result<()> {
        let none = r#"{"metadata":{"finalizers":null}}"#;
        self.kubectl(&["patch", "pod", pod, "-n", APPS, "--type=merge", "-p", none]).map(drop)
    }

    /// An object or a list; null if it is not there.
    pub fn get(&self, args: &[&str]) -> Result<Value> {
        let text = self.kubectl(&[&["get", "--ignore-not-found", "-o", "json"], args].concat())?;
        if text.trim().is_empty() {
            return Ok(Value::Null);
        }
        Ok(serde_json::from_str(&text)?)
    }

    /// Puts an image on all nodes.
    pub fn load(&self, image: &Image) -> Result<()> {
        let path = self.dir.path().join("image.tar");
        image.write(&path)?;
        let path = path.display().to_string();
        run("kind", &["load", "image-archive", &path, "--name", &self.name], "").map(drop)
    }

    /// Asks a pod of [`APPS`] over the API server's proxy.
    pub fn ask(&self, pod: &str, port: u16, path: &str) -> Result<String> {
        self.kubectl(&["get", "--raw", &format!("/api/v1/namespaces/{APPS}/pods/{pod}:{port}/proxy{path}")])
    }

    /// What helps to see why a row failed.
    pub fn report(&self) -> String {
        let mut report = String::new();
        let all = [&["get", "pods,jobs", "-A", "-o", "wide"][..], &["describe", "nodes"]];
        let of = |namespace| ["describe", "pods", "-n", namespace];
        let each = [KIT, APPS, MANIFESTS, SAMPLES].map(of);
        for words in all.into_iter().chain(each.iter().map(|words| &words[..])) {
            report += &self.kubectl(words).unwrap_or_else(|error| format!("{error:#}\n"));
        }
        let selector = "app.kubernetes.io/component in (installer, uninstaller, clean)";
        for namespace in [KIT, MANIFESTS] {
            let words = ["logs", "-n", namespace, "-l", selector, "--prefix", "--tail", "40"];
            report += &self.kubectl(&words).unwrap_or_default();
        }
        for node in self.workers() {
            report += &format!(
                "--- {node}: {}\n",
                self.kubectl(&["get", "node", &node, "--show-labels"]).unwrap_or_default()
            );
            report += &self
                .on(&node, "journalctl -u containerd -u plain -n 300 --no-pager -o cat | grep -v -e level=debug")
                .unwrap_or_default();
        }
        report
    }
}

/// Waits until `look` finds something.
pub fn until<T>(what: &str, mut look: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let seen = look();
        match seen {
            Ok(Some(found)) => return Ok(found),
            Ok(None) if Instant::now() < deadline => thread::sleep(LOOK),
            Ok(None) => bail!("{what}: not within {} s", PATIENCE.as_secs()),
            Err(error) if Instant::now() >= deadline => return Err(error.context(what.to_owned())),
            Err(_) => thread::sleep(LOOK),
        }
    }
}

fn run(program: &str, args: &[&str], input: &str) -> Result<String> {
    let mut command = Command::new(program);
    command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().with_context(|| format!("run {program}"))?;
    child.stdin.take().context("its input")?.write_all(input.as_bytes())?;
    let output = child.wait_with_output()?;
    let (said, complained) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    ensure!(output.status.success(), "{program} {}: {}\n{said}{complained}", args.join(" "), output.status);
    Ok(said.into_owned())
}
