//! Staying: the node is verified again when something changed, and every five minutes; what broke is repaired.

use crate::args::Install;
use crate::host::HostError;
use crate::install::{forget, install, one_line};
use crate::kubernetes::Standing;
use crate::site::{Fault, Site};
use crate::state::State;
use crate::uninstall::{Pods, uninstall};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant, SystemTime};
use std::{io, process, thread};

/// Between two verifications of a node where nothing changed.
const PERIOD: Duration = Duration::from_secs(300);
/// After an install that failed or was refused: what it met may have passed. What was taken back is remembered.
const RETRY: Duration = Duration::from_secs(30);
/// Between two looks whether something changed: a few calls of stat(2).
const LOOK: Duration = Duration::from_secs(1);

/// When the files changed that a verification depends on: containerd's socket is new after a restart.
type Seen = Vec<Option<SystemTime>>;

/// A site, and the right to work on it: of the thread that stays, until the one that leaves wants it.
#[derive(Debug)]
struct Stay {
    site: Site,
    work: Mutex<()>,
}

/// Installs, and ends by a signal only. As process 1 of a container it has no signal's default.
pub(crate) fn stay(site: Site, args: &Install) -> io::Result<()> {
    let mut signals = Signals::new([SIGTERM, SIGINT])?;
    let stay = Arc::new(Stay { site, work: Mutex::default() });
    let of_signals = Arc::clone(&stay);
    thread::spawn(move || {
        signals.forever().next();
        of_signals.site.ends.store(true, Ordering::SeqCst);
        of_signals.leave();
        process::exit(0);
    });
    let mut told = String::new();
    while !stay.ends() {
        stay.once(args, &mut told);
    }
    // The other thread ends all of it.
    loop {
        thread::park();
    }
}

impl Stay {
    fn ends(&self) -> bool {
        self.site.ends.load(Ordering::SeqCst)
    }

    fn at_work(&self) -> MutexGuard<'_, ()> {
        self.work.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Installs, and waits until there is something to do. What went wrong is told once.
    fn once(&self, args: &Install, told: &mut String) {
        let site = &self.site;
        let installed = {
            let _at_work = self.at_work();
            let installed = if self.ends() { Ok(()) } else { install(site, args) };
            let said = installed.as_ref().err().map(|fault| one_line(fault)).unwrap_or_default();
            if let Err(fault) = installed.as_ref()
                && said != *told
                && !self.ends()
            {
                tell(site, fault, Standing::Failed);
            }
            *told = said;
            installed.is_ok()
        };
        let watched = watched(site);
        let seen = seen(site, &watched);
        loop {
            let until = Instant::now() + if installed { PERIOD } else { RETRY };
            let changed = || self::seen(site, &watched) != seen;
            while Instant::now() < until && !changed() && !self.ends() {
                thread::sleep(LOOK);
            }
            let _at_work = self.at_work();
            if self.ends() || !installed {
                return;
            }
            if changed() {
                let said = "containerd, its configuration or the shim changed: the node is verified again";
                site.progress.doing("stay", said);
                return unlabel(site);
            }
            if !holds(site) {
                return unlabel(site);
            }
        }
    }

    /// Cleans the node if the DaemonSet no longer wants it; else the next pod goes on, or the cluster's uninstall does. What
    /// the other thread is in the middle of comes to its end, but for waiting for its turn.
    fn leave(&self) {
        let site = &self.site;
        let (Some(node), Some(daemonset)) = (&site.label, &site.daemonset) else { return };
        match node.is_deselected_by(daemonset) {
            Ok(true) => {}
            Ok(false) => return drop(self.at_work()),
            Err(error) => {
                site.progress.warn("leave", &one_line(&error));
                return drop(self.at_work());
            }
        }
        let said = "the DaemonSet does not select this node any more: it is cleaned in its turn";
        site.progress.doing("leave", said);
        let _at_work = self.at_work();
        // Before the turn, for which it may wait longer than a pod may take to end: no more pods come to it, and the cluster's
        // uninstall finds it by its label.
        let told = site.say(Some(Standing::Pending)).and_then(|()| node.warn("WasmUninstallPending", said));
        if let Err(error) = told {
            site.progress.warn("label", &one_line(&error));
        }
        let turn = site.turn_unless(&AtomicBool::new(false));
        if let Err(fault) = turn.map_err(Fault::from).and_then(|_turn| uninstall(site, Pods::Refuse)) {
            tell(site, &fault, Standing::Pending);
        }
    }
}

/// What a verification depends on, by its files.
fn watched(site: &Site) -> Vec<PathBuf> {
    let State { edit, loaded, .. } = site.state().unwrap_or_default();
    let paths = [site.node.socket.clone(), site.node.config.clone(), site.shim(), site.places.state()];
    paths.into_iter().chain(edit.map(|edit| edit.file)).chain(loaded.into_keys()).collect()
}

fn seen(site: &Site, watched: &[PathBuf]) -> Seen {
    watched.iter().map(|path| site.host.changed_at(path)).collect()
}

fn holds(site: &Site) -> bool {
    match verified(site) {
        // Somebody looks after it by hand.
        Ok(()) | Err(Fault::Host(HostError::Busy(_))) => true,
        Err(fault) => {
            site.progress.warn("verify", &one_line(&fault));
            false
        }
    }
}

/// Verifies the node as it is.
pub(crate) fn verified(site: &Site) -> Result<(), Fault> {
    let _lock = site.host.lock(&site.places.lock())?;
    site.verify_as_it_is()
}

fn unlabel(site: &Site) {
    // A state that cannot be read is not written over: it knows what was edited.
    let state = site.state().map_err(Fault::from);
    if let Err(fault) = state.and_then(|mut state| forget(site, &mut state, Some(Standing::Pending))) {
        tell(site, &fault, Standing::Failed);
    }
}

/// Tells what went wrong where an operator looks: the log, the pod's readiness, the node's label and its events.
fn tell(site: &Site, fault: &Fault, standing: Standing) {
    let message = one_line(fault);
    site.progress.tell("install", crate::progress::State::Failed, &message);
    if let Ok(mut state) = site.state()
        && state.verified.take().is_some()
        && let Err(error) = site.places.write(&site.host, &state)
    {
        site.progress.warn("state", &one_line(&error));
    }
    if let Some(node) = &site.label {
        if !matches!(fault, Fault::Kubernetes(_)) && node.label(Some(standing)).is_err() {
            site.progress.warn("label", "the API server does not take the label");
        }
        if let Err(error) = node.warn("WasmInstallFailed", &message) {
            site.progress.warn("event", &one_line(&error));
        }
    }
}
