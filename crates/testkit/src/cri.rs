//! Pods on a containerd, by way of `crictl`: the kubelet's part.
//! Invariant: a pod of a test carries the test's name, and is removed when the test's [`Cri`] is dropped.

pub mod log;

use crate::containerd::pods::{NAMESPACE, PAUSE};
use crate::image::Rootfs;
use crate::run::{self, Output};
use crate::{Image, Namespace, checkout, process, store, wait};
use anyhow::{Context, Result, anyhow, bail, ensure};
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The label that a test's pods carry.
const LABEL: &str = "test";

/// The pods of a test.
#[derive(Debug)]
pub struct Cri<'a> {
    namespace: &'a Namespace,
    crictl: PathBuf,
}

impl<'a> Cri<'a> {
    /// With the pause image, and these.
    pub fn new(namespace: &'a Namespace, images: &[&Image]) -> Result<Cri<'a>> {
        // What pods of other handlers run: busybox is called `sleep`. Nothing of it runs in pods of ours.
        let program = fs::read("/bin/busybox").context("read busybox-static")?;
        let rootfs = Rootfs::new().file("sleep", &program);
        Cri::with_pause(namespace, Image::new(PAUSE).rootfs(rootfs).entrypoint(["/sleep", "1000000"]), images)
    }

    /// As [`Cri::new`], with this program in the pause image.
    pub fn with_program(namespace: &'a Namespace, program: &[u8]) -> Result<Cri<'a>> {
        let rootfs = Rootfs::new().file("pause", program);
        Cri::with_pause(namespace, Image::new(PAUSE).rootfs(rootfs).entrypoint(["/pause"]), &[])
    }

    fn with_pause(namespace: &'a Namespace, pause: Image, images: &[&Image]) -> Result<Cri<'a>> {
        let cri = Cri { namespace, crictl: tool()? };
        for image in [&pause].into_iter().chain(images.iter().copied()) {
            cri.import(image)?;
        }
        Ok(cri)
    }

    /// Makes an image known to CRI.
    pub fn import(&self, image: &Image) -> Result<()> {
        let tar = self.namespace.directory("image")?.join("image.tar");
        image.write(&tar)?;
        self.ctr(&["images", "import", &text(&tar)])?;
        let known = || Ok((self.crictl(&["inspecti", image.reference()])?.code == 0).then_some(()));
        wait::until(&format!("CRI knows {}", image.reference()), known)
    }

    /// Lets containerd remove what nothing refers to.
    pub fn collect_garbage(&self) -> Result<()> {
        let lease = format!("{}-{}", self.namespace.name(), self.namespace.fresh("lease"));
        self.ctr(&["leases", "create", "--id", &lease])?;
        self.ctr(&["leases", "delete", "--sync", &lease])
    }

    fn ctr(&self, words: &[&str]) -> Result<()> {
        let containerd = self.namespace.containerd();
        let mut ctr = Command::new(containerd.version().bin().join("ctr"));
        ctr.arg("--address").arg(containerd.socket()).args(["--namespace", NAMESPACE]).args(words);
        let output = run::finish(ctr, None)?;
        ensure!(output.code == 0, "ctr {words:?}: {output}");
        Ok(())
    }

    /// Lets containerd pull an image: the id by which the kubelet asks for a container of it, or what `crictl` says.
    pub fn pull(&self, reference: &str) -> Result<Result<String, Output>> {
        let output = self.crictl(&["pull", reference])?;
        if output.code != 0 {
            return Ok(Err(output));
        }
        let text = output.text();
        let id = text.trim().rsplit(' ').next().context("an image's id")?;
        Ok(Ok(id.to_owned()))
    }

    /// Runs `crictl` to its end.
    pub fn crictl(&self, words: &[&str]) -> Result<Output> {
        run::finish(self.command(words), None)
    }

    /// `crictl` that is not started yet.
    pub fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(self.crictl.join("crictl"));
        let socket = format!("unix://{}", self.namespace.containerd().socket().display());
        command.arg("--config").arg(self.crictl.join("crictl.yaml"));
        command.args(["--runtime-endpoint", &socket, "--image-endpoint", &socket]).args(words);
        command
    }

    /// As [`Cri::crictl`], which must succeed: its stdout.
    pub fn ask(&self, words: &[&str]) -> Result<String> {
        let output = self.crictl(words)?;
        ensure!(output.code == 0, "crictl {words:?}: {output}");
        Ok(output.text().trim().to_owned())
    }

    /// Runs the sandbox of a pod, after `change` to its configuration.
    pub fn pod(&self, change: impl FnOnce(&mut Value)) -> Result<Pod<'_>> {
        self.pod_of("wasm", change)
    }

    /// As [`Cri::pod`], by this handler of containerd's configuration.
    pub fn pod_of(&self, handler: &str, change: impl FnOnce(&mut Value)) -> Result<Pod<'_>> {
        let (dir, output) = self.run_sandbox(handler, change)?;
        ensure!(output.code == 0, "run the sandbox of a pod: {output}");
        Ok(Pod { cri: self, id: output.text().trim().to_owned(), dir })
    }

    /// There must be no such pod, with all of these in what is said.
    pub fn refused(&self, parts: &[&str], change: impl FnOnce(&mut Value)) -> Result<()> {
        let (_, output) = self.run_sandbox("wasm", change)?;
        refused(&output, parts)
    }

    fn run_sandbox(&self, handler: &str, change: impl FnOnce(&mut Value)) -> Result<(PathBuf, Output)> {
        let dir = self.namespace.directory("pod")?;
        let name = self.namespace.fresh("pod");
        let mut config = json!({
            "metadata": { "name": name, "namespace": "default", "uid": format!("{}-{name}", self.namespace.name()), "attempt": 0 },
            "labels": { LABEL: self.namespace.name() },
            "log_directory": dir.join("logs"),
            "linux": { "cgroup_parent": format!("/{}", self.namespace.name()) },
        });
        change(&mut config);
        fs::write(dir.join("pod.json"), config.to_string())?;
        let output = self.crictl(&["runp", "--runtime", handler, &text(&dir.join("pod.json"))])?;
        Ok((dir, output))
    }

    fn remove_all(&self) -> Result<()> {
        let label = format!("{LABEL}={}", self.namespace.name());
        let ids = self.ask(&["pods", "--quiet", "--label", &label])?;
        for id in ids.lines() {
            self.ask(&["rmp", "--force", id])?;
        }
        Ok(())
    }
}

impl Drop for Cri<'_> {
    fn drop(&mut self) {
        if let Err(error) = self.remove_all() {
            eprintln!("pods stay: {error:#}");
        }
    }
}

/// A pod whose sandbox runs.
#[derive(Debug)]
pub struct Pod<'a> {
    cri: &'a Cri<'a>,
    /// Of its sandbox.
    pub id: String,
    dir: PathBuf,
}

impl<'a> Pod<'a> {
    /// Creates a container, after `change` to its configuration.
    pub fn create(&self, image: &Image, args: &[&str], change: impl FnOnce(&mut Value)) -> Result<PodContainer<'a>> {
        let refused = |output| anyhow!("create a container of {}: {output}", image.reference());
        self.try_create(image, args, change)?.map_err(refused)
    }

    /// The creation must fail, with all of these in what it says.
    pub fn refused(&self, image: &Image, parts: &[&str], change: impl FnOnce(&mut Value)) -> Result<()> {
        match self.try_create(image, &["/app.wasm"], change)? {
            Ok(container) => bail!("container {} was created", container.id),
            Err(output) => refused(&output, parts),
        }
    }

    /// As [`Pod::create`], or what `crictl` says if containerd refuses.
    pub fn try_create(
        &self,
        image: &Image,
        args: &[&str],
        change: impl FnOnce(&mut Value),
    ) -> Result<Result<PodContainer<'a>, Output>> {
        let name = self.cri.namespace.fresh("container");
        let mut config = json!({
            "metadata": { "name": name, "attempt": 0 },
            "image": { "image": image.reference() },
            "command": args,
            "log_path": format!("{name}.log"),
            "linux": {},
        });
        change(&mut config);
        let file = self.dir.join(format!("{name}.json"));
        fs::write(&file, config.to_string())?;
        let output = self.cri.crictl(&["create", &self.id, &text(&file), &text(&self.dir.join("pod.json"))])?;
        if output.code != 0 {
            return Ok(Err(output));
        }
        let log = self.dir.join("logs").join(format!("{name}.log"));
        Ok(Ok(PodContainer { cri: self.cri, id: output.text().trim().to_owned(), log }))
    }

    /// Creates and starts a container.
    pub fn run(&self, image: &Image, args: &[&str], change: impl FnOnce(&mut Value)) -> Result<PodContainer<'a>> {
        let container = self.create(image, args, change)?;
        container.start()?;
        Ok(container)
    }

    /// What `crictl inspectp` says.
    pub fn inspect(&self) -> Result<Value> {
        Ok(serde_json::from_str(&self.cri.ask(&["inspectp", &self.id])?)?)
    }

    /// Its address.
    pub fn ip(&self) -> Result<String> {
        let status = self.inspect()?;
        let ip = status["status"]["network"]["ip"].as_str().context("an address of the pod")?;
        Ok(ip.to_owned())
    }

    /// The process of its sandbox.
    pub fn pid(&self) -> Result<i32> {
        let status = self.inspect()?;
        Ok(status["info"]["pid"].as_i64().context("the pid of the sandbox")? as i32)
    }

    /// Stops all of it.
    pub fn stop(&self) -> Result<()> {
        self.cri.ask(&["stopp", &self.id]).map(drop)
    }

    /// Removes it, running or not.
    pub fn remove(self) -> Result<()> {
        self.cri.ask(&["rmp", "--force", &self.id]).map(drop)
    }
}

/// A container of a pod.
#[derive(Debug)]
pub struct PodContainer<'a> {
    cri: &'a Cri<'a>,
    /// Its id.
    pub id: String,
    log: PathBuf,
}

impl PodContainer<'_> {
    /// Lets it run.
    pub fn start(&self) -> Result<()> {
        self.cri.ask(&["start", &self.id]).map(drop)
    }

    /// The start must fail, with all of these in what it says.
    pub fn refused(&self, parts: &[&str]) -> Result<()> {
        refused(&self.cri.crictl(&["start", &self.id])?, parts)
    }

    /// What `crictl inspect` says.
    pub fn inspect(&self) -> Result<Value> {
        Ok(serde_json::from_str(&self.cri.ask(&["inspect", &self.id])?)?)
    }

    /// Its process.
    pub fn pid(&self) -> Result<i32> {
        let status = self.inspect()?;
        Ok(status["info"]["pid"].as_i64().context("the pid of the container")? as i32)
    }

    /// Its status once it has ended.
    pub fn ended(&self) -> Result<Value> {
        wait::until("the container has ended", || {
            let status = self.inspect()?["status"].clone();
            Ok((status["state"] == "CONTAINER_EXITED").then_some(status))
        })
    }

    /// Its log file as it is.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// What it has written to a stream by now.
    pub fn output(&self, stream: &str) -> Result<String> {
        Ok(log::text_of(&log::entries(&self.log())?, stream))
    }

    /// Waits for its end with this code, and gives what it wrote to stdout.
    pub fn finish(&self, code: i32) -> Result<String> {
        let status = self.ended()?;
        let containerd = process::server_of(&self.cri.namespace.containerd().socket())?;
        // The end may be told before the last line is written.
        wait::until("the log is closed", || {
            let open = process::files(containerd)?.into_iter().any(|(_, target)| Path::new(&target) == self.log);
            Ok((!open).then_some(()))
        })?;
        let said = self.output("stdout")?;
        ensure!(status["exitCode"] == json!(code), "{status}: {said}{}", self.output("stderr")?);
        Ok(said)
    }

    /// Its log once a line is in it.
    pub fn log_once_written(&self) -> Result<String> {
        wait::until("the log is written", || Ok(Some(self.log()).filter(|log| log.ends_with('\n'))))
    }

    /// Stops it, with so many seconds of grace.
    pub fn stop(&self, seconds: u32) -> Result<()> {
        self.cri.ask(&["stop", "--timeout", &seconds.to_string(), &self.id]).map(drop)
    }
}

fn refused(output: &Output, parts: &[&str]) -> Result<()> {
    let said = format!("{output}");
    ensure!(output.code != 0 && parts.iter().all(|part| said.contains(part)), "wanted {parts:?}: {said}");
    Ok(())
}

/// The folder with `crictl`, as the script names it, or the environment where there is no checkout.
fn tool() -> Result<PathBuf> {
    if let Some(folder) = std::env::var_os("WASM_TEST_CRICTL") {
        return Ok(folder.into());
    }
    let tools = checkout::root().join("test/cri/tools");
    let mut parts = Vec::new();
    for file in ["go.mod", "go.sum"] {
        let path = tools.join(file);
        parts.extend(fs::read(&path).with_context(|| format!("read {}", path.display()))?);
    }
    let place = store::dir().join(format!("cri-tools-{}", &store::digest(&parts)["sha256:".len()..][..16]));
    ensure!(place.join("crictl").exists(), "no crictl in {}: run test/cri/tools.sh", place.display());
    Ok(place)
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}
