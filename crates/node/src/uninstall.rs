//! Uninstalling from one node: only what is ours goes, in the reverse order of installing.

use crate::config::{RUNTIME, without};
use crate::containerd::Containerd;
use crate::cri::{Cri, Sandbox};
use crate::host::{Lock, Mode, sha256};
use crate::site::{CACHE, Fault, OPERATOR_CONFIG, Refusal, Site};
use crate::state::State;
use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::time::Duration;

/// Where a container tells what its end is about; on a node itself there is none.
const TERMINATION_MESSAGE: &str = "/dev/termination-log";

/// How long another run on this node may take to end.
const PATIENCE: Duration = Duration::from_secs(120);

/// What becomes of Wasm pods that run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pods {
    /// They keep the runtime.
    Refuse,
    /// They are stopped.
    Drain,
}

/// Takes everything away, or refuses while pods use it.
pub(crate) fn uninstall(site: &Site, pods: Pods) -> Result<(), Fault> {
    // An installer that ends finishes what it has begun.
    let waiting = || site.progress.doing("lock", "another wasm-node works on this node: waiting for it to end");
    let lock = site.host.lock_within(PATIENCE, &site.places.lock(), waiting)?;
    let mut state = site.state()?;
    let is_bare = state.edit.is_none() && state.operator_config.is_empty();
    if is_bare && site.host.changed_at(&site.shim()).is_none() {
        // Of an install that was refused: whatever was the matter is none of this.
        return swept(site, lock);
    }
    let found = site.found(&state)?;
    let cri = Cri::of(&found.containerd);
    let sandboxes = cri.sandboxes()?;
    let running: Vec<Sandbox> = sandboxes.iter().filter(|sandbox| sandbox.is_ready).cloned().collect();
    if pods == Pods::Refuse && !running.is_empty() {
        return Err(Fault::Refused(Refusal::Pods(running)));
    }
    site.say(None)?;
    for sandbox in sandboxes {
        // Those that have ended are there for their logs only, which the kubelet keeps.
        site.progress.doing("drain", &format!("the sandbox of pod {} is removed", sandbox.pod));
        cri.remove(&sandbox.id)?;
    }
    let edited = undo_edit(site, &mut state)?;
    let mut stays = Vec::new();
    if edited || cri.served().is_ok() && state.edit.is_some() {
        let containerd = site.restart()?;
        stays.extend(still_served(&containerd, &state));
    }
    for path in
        found.files.defining().into_iter().filter(|path| state.edit.as_ref().is_none_or(|edit| edit.file != **path))
    {
        let said =
            format!("{} defines the runtime `{RUNTIME}` too, and wasm-node did not write it: it stays", path.display());
        stays.push(said);
    }
    stays.extend(files(site, &state)?);
    told(site, &stays);
    swept(site, lock)
}

/// Tells what stays: in the log, and to who has this run in a pod, which goes with its log.
fn told(site: &Site, stays: &[String]) {
    for said in stays {
        site.progress.warn("stays", said);
    }
    if let Ok(mut message) = File::options().write(true).open(TERMINATION_MESSAGE) {
        // Whoever cannot read it has the log.
        let _ = message.write_all(stays.join("\n").as_bytes());
    }
}

fn swept(site: &Site, lock: Lock) -> Result<(), Fault> {
    // The lock's file goes with the directory.
    site.host.remove_all(&site.places.dir)?;
    drop(lock);
    let operator = Path::new(OPERATOR_CONFIG).parent().unwrap_or(Path::new(OPERATOR_CONFIG));
    site.systemd.sweep(Path::new(CACHE), &[&site.node.install_dir, operator])?;
    site.say(None)?;
    site.progress.done("uninstall", "nothing of wasm-node is left on this node");
    Ok(())
}

/// Takes our runtime out of the file that has it. Whether that was changed.
pub(crate) fn undo_edit(site: &Site, state: &mut State) -> Result<bool, Fault> {
    let Some(edit) = &mut state.edit else { return Ok(false) };
    let Some(now) = site.host.read(&edit.file)? else { return Ok(false) };
    let hash = sha256(&now);
    if edit.before.as_deref() == Some(hash.as_str()) {
        return Ok(false);
    }
    let original = site.places.original(&site.host, edit)?;
    if hash == edit.after && (original.is_some() || edit.before.is_none()) {
        match original {
            Some(original) => site.host.write(&edit.file, &original, Mode::Text)?,
            None => site.host.remove(&edit.file)?,
        }
        site.progress.done("config", &format!("{} is byte for byte as it was", edit.file.display()));
        return Ok(true);
    }
    // Somebody else has edited it since, or the backup is gone: all but our table stays.
    let file = edit.file.clone();
    match without(&String::from_utf8_lossy(&now), &file, &edit.runtimes)? {
        Some(text) => {
            // So that a run that is cut short here knows the file as ours.
            edit.before = Some(sha256(text.as_bytes()));
            site.places.write(&site.host, state)?;
            site.host.write(&file, text.as_bytes(), Mode::Text)?;
        }
        None => site.host.remove(&file)?,
    }
    site.progress.done("config", &format!("the runtime is out of {}; edits of others stay", file.display()));
    Ok(true)
}

fn still_served(containerd: &Containerd, state: &State) -> Option<String> {
    Cri::of(containerd).served().ok()?;
    let edited = state.edit.as_ref().map(|edit| edit.file.display().to_string()).unwrap_or_default();
    Some(format!("containerd still serves `{RUNTIME}`, which is not in {edited}: another file defines it"))
}

/// Removes what was put on the node; what stays of it.
fn files(site: &Site, state: &State) -> Result<Option<String>, Fault> {
    let operator = Path::new(OPERATOR_CONFIG);
    let mut stays = None;
    if !state.operator_config.is_empty() {
        match site.host.read(operator)? {
            Some(text) if !state.operator_config.contains(&sha256(&text)) => {
                stays = Some(format!("{OPERATOR_CONFIG} was edited by others: it stays"));
            }
            _ => site.host.remove(operator)?,
        }
    }
    let shim = site.shim();
    site.host.remove(&shim)?;
    if let Some(bin) = shim.parent() {
        site.host.remove_if_empty(bin);
    }
    site.progress.done("files", "the shim and its settings are removed");
    Ok(stays)
}
