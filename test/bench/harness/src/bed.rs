//! The test bed: one private containerd with every contender's shim, the images, and the steps of a task with their
//! times. Every container is made the same way: same spec, snapshotter, namespaces, fifos.

use crate::output::Output;
use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use testkit::api::Api;
use testkit::containerd::{Logging, Whose};
use testkit::{Containerd, Image, Namespace, Runtime, Version, leftovers, spec};

/// The longest that any single call may take: the peer compiles inside of it.
pub(crate) const PATIENCE: Duration = Duration::from_secs(240);

/// The shims that are no part of containerd.
#[derive(Debug, Clone)]
pub(crate) struct Shims {
    pub(crate) ours: PathBuf,
    pub(crate) floor: PathBuf,
    pub(crate) stock_floor: PathBuf,
    pub(crate) peer: PathBuf,
}

/// A containerd with a namespace for the run.
pub(crate) struct Bed {
    pub(crate) containerd: Arc<Containerd>,
    pub(crate) node: Namespace,
    made: AtomicUsize,
    _bin: tempfile::TempDir,
}

/// A program in an image.
#[derive(Debug, Clone)]
pub(crate) struct Program {
    reference: String,
    chain: String,
    args: Vec<String>,
    says: &'static str,
    changes: Vec<Change>,
}

/// What a container's spec has other than everybody's.
#[derive(Debug, Clone)]
enum Change {
    Annotation(&'static str, String),
    Resources(Value),
    Variable(String),
    NodesNetwork,
}

/// A container whose task is not made yet.
pub(crate) struct Container<'a> {
    api: &'a Api,
    id: String,
    output: Output,
    says: &'static str,
}

/// How long each step of a task took.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Steps {
    pub(crate) create: Duration,
    pub(crate) start: Duration,
    pub(crate) exit: Duration,
    pub(crate) delete: Duration,
}

impl Bed {
    /// Starts containerd 2.4, logging as it does on nodes, for containers of our shim and `others`.
    pub(crate) fn new(shims: &Shims, others: &[&Path], whose: Whose) -> Result<Bed> {
        // One directory of them all: containerd looks for shims on its PATH.
        let bin = tempfile::tempdir()?;
        for shim in others.iter().copied().chain([shims.ours.as_path()]) {
            let name = shim.file_name().context("the path of a shim")?;
            fs::copy(shim, bin.path().join(name)).with_context(|| format!("copy {}", shim.display()))?;
        }
        let ours = bin.path().join(shims.ours.file_name().context("the path of our shim")?);
        let containerd = Containerd::start_for(Version::V2_4, &ours, whose, Logging::Usual)?;
        let node = containerd.namespace("bench");
        Ok(Bed { containerd, node, made: AtomicUsize::new(0), _bin: bin })
    }

    /// Makes the cgroups that the containers' are below, as a node's kubelet has it: else the first container of each
    /// contender makes them, and only ours removes them again.
    pub(crate) fn make_parents(&self) -> Result<()> {
        for hierarchy in leftovers::hierarchies() {
            // Not one of these: its groups need values before they take a process, which runtimes give to theirs.
            if hierarchy.ends_with("cpuset") {
                continue;
            }
            let parent = hierarchy.join(self.node.name());
            fs::create_dir_all(&parent).with_context(|| format!("make {}", parent.display()))?;
        }
        Ok(())
    }

    /// Imports an image; `args` is the command line, and `says` what the program says first.
    pub(crate) fn program(&self, image: &Image, args: &[&str], says: &'static str) -> Result<Program> {
        self.node.import(image)?;
        let reference = image.reference().to_owned();
        let chain = self.node.chain_id(&reference);
        let args = args.iter().map(|&word| word.to_owned()).collect();
        Ok(Program { reference, chain, args, says, changes: Vec::new() })
    }

    /// A connection that makes containers of this runtime.
    pub(crate) fn api(&self, runtime: &Runtime) -> Result<Api> {
        Ok(self.node.api()?.container_runtime(runtime).patience(PATIENCE))
    }

    /// The runtime of ours, with an operator file of this text besides what it has.
    pub(crate) fn ours_with_cache(&self, dir: &Path) -> Result<Runtime> {
        let file = self.node.operator_file(&format!("[cache]\ndir = {dir:?}\n"))?;
        Ok(Runtime::wasm(&file))
    }

    /// Makes a container with its snapshot, and its fifos.
    pub(crate) fn container<'a>(&self, api: &'a Api, program: &Program) -> Result<Container<'a>> {
        let id = format!("b{}", self.made.fetch_add(1, Ordering::Relaxed));
        let mut spec = spec::linux(self.node.name(), &id, &[]);
        spec["process"]["args"] = json!(program.args);
        program.changes.iter().for_each(|change| change.apply(&mut spec));
        api.create_container(&id, &spec, &program.reference, &program.chain)?;
        let output = Output::new(&self.containerd.fifos(), &id)?;
        Ok(Container { api, id, output, says: program.says })
    }
}

impl Program {
    /// The same with another command line, and what it says then.
    pub(crate) fn saying(&self, args: &[&str], says: &'static str) -> Program {
        Program { args: args.iter().map(|&word| word.to_owned()).collect(), says, ..self.clone() }
    }

    /// The same with an annotation of ours, which others do not read.
    pub(crate) fn annotated(&self, key: &'static str, value: &str) -> Program {
        self.with(Change::Annotation(key, value.to_owned()))
    }

    /// The same with these `linux.resources`.
    pub(crate) fn limited(&self, resources: Value) -> Program {
        self.with(Change::Resources(resources))
    }

    /// The same as a service of loopback on the node's network; ours and the peer read the variable.
    pub(crate) fn serving(&self, port: u16) -> Program {
        self.told(&format!("WASMTIME_HTTP_PROXY_SOCKET_ADDR=127.0.0.1:{port}")).with(Change::NodesNetwork)
    }

    /// The same with this entry of the environment.
    pub(crate) fn told(&self, variable: &str) -> Program {
        self.with(Change::Variable(variable.to_owned()))
    }

    fn with(&self, change: Change) -> Program {
        let mut changed = self.clone();
        changed.changes.push(change);
        changed
    }

    /// The same, told to stay.
    pub(crate) fn staying(&self) -> Program {
        let mut staying = self.clone();
        staying.args.push("stay".to_owned());
        staying
    }
}

impl Change {
    fn apply(&self, spec: &mut Value) {
        match self {
            Change::Annotation(key, value) => {
                spec["annotations"][format!("io.containerd.wasm.v1/{key}")] = json!(value)
            }
            Change::Resources(resources) => spec["linux"]["resources"] = resources.clone(),
            Change::Variable(variable) => {
                let env = spec["process"]["env"].as_array_mut();
                env.expect("every spec has an environment").push(json!(variable));
            }
            Change::NodesNetwork => {
                let namespaces = spec["linux"]["namespaces"].as_array_mut();
                namespaces.expect("every spec has namespaces").retain(|one| one["type"] != "network");
            }
        }
    }
}

impl Container<'_> {
    pub(crate) fn create(&self) -> Result<()> {
        let [stdout, stderr] = self.output.names();
        self.api.create_task_with(&self.id, String::new(), stdout, stderr)?;
        Ok(())
    }

    /// Starts it, and waits until it has said something. Returns its pid, which not every shim knows before.
    pub(crate) fn start_until_heard(&self) -> Result<i32> {
        let pid = self.api.start(&self.id)?;
        if !self.says.is_empty() {
            let heard = self.output.wait_for_some(PATIENCE)?;
            ensure!(heard.starts_with(self.says), "{} said {heard:?} instead of {:?}", self.id, self.says);
        }
        Ok(pid)
    }

    /// Runs it to its end; every step's time.
    pub(crate) fn run(&self) -> Result<Steps> {
        let begun = Instant::now();
        self.create()?;
        let created = Instant::now();
        self.api.start(&self.id)?;
        let started = Instant::now();
        // As clients do: what is not read may be waited for.
        let mut heard = if self.says.is_empty() { String::new() } else { self.output.wait_for_some(PATIENCE)? };
        let ended = self.api.wait(&self.id)?;
        let exited = Instant::now();
        self.api.delete_task(&self.id)?;
        let deleted = Instant::now();
        heard += &self.output.text();
        ensure!(ended.code == 0 && heard == self.says, "{} left with {} and said {heard:?}", self.id, ended.code);
        Ok(Steps {
            create: created - begun,
            start: started - created,
            exit: exited - started,
            delete: deleted - exited,
        })
    }

    /// Runs it to its end, whatever that is: the exit code, and what it said.
    pub(crate) fn ended(&self) -> Result<(u32, String)> {
        self.create()?;
        let (code, text) = self.output.read_during(|| -> Result<u32> {
            self.api.start(&self.id)?;
            Ok(self.api.wait(&self.id)?.code)
        })?;
        self.api.delete_task(&self.id)?;
        Ok((code?, text))
    }

    /// Kills it, and deletes its task.
    pub(crate) fn end(&self) -> Result<()> {
        self.api.kill(&self.id, 9)?;
        self.api.wait(&self.id)?;
        self.api.delete_task(&self.id)?;
        Ok(())
    }

    /// Removes it with its snapshot; its task must be gone.
    pub(crate) fn remove(self) -> Result<()> {
        Ok(self.api.delete_container(&self.id)?)
    }
}

impl Steps {
    pub(crate) fn total(&self) -> Duration {
        self.create + self.start + self.exit + self.delete
    }
}
