//! Staying: the node is verified again when something changed, and every five minutes; what broke is repaired.

use crate::args::Install;
use crate::containerd::Containerd;
use crate::host::HostError;
use crate::install::{forget, install, one_line};
use crate::kubernetes::Standing;
use crate::site::{Fault, Site};
use crate::uninstall::{Pods, uninstall};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
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

/// Installs, and ends by a signal only. As process 1 of a container it has no signal's default.
pub(crate) fn stay(site: Site, args: &Install) -> io::Result<()> {
    let mut signals = Signals::new([SIGTERM, SIGINT])?;
    let site = Arc::new(site);
    let leaves = Arc::new(AtomicBool::new(false));
    let (leaving, of_signals) = (Arc::clone(&leaves), Arc::clone(&site));
    thread::spawn(move || {
        signals.forever().next();
        leaving.store(true, Ordering::SeqCst);
        leave(&of_signals);
        // What the other thread is in the middle of may be cut short like this, at any step.
        process::exit(0);
    });
    let mut told = String::new();
    while !leaves.load(Ordering::SeqCst) {
        once(&site, args, &mut told);
    }
    // The other thread ends all of it.
    loop {
        thread::park();
    }
}

/// Installs, and waits until there is something to do. What went wrong is told once.
fn once(site: &Site, args: &Install, told: &mut String) {
    let installed = install(site, args);
    let said = installed.as_ref().err().map(|fault| one_line(fault)).unwrap_or_default();
    if let Err(fault) = installed.as_ref()
        && said != *told
    {
        tell(site, fault);
    }
    *told = said;
    let seen = seen(site);
    loop {
        let until = Instant::now() + if installed.is_ok() { PERIOD } else { RETRY };
        while Instant::now() < until && self::seen(site) == seen {
            thread::sleep(LOOK);
        }
        let changed = self::seen(site) != seen;
        if changed && installed.is_ok() {
            let said = "containerd, its configuration or the shim changed: the node is verified again";
            site.progress.doing("stay", said);
        }
        match installed {
            Err(_) => return,
            Ok(()) if changed || !holds(site) => return unlabel(site),
            Ok(()) => {}
        }
    }
}

/// Cleans the node if the DaemonSet no longer wants it; else the next pod goes on, or the cluster's uninstall does.
fn leave(site: &Site) {
    let (Some(node), Some(daemonset)) = (&site.label, &site.daemonset) else { return };
    match node.is_deselected_by(daemonset) {
        Ok(true) => {}
        Ok(false) => return,
        Err(error) => return site.progress.warn("leave", &one_line(&error)),
    }
    site.progress.doing("leave", "the DaemonSet does not select this node any more: it is cleaned");
    let cleaned = site.turn().map_err(Fault::from).and_then(|_turn| {
        loop {
            match uninstall(site, Pods::Refuse) {
                // The other thread's, which is at its end soon: it is not to be cut short by this.
                Err(Fault::Host(HostError::Busy(_))) => thread::sleep(LOOK),
                done => break done,
            }
        }
    });
    if let Err(fault) = cleaned {
        // No more pods come to it; the cluster's uninstall finds it by its label.
        tell_as(site, &fault, Standing::Pending);
    }
}

fn seen(site: &Site) -> Seen {
    let state = site.state().unwrap_or_default();
    let edited = state.edit.map(|edit| edit.file);
    let paths: [Option<PathBuf>; 4] =
        [Some(site.node.socket.clone()), Some(site.node.config.clone()), Some(site.shim()), edited];
    paths.iter().flatten().map(|path| site.host.changed_at(path)).collect()
}

fn holds(site: &Site) -> bool {
    match verified(site) {
        Ok(()) => true,
        Err(fault) => {
            site.progress.warn("verify", &one_line(&fault));
            false
        }
    }
}

/// Verifies the node as it is.
pub(crate) fn verified(site: &Site) -> Result<(), Fault> {
    let _lock = site.host.lock(&site.places.lock())?;
    let containerd = Containerd::connect(&site.host, &site.node.socket)?;
    site.verify(&containerd, &site.verifying_wasm()?)
}

fn unlabel(site: &Site) {
    // A state that cannot be read is not written over: it knows what was edited.
    let state = site.state().map_err(Fault::from);
    if let Err(fault) = state.and_then(|mut state| forget(site, &mut state, Some(Standing::Pending))) {
        tell(site, &fault);
    }
}

fn tell(site: &Site, fault: &Fault) {
    tell_as(site, fault, Standing::Failed);
}

fn tell_as(site: &Site, fault: &Fault, standing: Standing) {
    let message = one_line(fault);
    site.progress.tell("install", crate::progress::State::Failed, &message);
    if let Some(node) = &site.label {
        if !matches!(fault, Fault::Kubernetes(_)) && node.label(Some(standing)).is_err() {
            site.progress.warn("label", "the API server does not take the label");
        }
        if let Err(error) = node.warn("WasmInstallFailed", &message) {
            site.progress.warn("event", &one_line(&error));
        }
    }
}
