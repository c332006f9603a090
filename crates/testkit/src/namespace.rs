//! A containerd namespace for one test: its images, its `ctr`, its containers.
//! Invariant: two tests never see each other's containers.

use crate::api::Api;
use crate::image::{Digests, Image};
use crate::run::{Output, Run};
use crate::task::Draft;
use crate::{Containerd, leftovers, process, run, wait};
use anyhow::{Context, Result, ensure};
use std::collections::HashMap;
use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

/// One namespace of a running containerd.
#[derive(Debug)]
pub struct Namespace {
    containerd: Arc<Containerd>,
    name: String,
    log_start: usize,
    made: AtomicUsize,
    /// Chain id by reference.
    imported: Mutex<HashMap<String, String>>,
}

impl Namespace {
    pub(crate) fn new(containerd: Arc<Containerd>, name: String) -> Self {
        let log_start = containerd.log().len();
        Namespace { containerd, name, log_start, made: AtomicUsize::new(0), imported: Mutex::default() }
    }

    /// The containerd it belongs to.
    pub fn containerd(&self) -> &Containerd {
        &self.containerd
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What containerd and the shims have logged since the namespace was made, other namespaces' lines included.
    pub fn log(&self) -> String {
        self.containerd.log().split_off(self.log_start)
    }

    /// A line of that log with all the parts. Containerd reads what a shim says from a fifo, so that the line comes a
    /// moment after it was said, perhaps later than the answer to the call that it is about.
    pub fn until_logged(&self, parts: &[&str]) -> Result<String> {
        let has_all = |line: &&str| parts.iter().all(|part| line.contains(part));
        let look = || Ok(self.log().lines().find(has_all).map(str::to_owned));
        wait::until(&format!("a line of the log with {parts:?}"), look).with_context(|| self.log_tail())
    }

    /// The end of that log.
    pub fn log_tail(&self) -> String {
        self.containerd.log_tail(self.log_start)
    }

    /// A name that nothing in this namespace has yet.
    pub fn fresh(&self, stem: &str) -> String {
        format!("{stem}{}", self.made.fetch_add(1, Ordering::Relaxed))
    }

    /// A new directory of the node for this test, for example as the source of a volume; gone with containerd's.
    pub fn directory(&self, stem: &str) -> Result<PathBuf> {
        let name = format!("{}-{}", self.name, self.fresh(stem));
        let path = self.containerd.dir().join("scratch").join(name);
        fs::create_dir_all(&path)?;
        Ok(path)
    }

    /// Writes the image and imports it.
    pub fn import(&self, image: &Image) -> Result<Digests> {
        let tar = self.directory("image")?.join("image.tar");
        let digests = image.write(&tar)?;
        let mut words = vec!["images", "import"];
        // The transfer service of 2.x finds nothing to unpack in images of other platforms, and ctr calls that an error.
        if digests.chain_id.is_empty() {
            words.extend(["--no-unpack", "--all-platforms"]);
        }
        let tar_text = tar.to_string_lossy().into_owned();
        words.push(&tar_text);
        let output = self.ctr(&words)?;
        ensure!(output.code == 0, "import {}: {output}", image.reference());
        fs::remove_file(&tar)?;
        let mut imported = self.imported.lock().expect("nothing panics with the lock");
        imported.insert(image.reference().to_owned(), digests.chain_id.clone());
        Ok(digests)
    }

    /// The chain id of an imported image; empty if its root filesystem is.
    pub fn chain_id(&self, reference: &str) -> String {
        let imported = self.imported.lock().expect("nothing panics with the lock");
        imported.get(reference).cloned().unwrap_or_default()
    }

    /// A task of an image by way of the API, to be refined and created.
    pub fn task(&self, image: &Image) -> Draft<'_> {
        Draft::new(self, image, self.fresh("t"))
    }

    /// Processes, mounts, cgroups and bundles of this namespace that are there now, one line each.
    pub fn remains(&self) -> Vec<String> {
        let names = [self.name.clone()];
        let mut left = Vec::new();
        for pid in process::mentioning(&format!("-namespace {}", self.name)) {
            left.push(format!("process {pid}: {}", process::command_line(pid)));
        }
        let bundles = self.containerd.bundle(&self.name, "");
        for mount in leftovers::mounts_below(&bundles) {
            left.push(format!("mount {}", mount.display()));
        }
        for group in leftovers::cgroups(&names) {
            left.push(format!("cgroup {}", group.display()));
        }
        for entry in fs::read_dir(&bundles).into_iter().flatten().flatten() {
            left.push(format!("bundle {}", entry.path().display()));
        }
        left
    }

    /// Waits until nothing of the namespace's containers is there any more: shims leave a moment after their last
    /// container.
    pub fn until_nothing_remains(&self) -> Result<()> {
        let gone = wait::until("nothing remains of the containers", || Ok(self.remains().is_empty().then_some(())));
        gone.with_context(|| self.remains().join("\n"))
    }

    /// Runs `ctr` in this namespace to its end.
    pub fn ctr(&self, words: &[&str]) -> Result<Output> {
        let mut command = self.ctr_command();
        command.args(words);
        run::finish(command, None)
    }

    /// `ctr` for this namespace, without a command yet.
    pub fn ctr_command(&self) -> Command {
        let mut command = Command::new(self.containerd.version().bin().join("ctr"));
        command.arg("--address").arg(self.containerd.socket());
        command.args(["--namespace", &self.name]);
        command
    }

    /// `ctr run` of an image, to be refined.
    pub fn run(&self, image: &Image) -> Run<'_> {
        Run::new(self, image.reference(), self.fresh("c"))
    }

    /// A client of the API, with a connection of its own.
    pub fn api(&self) -> Result<Api> {
        Api::connect(&self.containerd, &self.name)
    }

    /// Kills and deletes every container that is left, so that a failed test does not fail the next; says how many.
    pub fn clean(&self) -> Result<usize> {
        let list = self.ctr(&["containers", "list", "--quiet"])?;
        let ids: Vec<String> = list.text().lines().map(str::to_owned).collect();
        for id in &ids {
            // Errors say that there is no task; the deletion of the container tells whether it worked.
            self.ctr(&["tasks", "delete", "--force", id])?;
            let deleted = self.ctr(&["containers", "delete", id])?;
            ensure!(deleted.code == 0, "delete container {id}: {deleted}");
        }
        Ok(ids.len())
    }

    /// How many compilations of the wasm with this sha256 the shims have logged.
    pub fn compilations(&self, wasm: &[u8]) -> usize {
        let digest = crate::store::digest(wasm);
        let hex = digest.trim_start_matches("sha256:");
        let log = self.log();
        log.lines().filter(|line| line.contains(" compiled source=") && line.contains(hex)).count()
    }

    /// An operator file with this text for this test alone.
    pub fn operator_file(&self, text: &str) -> Result<PathBuf> {
        let path = self.directory("operator")?.join("config.toml");
        fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
        Ok(path)
    }
}
