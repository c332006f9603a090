//! A private containerd of a chosen version: own root, state, socket and fifo directory, stopped by its pid.
//! Invariant: when it is gone, so is everything it and its shims made; [`Containerd::stop`] says what was not.

mod config;
pub(crate) mod pods;
mod version;

pub use crate::leftovers::Whose;
pub(crate) use version::Form;
pub use version::Version;

use crate::api::Api;
use crate::leftovers::{self, Before};
use crate::namespace::Namespace;
use crate::{process, wait};
use anyhow::{Context, Result, bail};
use nix::mount::{MsFlags, mount};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, mpsc};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// How much containerd and its shims log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Logging {
    /// For the messages of failed tests.
    Everything,
    /// As it is on nodes.
    Usual,
}

impl Logging {
    fn level(self) -> &'static str {
        match self {
            Logging::Everything => "debug",
            Logging::Usual => "info",
        }
    }
}

/// What a containerd is for.
#[derive(Debug, Clone, Copy)]
pub enum Service<'a> {
    /// Tasks alone.
    Tasks,
    /// Pods too, by CRI.
    Pods {
        /// The binary behind the handler `wasm`.
        shim: &'a Path,
        /// Where it has its settings from.
        operator_file: OperatorFile,
        /// How it pulls images.
        pull: Pull,
        /// Handlers beside `wasm` and `runc`, each with its binary.
        others: &'a [(&'a str, &'a Path)],
        /// Handlers of `shim` beside `wasm`, each with its option `BinaryName`.
        runcs: &'a [(&'a str, &'a Path)],
    },
}

/// How the shims of pods find the operator file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OperatorFile {
    /// By the handler's option `ConfigFile`.
    ByOption,
    /// Where a shim looks if the handler has no options; there for this containerd alone.
    InItsPlace,
    /// The node's own. No wasm may run there: its code would go into the node's own cache.
    OfTheNode,
}

/// How the images of pods are pulled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pull {
    /// As the version does it by itself: the transfer service from 2.1 on.
    Usual,
    /// By CRI, which then discards the layers that it has unpacked, as kind sets it.
    Discarding,
}

/// How long shims may take to leave after their last container.
const LEAVING: Duration = Duration::from_secs(5);

/// The daemon's process, while it is there.
#[derive(Debug)]
struct Process {
    pid: i32,
    /// Ends when the process has ended.
    keeper: JoinHandle<()>,
}

/// A running containerd. Dropped without [`Containerd::stop`] (a panic), it is killed and its leavings are removed.
#[derive(Debug)]
pub struct Containerd {
    version: Version,
    shim: PathBuf,
    whose: Whose,
    dir: PathBuf,
    operator_file: OperatorFile,
    process: Mutex<Option<Process>>,
    before: Before,
    namespaces: Mutex<Vec<String>>,
}

impl Containerd {
    /// Starts one whose `io.containerd.wasm.v1` is the binary `shim`, and waits until it answers.
    pub fn start(version: Version, shim: &Path) -> Result<Arc<Self>> {
        // The shim of another runtime is looked for on the path, and is not one of ours.
        let whose = if shim.exists() { Whose::Ours } else { Whose::Others };
        Containerd::start_for(version, shim, whose, Logging::Everything)
    }

    /// As [`Containerd::start`], for pods.
    pub fn start_for_pods(version: Version, shim: &Path) -> Result<Arc<Self>> {
        Containerd::start_for_pods_with(version, shim, OperatorFile::ByOption)
    }

    /// As [`Containerd::start_for_pods`], with a choice of the handler's options.
    pub fn start_for_pods_with(version: Version, shim: &Path, operator_file: OperatorFile) -> Result<Arc<Self>> {
        let service = Service::Pods { shim, operator_file, pull: Pull::Usual, others: &[], runcs: &[] };
        Containerd::start_service(version, shim, Whose::Ours, Logging::Everything, service)
    }

    /// As [`Containerd::start_for_pods`], with this way of pulling.
    pub fn start_to_pull(version: Version, shim: &Path, pull: Pull) -> Result<Arc<Self>> {
        let operator_file = OperatorFile::ByOption;
        let service = Service::Pods { shim, operator_file, pull, others: &[], runcs: &[] };
        Containerd::start_service(version, shim, Whose::Ours, Logging::Everything, service)
    }

    /// As [`Containerd::start_for_pods`], logging as on nodes, with these handlers beside ours.
    pub fn start_for_pods_of(version: Version, shim: &Path, others: &[(&str, &Path)]) -> Result<Arc<Self>> {
        let operator_file = OperatorFile::ByOption;
        let service = Service::Pods { shim, operator_file, pull: Pull::Usual, others, runcs: &[] };
        Containerd::start_service(version, shim, Whose::Others, Logging::Usual, service)
    }

    /// As [`Containerd::start_for_pods`], with these handlers beside, each with its runc (`BinaryName`).
    pub fn start_for_pods_by(version: Version, shim: &Path, runcs: &[(&str, &Path)]) -> Result<Arc<Self>> {
        let operator_file = OperatorFile::ByOption;
        let service = Service::Pods { shim, operator_file, pull: Pull::Usual, others: &[], runcs };
        Containerd::start_service(version, shim, Whose::Ours, Logging::Everything, service)
    }

    /// As [`Containerd::start`], for the containers of more than one runtime; all shims beside `shim` can be used.
    pub fn start_for(version: Version, shim: &Path, whose: Whose, logging: Logging) -> Result<Arc<Self>> {
        Containerd::start_service(version, shim, whose, logging, Service::Tasks)
    }

    fn start_service(
        version: Version,
        shim: &Path,
        whose: Whose,
        logging: Logging,
        service: Service<'_>,
    ) -> Result<Arc<Self>> {
        let bin = version.bin();
        if !bin.join("containerd").exists() {
            bail!("no containerd {version} in {}: run test/containerd.sh", bin.display());
        }
        // Sockets have paths of at most 107 bytes, and shims put theirs below this directory: keep it short.
        let dir = tempfile::Builder::new().prefix("ctd").tempdir_in("/tmp")?.keep();
        let before = Before::look();
        if let Service::Pods { .. } = service {
            share(&dir)?;
        }
        config::write(version, logging, service, &dir)?;
        mount_state(&config::state(&dir))?;
        fs::create_dir(config::fifos(&dir))?;
        let containerd = Containerd {
            version,
            shim: shim.to_owned(),
            whose,
            dir,
            operator_file: match service {
                Service::Tasks => OperatorFile::ByOption,
                Service::Pods { operator_file, .. } => operator_file,
            },
            process: Mutex::default(),
            before,
            namespaces: Mutex::default(),
        };
        containerd.launch()?;
        Ok(Arc::new(containerd))
    }

    /// Starts the process and waits until it answers.
    fn launch(&self) -> Result<()> {
        let process = spawn(self.version, &self.shim, &self.dir, self.operator_file)?;
        let pid = process.pid;
        *self.lock_process() = Some(process);
        let answers = wait::until("containerd answers", || {
            if !process::exists(pid) {
                bail!("containerd {} ended", self.version);
            }
            Ok(self.ctr_version().then_some(()))
        });
        answers.with_context(|| self.log_tail(0))
    }

    fn lock_process(&self) -> MutexGuard<'_, Option<Process>> {
        self.process.lock().expect("nothing panics with the lock")
    }

    fn ctr_version(&self) -> bool {
        let mut ctr = Command::new(self.version.bin().join("ctr"));
        ctr.arg("--address").arg(self.socket()).arg("version");
        ctr.stdout(Stdio::null()).stderr(Stdio::null());
        ctr.status().is_ok_and(|status| status.success())
    }

    /// Its version.
    pub fn version(&self) -> Version {
        self.version
    }

    /// The shim under test.
    pub fn shim(&self) -> &Path {
        &self.shim
    }

    /// Its own directory; everything it writes is below.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Its gRPC socket.
    pub fn socket(&self) -> PathBuf {
        config::socket(&self.dir)
    }

    /// The directory for stdio fifos.
    pub fn fifos(&self) -> PathBuf {
        config::fifos(&self.dir)
    }

    /// The bundle of a container.
    pub fn bundle(&self, namespace: &str, id: &str) -> PathBuf {
        config::state(&self.dir).join("io.containerd.runtime.v2.task").join(namespace).join(id)
    }

    /// The operator file of this node, unless a test chooses another.
    pub fn operator_file(&self) -> PathBuf {
        self.dir.join("operator.toml")
    }

    /// The cache of compiled code that the operator file names.
    pub fn cache(&self) -> PathBuf {
        self.dir.join("cache")
    }

    /// Everything it and the shims have logged.
    pub fn log(&self) -> String {
        let bytes = fs::read(self.dir.join("log")).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// The end of the log from byte `since` on, for a failure's message.
    pub fn log_tail(&self, since: usize) -> String {
        const LINES: usize = 80;
        let log = self.log();
        let lines: Vec<&str> = log.get(since..).unwrap_or(&log).lines().collect();
        let first = lines.len().saturating_sub(LINES);
        format!("log of containerd {} (last {LINES} lines):\n{}", self.version, lines[first..].join("\n"))
    }

    /// A client of the API, for the tasks of pods.
    pub fn api_of_pods(&self) -> Result<Api> {
        Api::connect(self, pods::NAMESPACE)
    }

    /// A namespace for one test. Its name is a part of the paths of cgroups, which all containerds of the node share.
    pub fn namespace(self: &Arc<Self>, name: &str) -> Namespace {
        let name = format!("{name}-{}-{}", self.version, std::process::id());
        let mut namespaces = self.namespaces.lock().expect("no test panics with the lock");
        namespaces.push(name.clone());
        Namespace::new(self.clone(), name)
    }

    /// Stops it, and fails with everything that was left behind; what was left is removed.
    pub fn stop(&self) -> Result<()> {
        let namespaces = self.namespaces.lock().expect("no test panics with the lock");
        let (state, fifos) = (config::state(&self.dir), self.fifos());
        let look = || leftovers::find(&self.dir, &state, &fifos, &namespaces, &self.before, self.whose);
        self.end(Signal::SIGTERM);
        // The shim of the last container leaves a moment after it.
        let gone = wait::until_within(wait::scaled(LEAVING), "nothing is left", || Ok(look().is_empty().then_some(())));
        let left = if gone.is_ok() { Vec::new() } else { look() };
        let log = self.log_tail(0);
        leftovers::remove(&self.dir, &namespaces)?;
        if self.whose == Whose::Others {
            leftovers::remove_sockets(&self.before);
        }
        if !left.is_empty() {
            bail!("left behind:\n  {}\n{log}", left.join("\n  "));
        }
        Ok(())
    }

    /// Ends it with this signal, lets `meanwhile` happen, and starts it again: TERM as an upgrade of containerd on a node
    /// does, KILL as a crash. Shims and containers live on.
    pub fn restart(&self, signal: Signal, meanwhile: impl FnOnce() -> Result<()>) -> Result<()> {
        self.end(signal);
        let happened = meanwhile();
        self.launch()?;
        happened
    }

    fn end(&self, signal: Signal) {
        if let Some(process) = self.lock_process().take() {
            // An error says that it is gone already.
            let _ = kill(Pid::from_raw(process.pid), signal);
            let _ = process.keeper.join();
        }
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        if self.lock_process().is_some() {
            self.end(Signal::SIGKILL);
            let namespaces = self.namespaces.lock().map(|n| n.clone()).unwrap_or_default();
            let _ = leftovers::remove(&self.dir, &namespaces);
        }
    }
}

/// As on nodes, where containerd keeps its state, and clients their fifos, below /run: a disk that is told of each removed
/// file's blocks would take most of what removing a container takes.
fn mount_state(state: &Path) -> Result<()> {
    fs::create_dir(state)?;
    let mounted = mount(Some("tmpfs"), state, Some("tmpfs"), MsFlags::MS_NOSUID | MsFlags::MS_NODEV, Some("mode=711"));
    mounted.with_context(|| format!("mount a tmpfs on {}: tests need root", state.display()))
}

/// As systemd has every mount of a node: what is mounted below later (volumes, images) reaches the shims that run.
fn share(dir: &Path) -> Result<()> {
    let none = None::<&str>;
    mount(Some(dir), dir, none, MsFlags::MS_BIND, none)
        .and_then(|()| mount(none, dir, none, MsFlags::MS_SHARED, none))
        .with_context(|| format!("make {} a shared mount: tests need root", dir.display()))
}

/// Starts the process from a thread that lives as long as it does: the signal for a parent's death (which ends
/// containerd when the test binary is killed) is sent when the *thread* that started it ends, prctl(2).
fn spawn(version: Version, shim: &Path, dir: &Path, operator_file: OperatorFile) -> Result<Process> {
    let bin = version.bin();
    let shim_dir = shim.parent().context("a path of the shim with a directory")?;
    let path = format!(
        "{}:{}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        shim_dir.display(),
        bin.display()
    );
    let log = File::options().create(true).append(true).open(dir.join("log"))?;
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "TERM", "setsid"]);
    if operator_file == OperatorFile::InItsPlace {
        // The directory below stays shared with the node, the mount over /etc is nobody else's.
        let over = format!("mount -t overlay -o lowerdir={}:/etc overlay /etc", config::etc(dir).display());
        command.args(["unshare", "--mount", "--propagation", "unchanged", "sh", "-ec"]);
        command.arg(format!("mount --make-private /; {over}; exec \"$@\"")).arg("sh");
    }
    command.arg(bin.join("containerd"));
    command.arg("--config").arg(dir.join("config.toml"));
    command.env_clear().env("PATH", path);
    command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
    let (sender, receiver) = mpsc::channel();
    let keeper = thread::spawn(move || match command.spawn() {
        Ok(mut child) => {
            let _ = sender.send(Ok(child.id() as i32));
            let _ = child.wait();
        }
        Err(error) => {
            let _ = sender.send(Err(error));
        }
    });
    let pid = receiver.recv()?.context("start setpriv of util-linux")?;
    Ok(Process { pid, keeper })
}
