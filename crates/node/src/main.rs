//! `wasm-node`: puts the Wasm runtime on a node of containerd, verifies that it runs, and takes it away again.
//! This file maps what happened to exit codes, and nothing else does: 0 done, 1 failed, 2 usage, 3 refused.

#![forbid(unsafe_code)]

mod args;
mod cluster;
mod config;
mod containerd;
mod cri;
mod facts;
mod host;
mod install;
mod kubernetes;
mod progress;
mod site;
mod state;
mod stay;
mod systemd;
mod uninstall;

use args::{Cli, Command, Status};
use clap::Parser;
use cluster::ClusterError;
use install::one_line;
use site::{Fault, Site};
use std::process::ExitCode;
use uninstall::Pods;

/// Nothing was changed.
const REFUSED: u8 = 3;

fn main() -> ExitCode {
    match run(&Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let refused = matches!(error.downcast_ref(), Some(Fault::Refused(_)))
                || matches!(error.downcast_ref(), Some(ClusterError::Pods(_)));
            eprintln!("wasm-node: {}", one_line(error.as_ref()));
            if refused { REFUSED.into() } else { ExitCode::FAILURE }
        }
    }
}

fn run(cli: &Cli) -> Result<(), anyhow::Error> {
    match &cli.command {
        Command::Install(args) if args.stay => Ok(stay::stay(Site::of_install(args)?, args)?),
        Command::Install(args) => Ok(install::install(&Site::of_install(args)?, args)?),
        Command::Uninstall(args) if args.cluster => Ok(cluster::uninstall(args)?),
        Command::Uninstall(args) => {
            let pods = if args.drain { Pods::Drain } else { Pods::Refuse };
            Ok(uninstall::uninstall(&Site::new(&args.node)?, pods)?)
        }
        Command::Verify(args) => Ok(stay::verified(&Site::new(args)?)?),
        Command::Status(args) => status(args),
        Command::Systemd { asked } => {
            print!("{}", systemd::answer(asked)?);
            Ok(())
        }
    }
}

fn status(args: &Status) -> Result<(), anyhow::Error> {
    let mut node = args.node.clone();
    // Kubernetes is not asked.
    node.name = None;
    let site = Site::new(&node)?;
    let state = site.state().map_err(Fault::from)?;
    if args.ready {
        // A verification by the pod before this one says nothing about what this one brings.
        let is_own = state.verified.is_some_and(|verified| verified.by == site.installer());
        return if is_own { Ok(()) } else { Err(Fault::Unverified("see its log".to_owned()).into()) };
    }
    let say = |what: &str, value: &str| site.progress.done(what, value);
    say(
        "shim",
        &if site.host.changed_at(&site.shim()).is_some() {
            site.shim().display().to_string()
        } else {
            "not installed".to_owned()
        },
    );
    say("config", &state.edit.as_ref().map_or("not edited".to_owned(), |edit| edit.file.display().to_string()));
    say(
        "verified",
        &state
            .verified
            .as_ref()
            .map_or("no".to_owned(), |verified| format!("version {}, sha256 {}", verified.version, &verified.shim)),
    );
    if let Some(failed) = site.places.failed(&site.host).map_err(Fault::from)? {
        site.progress.warn("failed", &failed.why);
    }
    Ok(())
}
