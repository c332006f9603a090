//! What the shim and the container process do around the engine, within this process.

use engine::{ArtifactKey, Cache, CompileJob, Host, Interrupter, Metering, Stdio, compile};
use plan::{
    CacheSettings, CgroupPath, CompileBounds, Digest, ExitStatus, Failure, Hooks, Http, Invocation, Isolation, Limits,
    Mount, MountFlags, MountSource, NetworkAccess, Origin, Program, Report, RootAccess, RunPlan, Source, User,
};
use std::fs::{self, File};
use std::io::{PipeReader, PipeWriter, Read, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread::{self, JoinHandle};
use std::time::Duration;
use tempfile::TempDir;

/// Longer than anything here takes on a busy machine.
pub(crate) const DEADLINE: Duration = Duration::from_secs(60);

/// A cache in a directory of its own.
pub(crate) struct Stage {
    pub(crate) cache: Cache,
    pub(crate) dir: TempDir,
}

/// How a run ended and what could be seen of it.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) status: ExitStatus,
    pub(crate) stdout: Vec<u8>,
    pub(crate) reports: Vec<Report>,
}

impl Run {
    pub(crate) fn stdout_text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }
}

/// A guest that runs on a thread of its own.
pub(crate) struct Running {
    pub(crate) stdin: Option<PipeWriter>,
    pub(crate) stdout: Option<PipeReader>,
    pub(crate) stderr: Option<PipeReader>,
    signals: PipeWriter,
    interrupter: Interrupter,
    pub(crate) reports: mpsc::Receiver<Report>,
    ended: mpsc::Receiver<ExitStatus>,
    thread: JoinHandle<()>,
}

impl Stage {
    pub(crate) fn new() -> Self {
        Stage::with_size(1 << 30)
    }

    pub(crate) fn with_size(size_bytes: u64) -> Self {
        let dir = TempDir::new().unwrap();
        let cache = open(dir.path(), size_bytes);
        Stage { cache, dir }
    }

    /// Opens the same directory again, as another shim does.
    pub(crate) fn reopen(&self) -> Cache {
        open(self.dir.path(), 1 << 30)
    }

    pub(crate) fn key(&self, wasm: &[u8]) -> ArtifactKey {
        self.key_of(wasm, Metering::None)
    }

    pub(crate) fn key_of(&self, wasm: &[u8], metering: Metering) -> ArtifactKey {
        let digest = block_on(engine::hash(&file_of(wasm), u64::MAX)).unwrap();
        ArtifactKey::new(&self.cache, &digest, metering).unwrap()
    }

    /// Compiles without looking whether it was done before.
    pub(crate) fn compile(&self, wasm: &[u8]) -> Result<engine::Artifact, Failure> {
        self.compile_variant(wasm, Metering::None)
    }

    pub(crate) fn compile_variant(&self, wasm: &[u8], metering: Metering) -> Result<engine::Artifact, Failure> {
        let pending = self.cache.begin(&self.key_of(wasm, metering)).unwrap();
        let job = CompileJob {
            wasm: file_of(wasm),
            output: pending.output.try_clone().unwrap(),
            lock: pending.lock.try_clone().unwrap(),
            metering,
        };
        let mut reports = Vec::new();
        compile(job, || true, &mut |report| reports.push(report));
        match reports.as_slice() {
            [Report::Locked, Report::Compiled { calls, .. }] => {
                Ok(block_on(self.cache.commit(pending, *calls)).unwrap())
            }
            [Report::Locked, Report::Failed(failure)] => Err(failure.clone()),
            other => panic!("unexpected reports of the compile child: {other:?}"),
        }
    }

    /// The line with which loading fails.
    pub(crate) fn load_failure(&self, wasm: &[u8], plan: &RunPlan) -> String {
        let artifact = self.compile(wasm).unwrap();
        match Host::new(artifact.variant()).unwrap().load(plan, &artifact).map(|_| ()) {
            Err(Failure::Message(line)) => line,
            other => panic!("expected a message, got {other:?}"),
        }
    }

    /// The line with which granting fails.
    pub(crate) fn grant_failure(&self, wasm: &[u8], plan: &RunPlan) -> String {
        let artifact = self.compile(wasm).unwrap();
        let loaded = Host::new(artifact.variant()).unwrap().load(plan, &artifact).unwrap();
        let (reader, writer) = std::io::pipe().unwrap();
        let (stdin, stdout, stderr) = (OwnedFd::from(reader.try_clone().unwrap()), writer.try_clone().unwrap(), writer);
        let stdio = Stdio { stdin, stdout: OwnedFd::from(stdout), stderr: OwnedFd::from(stderr) };
        match loaded.grant(plan, stdio, OwnedFd::from(reader), || None).map(|_| ()) {
            Err(Failure::Message(line)) => line,
            other => panic!("expected a message, got {other:?}"),
        }
    }

    /// Runs to the end with this stdin.
    pub(crate) fn run(&self, wasm: &[u8], plan: &RunPlan, stdin: &[u8]) -> Run {
        let mut running = self.start(wasm, plan);
        let mut writer = running.stdin.take().unwrap();
        let input = stdin.to_vec();
        // A guest may end without having read it all.
        let feed = thread::spawn(move || drop(writer.write_all(&input)));
        let stdout = collect(running.stdout.take().unwrap());
        let stderr = collect(running.stderr.take().unwrap());
        let (status, reports) = running.join();
        feed.join().unwrap();
        stderr.join().unwrap();
        Run { status, stdout: stdout.join().unwrap(), reports }
    }

    /// Starts a guest on a thread.
    pub(crate) fn start(&self, wasm: &[u8], plan: &RunPlan) -> Running {
        let artifact = self.compile(wasm).unwrap();
        let (stdin_reader, stdin) = std::io::pipe().unwrap();
        let (stdout, stdout_writer) = std::io::pipe().unwrap();
        let (stderr, stderr_writer) = std::io::pipe().unwrap();
        let (signals_reader, signals) = std::io::pipe().unwrap();
        let (send_interrupter, interrupter) = mpsc::channel();
        let (send_report, reports) = mpsc::channel();
        let (send_end, ended) = mpsc::channel();
        let plan = plan.clone();
        let thread = thread::spawn(move || {
            let loaded = Host::new(artifact.variant()).unwrap().load(&plan, &artifact).unwrap();
            send_interrupter.send(loaded.interrupter()).unwrap();
            let stdio = Stdio {
                stdin: OwnedFd::from(stdin_reader),
                stdout: OwnedFd::from(stdout_writer),
                stderr: OwnedFd::from(stderr_writer),
            };
            let guest = loaded.grant(&plan, stdio, OwnedFd::from(signals_reader), || None).unwrap();
            let status = guest.run(&mut |report| send_report.send(report).unwrap());
            send_end.send(status).unwrap();
        });
        Running {
            stdin: Some(stdin),
            stdout: Some(stdout),
            stderr: Some(stderr),
            signals,
            interrupter: interrupter.recv_timeout(DEADLINE).unwrap(),
            reports,
            ended,
            thread,
        }
    }
}

impl Running {
    /// What a signal handler does.
    pub(crate) fn signal(&self, number: u8) {
        (&self.signals).write_all(&[number]).unwrap();
        self.interrupter.interrupt();
    }

    /// Waits until the guest wrote a line to stderr.
    pub(crate) fn wait_for_line(&mut self) {
        let mut byte = [0];
        let stderr = self.stderr.as_mut().unwrap();
        while byte != *b"\n" {
            stderr.read_exact(&mut byte).unwrap();
        }
    }

    pub(crate) fn join(self) -> (ExitStatus, Vec<Report>) {
        let status = self.ended.recv_timeout(DEADLINE).expect("the guest did not end");
        self.thread.join().unwrap();
        (status, self.reports.iter().collect())
    }
}

fn collect(mut pipe: PipeReader) -> JoinHandle<Vec<u8>> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        pipe.read_to_end(&mut bytes).unwrap();
        bytes
    })
}

fn open(dir: &Path, size_bytes: u64) -> Cache {
    Cache::open(&settings(dir.join("cache"), size_bytes)).unwrap()
}

pub(crate) fn settings(dir: PathBuf, size_bytes: u64) -> CacheSettings {
    CacheSettings {
        dir,
        size_bytes,
        compile: CompileBounds { memory_bytes: 4 << 30, time_ms: 60_000, wasm_bytes: 256 << 20 },
    }
}

pub(crate) fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
}

pub(crate) fn file_of(content: &[u8]) -> File {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(content).unwrap();
    file
}

/// A plan that grants nothing.
pub(crate) fn plan() -> RunPlan {
    RunPlan {
        id: "test".into(),
        program: Program::Wasm(Source {
            origin: Origin::Layer { digest: Digest::from_sha256([0; 32]), size: 0 },
            export: None,
        }),
        invocation: Invocation { args: vec!["guest".into()], env: Vec::new(), cwd: "/".into() },
        terminal: false,
        root: RootAccess::Hidden,
        mounts: Vec::new(),
        limits: Limits::default(),
        isolation: Isolation {
            namespaces: Vec::new(),
            user_namespace: None,
            sysctls: Default::default(),
            hostname: None,
            user: User { uid: 0, gid: 0, groups: Vec::new(), umask: None, low_ports: false },
            rlimits: Vec::new(),
            cgroup: CgroupPath::Cgroupfs("/test".into()),
            oom_score_adj: None,
            seccomp: None,
            apparmor: None,
        },
        network: NetworkAccess::Any,
        http: Http::default(),
        hooks: Hooks::default(),
        termination_file: None,
    }
}

/// A plan for a guest whose origin reads `/app.wasm` in messages.
pub(crate) fn plan_of_file(export: Option<&str>) -> RunPlan {
    let mut plan = plan();
    let origin = Origin::File { path: "/app.wasm".into(), identity: None };
    plan.program = Program::Wasm(Source { origin, export: export.map(str::to_owned) });
    plan
}

/// A mount whose destination is there already, since the test shares the node's root.
pub(crate) fn mount(destination: &Path) -> Mount {
    Mount {
        destination: fs::canonicalize(destination).unwrap(),
        source: MountSource::Bind { path: destination.to_owned(), recursive: false },
        flags: MountFlags::default(),
        ids: None,
    }
}
