//! Installing: every step can be killed after any other, and the next run goes on; what fails is taken back.
//! Order: lock, refuse, label pending, stage the shim, edit, restart, verify, label verified last.

use crate::args::Install;
use crate::config::Change;
use crate::containerd::Containerd;
use crate::cri::Cri;
use crate::host::{Mode, sha256};
use crate::kubernetes::Standing;
use crate::site::{Fault, Found, OPERATOR_CONFIG, Payload, Refusal, Site};
use crate::state::{Edit, Failed, State, Verified};
use std::fs;
use std::path::{Path, PathBuf};

/// What is to be done to a node.
#[derive(Debug)]
struct Work {
    change: Option<Change>,
    has_new_shim: bool,
    must_restart: bool,
    operator: Operator,
    /// What to give back if it fails.
    undo: Option<Undo>,
}

impl Work {
    fn changes(&self) -> bool {
        self.has_new_shim || self.must_restart || self.undo.is_some()
    }
}

/// What becomes of the operator file.
#[derive(Debug, PartialEq, Eq)]
enum Operator {
    Kept,
    Written(Vec<u8>),
    Removed,
}

/// The configuration file as it was, and what was known of it then.
#[derive(Debug)]
struct Undo {
    file: PathBuf,
    content: Option<Vec<u8>>,
    edit: Option<Edit>,
}

/// Installs, or finds that nothing is to be done; verifies in either case.
pub(crate) fn install(site: &Site, install: &Install) -> Result<(), Fault> {
    let _lock = site.host.lock(&site.places.lock())?;
    let payload = site.payload()?;
    let mut state = site.state()?;
    let found = site.found(&state)?;
    site.progress
        .done("check", &format!("containerd {}, {}, KillMode=process", found.version, site.node.config.display()));
    let work = planned(site, install, &payload, &state, &found)?;
    let inputs = inputs(&payload, &work, &found);
    if let Some(failed) = state.failed.as_ref().filter(|failed| failed.inputs == inputs) {
        return Err(Fault::Remembered(failed.why.clone()));
    }
    if work.changes() || state.verified.is_none() {
        forget(site, &mut state, Some(Standing::Pending))?;
    }
    // Taking an edit back restarts containerd too.
    let held = if work.must_restart || work.undo.is_some() { site.turn()? } else { None };
    let shim = site.host.read(&site.shim())?;
    let done = carried_out(site, &payload, &work, &mut state, found.containerd);
    if let Err(why) = done {
        let why = one_line(&why);
        if !work.changes() {
            // Nothing to take back, and nothing that another try would restart.
            forget(site, &mut state, Some(Standing::Failed))?;
            return Err(Fault::Unverified(why));
        }
        let afterwards = taken_back(site, work, &mut state, shim);
        state.failed = Some(Failed { inputs, why: why.clone() });
        site.places.write(&site.host, &state)?;
        site.say(Some(Standing::Failed))?;
        return Err(Fault::TakenBack { why, afterwards });
    }
    site.host.remove(&site.places.previous_shim())?;
    state.failed = None;
    if let Some(edit) = &mut state.edit {
        edit.is_proven = true;
    }
    let version = env!("CARGO_PKG_VERSION").to_owned();
    state.verified = Some(Verified { version, shim: sha256(&payload.shim) });
    site.places.write(&site.host, &state)?;
    site.say(Some(Standing::Verified))?;
    drop(held);
    site.progress.done("install", "this node runs Wasm pods");
    Ok(())
}

/// The node is not verified any more, which its label says first.
pub(crate) fn forget(site: &Site, state: &mut State, standing: Option<Standing>) -> Result<(), Fault> {
    site.say(standing)?;
    state.verified = None;
    Ok(site.places.write(&site.host, state)?)
}

fn planned(site: &Site, install: &Install, payload: &Payload, state: &State, found: &Found) -> Result<Work, Fault> {
    let ours = state.edit.as_ref().map(|edit| edit.file.as_path());
    let change = found.files.with_runtime(&site.shim(), ours);
    let change = change.map_err(|error| Fault::Refused(Refusal::Config(error)))?;
    let installed = site.host.read(&site.shim())?;
    // What containerd serves is asked, since a killed run may have written without a restart.
    let is_served = Cri::of(&found.containerd).served().is_ok();
    let is_unread = |edit: &Edit| site.host.changed_at(&edit.file).is_some_and(|at| at > found.unit.started());
    let undo = match (&change, &state.edit) {
        (Some(change), _) => {
            let content = change.before.clone().map(String::into_bytes);
            Some(Undo { file: change.path.clone(), content, edit: state.edit.clone() })
        }
        // Of a run that was cut short.
        (None, Some(edit)) if !edit.is_proven => {
            let content = site.places.original(&site.host, edit)?;
            // Without its bytes the file stays as it is: better a runtime too many than a configuration lost.
            (content.is_some() || edit.before.is_none()).then(|| Undo { file: edit.file.clone(), content, edit: None })
        }
        _ => None,
    };
    Ok(Work {
        must_restart: change.is_some() || !is_served || state.edit.as_ref().is_some_and(is_unread),
        change,
        has_new_shim: installed.as_deref() != Some(&payload.shim),
        operator: operator(site, install, state)?,
        undo,
    })
}

/// A file that others wrote is not replaced.
fn operator(site: &Site, install: &Install, state: &State) -> Result<Operator, Fault> {
    let now = site.host.read(Path::new(OPERATOR_CONFIG))?;
    let is_ours = now.as_ref().is_some_and(|now| state.operator_config.as_deref() == Some(sha256(now).as_str()));
    let Some(path) = &install.operator_config else {
        return Ok(if is_ours { Operator::Removed } else { Operator::Kept });
    };
    let wanted = fs::read(path).map_err(|source| Fault::Payload { path: path.clone(), source })?;
    match now {
        Some(now) if now == wanted && is_ours => Ok(Operator::Kept),
        Some(now) if now != wanted && !is_ours => Err(Fault::Refused(Refusal::Operator)),
        _ => Ok(Operator::Written(wanted)),
    }
}

/// Everything that an install depends on.
fn inputs(payload: &Payload, work: &Work, found: &Found) -> String {
    let mut all = format!("{} {} {}", env!("CARGO_PKG_VERSION"), found.version, sha256(&payload.shim));
    for file in found.files.all() {
        all += &format!("\n{} {}", file.path.display(), sha256(file.text.as_bytes()));
    }
    if let Some(change) = &work.change {
        all += &format!("\n{} {}", change.path.display(), sha256(change.after.as_bytes()));
    }
    sha256(all.as_bytes())
}

fn carried_out(
    site: &Site,
    payload: &Payload,
    work: &Work,
    state: &mut State,
    containerd: Containerd,
) -> Result<(), Fault> {
    stage(site, payload, work, state)?;
    if let Some(change) = &work.change {
        edit(site, change, state)?;
    }
    let containerd = if work.must_restart { site.restart()? } else { containerd };
    site.verify(&containerd, &payload.wasm)
}

/// Puts the shim in its place; the one before stays beside it until this one is verified. Who runs it keeps its file.
fn stage(site: &Site, payload: &Payload, work: &Work, state: &mut State) -> Result<(), Fault> {
    if work.has_new_shim {
        let shim = site.shim();
        if let Some(previous) = site.host.read(&shim)? {
            site.host.write(&site.places.previous_shim(), &previous, Mode::Program)?;
        }
        site.host.write(&shim, &payload.shim, Mode::Program)?;
        site.progress.done("stage", &format!("{} (sha256 {})", shim.display(), &sha256(&payload.shim)[..12]));
    }
    let path = Path::new(OPERATOR_CONFIG);
    match &work.operator {
        Operator::Kept => {}
        Operator::Written(text) => {
            state.operator_config = Some(sha256(text));
            site.places.write(&site.host, state)?;
            site.host.write(path, text, Mode::Text)?;
            site.progress.done("stage", OPERATOR_CONFIG);
        }
        Operator::Removed => {
            site.host.remove(path)?;
            state.operator_config = None;
            site.places.write(&site.host, state)?;
        }
    }
    Ok(())
}

/// Writes the file; what it was, and what it will be, are written down before.
fn edit(site: &Site, change: &Change, state: &mut State) -> Result<(), Fault> {
    let is_ours = state.edit.as_ref().is_some_and(|edit| {
        edit.file == change.path && change.before.as_ref().is_some_and(|text| sha256(text.as_bytes()) == edit.after)
    });
    // An edit of our own file keeps the backup of what was there before the first one.
    if !is_ours && let Some(before) = &change.before {
        site.host.write(&site.places.backup(), before.as_bytes(), Mode::Text)?;
    }
    let before = match (&state.edit, is_ours) {
        (Some(edit), true) => edit.before.clone(),
        _ => change.before.as_ref().map(|text| sha256(text.as_bytes())),
    };
    state.edit = Some(Edit {
        file: change.path.clone(),
        before,
        after: sha256(change.after.as_bytes()),
        runtimes: change.runtimes.clone(),
        is_proven: false,
    });
    site.places.write(&site.host, state)?;
    site.host.write(&change.path, change.after.as_bytes(), Mode::Text)?;
    site.progress.done("edit", &format!("{} has the runtime `wasm`", change.path.display()));
    Ok(())
}

/// Undoes what an install did; says how the node is then.
fn taken_back(site: &Site, work: Work, state: &mut State, shim: Option<Vec<u8>>) -> String {
    let was_edited = work.undo.is_some();
    let undone = || -> Result<(), Fault> {
        if let Some(undo) = work.undo {
            match &undo.content {
                Some(content) => site.host.write(&undo.file, content, Mode::Text)?,
                None => site.host.remove(&undo.file)?,
            }
            state.edit = undo.edit;
            site.progress.done("undo", &format!("{} is as it was", undo.file.display()));
        }
        if work.has_new_shim {
            match &shim {
                Some(shim) => site.host.write(&site.shim(), shim, Mode::Program)?,
                None => site.host.remove(&site.shim())?,
            }
            site.host.remove(&site.places.previous_shim())?;
        }
        if was_edited || work.must_restart {
            site.restart()?;
        }
        Ok(())
    };
    match undone() {
        Ok(()) => "containerd runs as before".to_owned(),
        Err(error) => format!("and taking it back failed too: {}", one_line(&error)),
    }
}

/// The error with its causes.
pub(crate) fn one_line(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.ends_with(&cause_text) {
            text += &format!(": {cause_text}");
        }
        source = cause.source();
    }
    text
}
