//! Installing: every step can be killed after any other, and the next run goes on; what fails is taken back.
//! Order: lock, refuse, label pending, stage the shim, edit, restart, verify, label verified last.

use crate::args::Install;
use crate::config::{Change, Files, defines, without};
use crate::containerd::Containerd;
use crate::cri::Cri;
use crate::host::{HostError, Mode, sha256};
use crate::kubernetes::Standing;
use crate::site::{Fault, Found, OPERATOR_CONFIG, PATIENCE, Payload, Refusal, Site};
use crate::state::{Edit, Failed, State, Verified};
use crate::uninstall::undo_edit;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

#[cfg(test)]
#[path = "install_tests.rs"]
mod tests;

/// What is to be done to a node, and what there was before.
#[derive(Debug)]
struct Work {
    change: Option<Change>,
    has_new_shim: bool,
    must_restart: bool,
    operator: Operator,
    before: Before,
}

/// What is given back if it fails.
#[derive(Debug)]
struct Before {
    /// The shim; of a run that was cut short, the one before that.
    shim: Option<Vec<u8>>,
    /// Whether a run was cut short that had brought a shim.
    is_shim_unproven: bool,
    /// The operator file; of a run that was cut short, the one before that.
    operator: Option<Vec<u8>>,
    /// Whether a run was cut short that had written or removed it.
    is_operator_unproven: bool,
    /// The configuration, once it is edited; of a run that was cut short, from the beginning.
    edited: Option<Undo>,
}

impl Work {
    fn changes(&self) -> bool {
        let Before { is_shim_unproven, is_operator_unproven, edited, .. } = &self.before;
        let is_unproven = *is_shim_unproven || *is_operator_unproven || edited.is_some();
        self.has_new_shim || self.must_restart || self.operator != Operator::Kept || is_unproven
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
    let mut work = planned(site, install, &payload, &state, &found)?;
    let loaded = loaded(&found.files, work.change.as_ref());
    let inputs = inputs(site, &payload, &loaded, &work.operator, &found.version)?;
    if let Some(failed) = site.places.failed(&site.host)?.filter(|failed| failed.inputs == inputs) {
        return Err(Fault::Remembered { why: failed.why, file: site.places.failure() });
    }
    let is_as_it_was = state.verified.as_ref().is_some_and(|verified| verified.started_us == found.unit.started_us);
    if work.changes() || !is_as_it_was {
        forget(site, &mut state, Some(Standing::Pending))?;
    }
    // Taking an edit back restarts containerd too.
    let held = if work.must_restart || work.before.edited.is_some() { site.turn()? } else { None };
    if let Err(why) = carried_out(site, &payload, &mut work, &mut state, found.containerd) {
        let why = one_line(&why);
        if !work.changes() {
            // Nothing to take back, and nothing that another try would restart.
            forget(site, &mut state, Some(Standing::Failed))?;
            return Err(Fault::Unverified(why));
        }
        let afterwards = taken_back(site, work, &mut state);
        site.places.remember(&site.host, &Failed { inputs, why: why.clone() })?;
        site.places.write(&site.host, &state)?;
        site.say(Some(Standing::Failed))?;
        return Err(Fault::TakenBack { why, afterwards });
    }
    for done_with in [site.places.previous_shim(), site.places.previous_operator(), site.places.failure()] {
        site.host.remove(&done_with)?;
    }
    if let Some(edit) = &mut state.edit {
        edit.is_proven = true;
    }
    match &work.operator {
        Operator::Kept => {}
        Operator::Written(text) => state.operator_config = vec![sha256(text)],
        Operator::Removed => state.operator_config.clear(),
    }
    state.loaded = loaded;
    state.verified = Some(Verified {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        shim: sha256(&payload.shim),
        started_us: site.systemd.show(&site.node.unit)?.started_us,
        by: site.installer(),
    });
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
    for path in change.iter().map(|change| change.path.as_path()).chain([site.shim().as_path()]) {
        site.host.writable(path).map_err(|error| Fault::Refused(Refusal::Unwritable(error)))?;
    }
    let installed = site.host.read(&site.shim())?;
    let ruled = site.host.read(Path::new(OPERATOR_CONFIG))?;
    let is_unread = |edit: &Edit| site.host.changed_at(&edit.file).is_some_and(|at| at > found.unit.started());
    let edited = match &state.edit {
        // Of a run that was cut short, unless the file is edited anew.
        Some(edit) if !edit.is_proven && change.is_none() => {
            let content = site.places.original(&site.host, edit)?;
            // Without its bytes the file stays as it is: better a runtime too many than a configuration lost.
            (content.is_some() || edit.before.is_none()).then(|| Undo { file: edit.file.clone(), content, edit: None })
        }
        _ => None,
    };
    Ok(Work {
        // What containerd serves is asked, since a killed run may have written without a restart.
        must_restart: change.is_some()
            || !Cri::of(&found.containerd).serves_within(PATIENCE)?
            || state.edit.as_ref().is_some_and(is_unread),
        change,
        has_new_shim: installed.as_deref() != Some(&payload.shim),
        operator: operator(ruled.as_deref(), install, state)?,
        before: before(site, installed, ruled, edited)?,
    })
}

/// What is given back: this, or what a run that was cut short has kept of it.
fn before(
    site: &Site,
    shim: Option<Vec<u8>>,
    operator: Option<Vec<u8>>,
    edited: Option<Undo>,
) -> Result<Before, HostError> {
    let [kept_shim, kept_operator] =
        [site.places.previous_shim(), site.places.previous_operator()].map(|path| site.host.read(&path));
    let (kept_shim, kept_operator) = (kept_shim?, kept_operator?);
    // What was not there is kept as an empty file.
    let of_kept = |bytes: Vec<u8>| (!bytes.is_empty()).then_some(bytes);
    Ok(Before {
        is_shim_unproven: kept_shim.is_some(),
        shim: kept_shim.map_or(shim, of_kept),
        is_operator_unproven: kept_operator.is_some(),
        operator: kept_operator.map_or(operator, of_kept),
        edited,
    })
}

/// A file that others wrote is neither replaced nor taken for ours.
fn operator(now: Option<&[u8]>, install: &Install, state: &State) -> Result<Operator, Fault> {
    let is_ours = now.is_some_and(|now| state.operator_config.contains(&sha256(now)));
    let Some(path) = &install.operator_config else {
        return Ok(if is_ours { Operator::Removed } else { Operator::Kept });
    };
    let wanted = fs::read(path).map_err(|source| Fault::Payload { path: path.clone(), source })?;
    match now {
        Some(now) if now == wanted => Ok(Operator::Kept),
        Some(_) if !is_ours => Err(Fault::Refused(Refusal::Operator)),
        _ => Ok(Operator::Written(wanted)),
    }
}

/// The configuration that containerd has loaded once the node is verified, by the hashes of its files.
fn loaded(files: &Files, change: Option<&Change>) -> BTreeMap<PathBuf, String> {
    let files = files.all().map(|file| (file.path.clone(), &file.text));
    let changed = change.map(|change| (change.path.clone(), &change.after));
    files.chain(changed).map(|(path, text)| (path, sha256(text.as_bytes()))).collect()
}

/// Everything that an install comes to: the same for a run that goes on where another was killed.
fn inputs(
    site: &Site,
    payload: &Payload,
    loaded: &BTreeMap<PathBuf, String>,
    operator: &Operator,
    containerd: &str,
) -> Result<String, HostError> {
    let [shim, wasm] = [&payload.shim, &payload.wasm].map(|bytes| sha256(bytes));
    let mut all = format!("{} {containerd} {shim} {wasm} {}", env!("CARGO_PKG_VERSION"), site.node.unit);
    for (path, hash) in loaded {
        all += &format!("\n{} {hash}", path.display());
    }
    let ruled = match operator {
        Operator::Kept => site.host.read(Path::new(OPERATOR_CONFIG))?,
        Operator::Written(text) => Some(text.clone()),
        Operator::Removed => None,
    };
    all += &format!("\n{OPERATOR_CONFIG} {:?}", ruled.as_deref().map(sha256));
    Ok(sha256(all.as_bytes()))
}

fn carried_out(
    site: &Site,
    payload: &Payload,
    work: &mut Work,
    state: &mut State,
    containerd: Containerd,
) -> Result<(), Fault> {
    stage(site, payload, work, state)?;
    if let Some(change) = &work.change {
        edit(site, change, &mut work.before.edited, state)?;
    }
    let containerd = if work.must_restart { site.restart()? } else { containerd };
    site.verify(&containerd, &payload.wasm)
}

/// Puts the shim in its place; the one before stays beside it until this one is verified. Who runs it keeps its file.
fn stage(site: &Site, payload: &Payload, work: &Work, state: &mut State) -> Result<(), Fault> {
    if work.has_new_shim {
        let shim = site.shim();
        let before = work.before.shim.as_deref().unwrap_or_default();
        site.host.write(&site.places.previous_shim(), before, Mode::Program)?;
        site.host.write(&shim, &payload.shim, Mode::Program)?;
        site.progress.done("stage", &format!("{} (sha256 {})", shim.display(), &sha256(&payload.shim)[..12]));
    }
    let path = Path::new(OPERATOR_CONFIG);
    if work.operator != Operator::Kept {
        let before = work.before.operator.as_deref().unwrap_or_default();
        site.host.write(&site.places.previous_operator(), before, Mode::Text)?;
    }
    match &work.operator {
        Operator::Kept => {}
        Operator::Written(text) => {
            // Both the old one and this are ours until the node is verified.
            state.operator_config.push(sha256(text));
            site.places.write(&site.host, state)?;
            site.host.write(path, text, Mode::Text)?;
            site.progress.done("stage", OPERATOR_CONFIG);
        }
        Operator::Removed => {
            site.host.remove(path)?;
            site.progress.done("stage", &format!("{OPERATOR_CONFIG} is removed"));
        }
    }
    Ok(())
}

/// Writes the file; what it was, and what it will be, are written down before.
fn edit(site: &Site, change: &Change, undo: &mut Option<Undo>, state: &mut State) -> Result<(), Fault> {
    if state.edit.as_ref().is_some_and(|edit| edit.file != change.path) {
        // containerd does not read that file any more.
        undo_edit(site, state)?;
        state.edit = None;
        site.places.write(&site.host, state)?;
    }
    let content = change.before.clone().map(String::into_bytes);
    *undo = Some(Undo { file: change.path.clone(), content, edit: state.edit.clone() });
    let hash = |text: &String| sha256(text.as_bytes());
    let mut runtimes = change.runtimes.clone();
    let before = match &state.edit {
        // An edit of our own file keeps the backup of what was there before the first one.
        Some(edit) if change.before.as_ref().is_some_and(|text| hash(text) == edit.after) => {
            runtimes.extend(edit.runtimes.iter().filter(|name| !change.runtimes.contains(name)).cloned());
            edit.before.clone()
        }
        known => {
            let mut original = change.before.clone();
            // Others have written it anew, with our table in it: that is no part of what is given back.
            if let (Some(edit), Some(text)) = (known, &change.before)
                && defines(text, &change.path)?
            {
                original = without(text, &change.path, &edit.runtimes)?;
                runtimes.extend(edit.runtimes.iter().filter(|name| !change.runtimes.contains(name)).cloned());
            }
            if let Some(original) = &original {
                site.host.write(&site.places.backup(), original.as_bytes(), Mode::Text)?;
            }
            original.as_ref().map(hash)
        }
    };
    let after = hash(&change.after);
    state.edit = Some(Edit { file: change.path.clone(), before, after, runtimes, is_proven: false });
    site.places.write(&site.host, state)?;
    site.host.write(&change.path, change.after.as_bytes(), Mode::Text)?;
    site.progress.done("edit", &format!("{} has the runtime `wasm`", change.path.display()));
    Ok(())
}

/// Undoes what an install did; says how the node is then.
fn taken_back(site: &Site, work: Work, state: &mut State) -> String {
    let Before { shim, is_shim_unproven, operator, is_operator_unproven, edited } = work.before;
    let put = |path: &Path, content: &Option<Vec<u8>>, mode: Mode| match content {
        Some(content) => site.host.write(path, content, mode),
        None => site.host.remove(path),
    };
    let undone = || -> Result<(), Fault> {
        if work.operator != Operator::Kept || is_operator_unproven {
            put(Path::new(OPERATOR_CONFIG), &operator, Mode::Text)?;
            site.host.remove(&site.places.previous_operator())?;
        }
        if work.has_new_shim || is_shim_unproven {
            put(&site.shim(), &shim, Mode::Program)?;
            site.host.remove(&site.places.previous_shim())?;
        }
        if let Some(undo) = edited {
            put(&undo.file, &undo.content, Mode::Text)?;
            state.edit = undo.edit;
            site.progress.done("undo", &format!("{} is as it was", undo.file.display()));
            site.restart()?;
        }
        Ok(())
    };
    match undone() {
        // What is there now is an earlier install's.
        Ok(()) if state.edit.is_some() => match site.verify_as_it_is() {
            Ok(()) => "containerd runs as before, and ran a Wasm pod".to_owned(),
            Err(error) => format!("as it was before, it does not run Wasm pods either: {}", one_line(&error)),
        },
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
