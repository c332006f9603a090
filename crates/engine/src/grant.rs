//! Turns a plan into what a guest may touch.
//! Invariant: nothing outside of this file hands a right of the process to a guest. What it may reach over the network is
//! up to `network`.

use crate::budget::Budget;
use crate::compile::one_line;
use crate::network::{self, Network, Outgoing};
use crate::stdio::Output;
use plan::{Failure, Invocation, Mount, RootAccess, RunPlan};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use wasmtime::{Engine, Store};
use wasmtime_wasi::filesystem::WasiFilesystemCtx;
use wasmtime_wasi::p1::WasiP1Ctx;
use wasmtime_wasi::{FsPerms, WasiCtxBuilder, WasiCtxView, WasiView};
use wasmtime_wasi_http::{WasiHttpCtx, WasiHttpCtxView, WasiHttpView};

/// The data of a store.
pub(crate) struct State {
    wasi: WasiP1Ctx,
    http: WasiHttpCtx,
    outgoing: Outgoing,
    pub(crate) budget: Budget,
}

/// The rights of a container, from which those of each of its instances are made.
pub(crate) struct Grant {
    args: Vec<String>,
    env: Vec<(String, String)>,
    cwd: String,
    /// The preopens, opened once.
    filesystem: WasiFilesystemCtx,
    outputs: [Output; 2],
    outgoing: Outgoing,
}

impl Grant {
    /// What the plan grants: see [`context`].
    pub(crate) fn new(plan: &RunPlan, outputs: [Output; 2]) -> Result<Grant, Failure> {
        // Many guests on few threads: a file that waits, for a disk or for a writer of a fifo, may hold up its guest alone.
        let filesystem = context(plan, WorkingDirectory::Told, Files::OnThreads)?.build().filesystem().clone();
        let Invocation { args, env: _, cwd } = plan.invocation.clone();
        let env = environment(&plan.invocation, WorkingDirectory::Told);
        let outgoing = outgoing(plan, network::Files::of_container(), &outputs);
        Ok(Grant { args, env, cwd, filesystem, outputs, outgoing })
    }

    /// The rights of one instance.
    pub(crate) fn state(&self, budget: Budget) -> State {
        let mut builder = WasiCtxBuilder::new();
        builder.args(&self.args).envs(&self.env).initial_cwd(&self.cwd);
        builder.stdout(self.outputs[0].clone()).stderr(self.outputs[1].clone());
        self.outgoing.network().grant(&mut builder);
        let mut state = State::new(builder.build_p1(), self.outgoing.clone(), budget);
        state.ctx().ctx.filesystem().clone_from(&self.filesystem);
        state
    }

    /// Writes to the container's stderr.
    pub(crate) fn log(&self, text: &str) {
        self.outputs[1].tell(text);
    }
}

impl State {
    pub(crate) fn new(wasi: WasiP1Ctx, outgoing: Outgoing, budget: Budget) -> Self {
        let mut http = WasiHttpCtx::new();
        http.set_field_size_limit(FIELDS);
        State { wasi, http, outgoing, budget }
    }

    /// The container's network.
    pub(crate) fn network(&self) -> Network {
        self.outgoing.network().clone()
    }

    pub(crate) fn wasi_mut(&mut self) -> &mut WasiP1Ctx {
        &mut self.wasi
    }
}

impl WasiView for State {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        self.wasi.ctx()
    }
}

impl WasiHttpView for State {
    fn http(&mut self) -> WasiHttpCtxView<'_> {
        WasiHttpCtxView { hooks: &mut self.outgoing, table: self.wasi.ctx().table, ctx: &mut self.http }
    }
}

/// Handles that one instance may hold of the host's things, of each kind: each is memory that its limit does not see.
const MOST_HANDLES: usize = 10_000;
/// What the headers of one message may take in the host, bytes: as much as a server takes of a request's head, and what
/// the host needs besides.
const FIELDS: usize = 64 << 10;

/// The place of an instance, in which the host's things for it are bounded as its memory is.
pub(crate) fn store(engine: &Engine, state: State) -> Store<State> {
    let mut store = Store::new(engine, state);
    store.limiter_async(|state| &mut state.budget);
    store.data_mut().ctx().table.set_max_capacity(MOST_HANDLES);
    store.set_max_component_handles(MOST_HANDLES);
    // Tasks, streams and futures.
    if let Some(table) = store.concurrent_resource_table() {
        table.set_max_capacity(MOST_HANDLES);
    }
    store
}

/// Whether the guest's world has a notion of a working directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum WorkingDirectory {
    /// Components are told theirs.
    Told,
    /// WASI 0.1 has none: relative paths start at `/`. `PWD` is set, for those who look there.
    InEnvironment,
}

/// The client for a guest's requests, which refuses what the plan does not grant.
pub(crate) fn outgoing(plan: &RunPlan, names: network::Files, outputs: &[Output; 2]) -> Outgoing {
    Outgoing::new(Network::new(plan.network.clone(), names, outputs[1].clone()))
}

/// Where a guest waits for its files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Files {
    /// On its own thread: one guest, one thread, so that it holds up nobody else.
    InPlace,
    /// On threads for it.
    OnThreads,
}

/// Arguments, environment, working directory and preopens, as the plan grants them. Standard streams are up to the
/// caller. To be called where the guest's files are this process's files, with the guest's user and groups.
pub(crate) fn context(plan: &RunPlan, cwd: WorkingDirectory, files: Files) -> Result<WasiCtxBuilder, Failure> {
    let mut builder = WasiCtxBuilder::new();
    builder
        // Has to precede the preopens.
        .allow_blocking_current_thread(files == Files::InPlace)
        .args(&plan.invocation.args)
        .envs(&environment(&plan.invocation, cwd))
        .initial_cwd(&plan.invocation.cwd);
    for dir in preopens(plan)? {
        preopen(&mut builder, &dir)?;
    }
    Ok(builder)
}

/// Each name once, with its last value, at the place of its first.
fn environment(invocation: &Invocation, cwd: WorkingDirectory) -> Vec<(String, String)> {
    let mut environment: Vec<(String, String)> = Vec::with_capacity(invocation.env.len() + 1);
    for (name, value) in &invocation.env {
        match environment.iter_mut().find(|(known, _)| known == name) {
            Some((_, earlier)) => earlier.clone_from(value),
            None => environment.push((name.clone(), value.clone())),
        }
    }
    let has_pwd = environment.iter().any(|(name, _)| name == "PWD");
    if cwd == WorkingDirectory::InEnvironment && !has_pwd {
        environment.push(("PWD".to_owned(), invocation.cwd.clone()));
    }
    environment
}

/// The directories that the guest is given: `/`, then those of the mounts, in their order.
fn preopens(plan: &RunPlan) -> Result<Vec<PathBuf>, Failure> {
    let mut dirs = Vec::new();
    let mut files = Vec::new();
    if plan.root != RootAccess::Hidden {
        dirs.push(PathBuf::from("/"));
    }
    for mount in &plan.mounts {
        if is_dir(mount)? {
            add(&mut dirs, &mount.destination);
        } else {
            files.push(&mount.destination);
        }
    }
    // A single file is reached through a directory above it, which without `/` may have to be given for its sake.
    for file in files {
        let Some(parent) = file.parent() else {
            continue;
        };
        if !dirs.iter().any(|dir| parent.starts_with(dir)) {
            add(&mut dirs, parent);
        }
    }
    Ok(dirs)
}

fn add(dirs: &mut Vec<PathBuf>, dir: &Path) {
    if !dirs.iter().any(|known| known == dir) {
        dirs.push(dir.to_owned());
    }
}

fn is_dir(mount: &Mount) -> Result<bool, Failure> {
    match fs::metadata(&mount.destination) {
        Ok(metadata) => Ok(metadata.is_dir()),
        // Below a directory that the user may not search: out of reach, as it would be for any process.
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Ok(false),
        Err(error) => Err(unreachable(&mount.destination, &error)),
    }
}

/// Gives a directory with all rights. What is read-only is so by its mount: a right withheld here would also hold for a
/// writable mount below.
fn preopen(builder: &mut WasiCtxBuilder, dir: &Path) -> Result<(), Failure> {
    let Some(name) = dir.to_str() else {
        return Err(Failure::Message(format!(
            "cannot give {} to the guest: the name of a mount's destination must be UTF-8",
            dir.display()
        )));
    };
    match builder.preopened_dir(dir, name, FsPerms::ReadWrite) {
        Ok(_) => Ok(()),
        Err(error) => match error.downcast_ref::<io::Error>() {
            // The user may not read it. A guest that tries gets this error then, by way of a preopen above.
            Some(denied) if denied.kind() == io::ErrorKind::PermissionDenied => Ok(()),
            _ => Err(unreachable(dir, error.as_ref())),
        },
    }
}

fn unreachable(path: &Path, error: &(dyn std::error::Error + 'static)) -> Failure {
    let what = format!("cannot give {} to the guest", path.display());
    Failure::Message(one_line(&what, error))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(env: &[(&str, &str)], cwd: WorkingDirectory, expected: &[(&str, &str)]) {
        let owned = |pairs: &[(&str, &str)]| -> Vec<(String, String)> {
            pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
        };
        let invocation = Invocation { args: Vec::new(), env: owned(env), cwd: "/work".to_owned() };
        assert_eq!(environment(&invocation, cwd), owned(expected));
    }

    #[test]
    fn later_value_of_a_variable_wins_in_the_place_of_the_first() {
        check(&[("A", "1"), ("B", "2"), ("A", "3")], WorkingDirectory::Told, &[("A", "3"), ("B", "2")]);
    }

    #[test]
    fn pwd_is_set_where_there_is_no_working_directory() {
        check(&[("A", "1")], WorkingDirectory::InEnvironment, &[("A", "1"), ("PWD", "/work")]);
        check(&[("PWD", "/own")], WorkingDirectory::InEnvironment, &[("PWD", "/own")]);
    }
}
