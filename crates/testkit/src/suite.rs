//! Runs cases on each version of containerd, with the output of libtest, and closes with a look for leftovers.
//!
//! One containerd per version serves all cases of a test binary. libtest has no end of a run to hook, which is why
//! such binaries have `harness = false` and call [`Suite::run`] from `main`.

use crate::node::{self, Feature};
use crate::{Containerd, Namespace, Version};
use anyhow::Result;
use libtest_mimic::{Arguments, Failed, Trial};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Arc, Mutex};

/// A case: it fails with an error or a panic.
pub type Case = fn(&Namespace) -> Result<()>;

/// Names cases by their path for [`Suite::on`]: `cases![hello::from_a_file, hello::from_a_layer]`.
#[macro_export]
macro_rules! cases {
    ($($($path:ident)::+),* $(,)?) => {
        &[$((stringify!($($path)::+), $($path)::+ as $crate::suite::Case)),*]
    };
}

/// The cases of a test binary.
#[derive(Debug)]
pub struct Suite {
    shim: PathBuf,
    cases: Vec<(Version, &'static str, Case)>,
    threads: Option<usize>,
    start: Start,
}

/// Starts the containerd of a version.
type Start = fn(Version, &Path) -> Result<Arc<Containerd>>;

/// The containerd of a version, started by the first case that needs it.
struct Node {
    version: Version,
    shim: PathBuf,
    start: Start,
    started: Mutex<Option<Arc<Containerd>>>,
}

impl Suite {
    /// For this binary of the shim, unless the environment names another.
    pub fn new(shim: impl AsRef<Path>) -> Self {
        let elsewhere = std::env::var_os("WASM_TEST_SHIM").map(PathBuf::from);
        Suite {
            shim: elsewhere.unwrap_or_else(|| shim.as_ref().to_owned()),
            cases: Vec::new(),
            threads: None,
            start: Containerd::start,
        }
    }

    /// With one case at a time: each of them is meant to load the machine.
    pub fn one_by_one(mut self) -> Self {
        self.threads = Some(1);
        self
    }

    /// On containerds that run pods.
    pub fn of_pods(mut self) -> Self {
        self.start = Containerd::start_for_pods;
        self
    }

    /// Adds cases that run on each of the versions.
    pub fn on(mut self, versions: &[Version], cases: &[(&'static str, Case)]) -> Self {
        for &version in versions {
            let of_version = cases.iter().map(|&(name, case)| (version, name, case));
            self.cases.extend(of_version);
        }
        self
    }

    /// As [`Suite::on`], where the node has the feature.
    pub fn on_nodes_with(self, feature: Feature, versions: &[Version], cases: &[(&'static str, Case)]) -> Self {
        if feature.is_here() { self.on(versions, cases) } else { self }
    }

    /// Runs what the command line selects; it takes the arguments that every test binary takes.
    pub fn run(self) -> ExitCode {
        let mut arguments = Arguments::from_args();
        arguments.test_threads = self.threads.or(arguments.test_threads);
        if let Err(error) = node::check() {
            eprintln!("{error:#}");
            return ExitCode::FAILURE;
        }
        let mut nodes: Vec<Arc<Node>> = Vec::new();
        let mut trials = Vec::new();
        for (version, name, case) in self.cases {
            let known = nodes.iter().find(|node| node.version == version).cloned();
            let node = known.unwrap_or_else(|| {
                let node =
                    Arc::new(Node { version, shim: self.shim.clone(), start: self.start, started: Mutex::default() });
                nodes.push(node.clone());
                node
            });
            let title = format!("{}::{}", version.module(), title(name));
            trials.push(Trial::test(title, move || node.case(name, case)));
        }
        let conclusion = libtest_mimic::run(&arguments, trials);
        let ends = nodes.into_iter().filter_map(|node| {
            let started = node.lock().take()?;
            let title = format!("{}::nothing_is_left", started.version().module());
            let look = move || started.stop().map_err(failed);
            Some(Trial::test(title, look))
        });
        let ends: Vec<Trial> = ends.collect();
        if ends.is_empty() {
            return conclusion.exit_code();
        }
        let everything = Arguments { filter: None, exact: false, skip: Vec::new(), ..arguments };
        let last = libtest_mimic::run(&everything, ends);
        if conclusion.has_failed() { conclusion.exit_code() } else { last.exit_code() }
    }
}

impl Node {
    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Arc<Containerd>>> {
        // A start that panicked leaves nothing half-done behind the lock.
        self.started.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn containerd(&self) -> Result<Arc<Containerd>> {
        let mut started = self.lock();
        if let Some(containerd) = started.as_ref() {
            return Ok(containerd.clone());
        }
        let containerd = (self.start)(self.version, &self.shim)?;
        *started = Some(containerd.clone());
        Ok(containerd)
    }

    fn case(&self, name: &str, case: Case) -> Result<(), Failed> {
        let containerd = self.containerd().map_err(failed)?;
        let namespace = containerd.namespace(&title(name).replace("::", "."));
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| case(&namespace)));
        let outcome = match outcome {
            Ok(outcome) => outcome,
            Err(panic) => Err(anyhow::anyhow!("panicked: {}", text_of(panic.as_ref()))),
        };
        let tail = namespace.log_tail();
        let cleaned = namespace.clean();
        match outcome.and(cleaned) {
            Ok(0) => Ok(()),
            Ok(left) => Err(format!("the case left {left} containers\n{tail}").into()),
            Err(error) => Err(format!("{}\n{tail}", chain(&error)).into()),
        }
    }
}

/// A path as `stringify!` writes it, without blanks and without the root that all have in common.
fn title(path: &str) -> String {
    let path = path.replace(' ', "");
    path.strip_prefix("crate::").map(str::to_owned).unwrap_or(path)
}

fn text_of(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref::<&str>().map(|&text| text.to_owned())).unwrap_or_default()
}

fn failed(error: anyhow::Error) -> Failed {
    chain(&error).into()
}

/// The error and its causes, a line each, without the backtrace that `{:?}` adds.
fn chain(error: &anyhow::Error) -> String {
    let causes: Vec<String> = error.chain().map(ToString::to_string).collect();
    causes.join("\ncaused by: ")
}
