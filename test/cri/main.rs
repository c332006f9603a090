//! Pods through the CRI of real containerds: sandboxes, containers and their ends as a kubelet sees them. Each case runs on
//! containerd 1.7 and 2.4, the main path also on 2.1 and 2.3.

mod annotations;
mod churn;
mod exec;
mod images;
mod lifecycle;
mod linux;
mod logs;
mod mounts;
mod resources;
mod restarts;
mod sandbox;
mod security;
mod systemd;
mod terminals;

use std::process::ExitCode;
use testkit::node::Feature;
use testkit::suite::Case;
use testkit::{Suite, Version};

/// Cases with their names.
type Cases = &'static [(&'static str, Case)];

fn main() -> ExitCode {
    let current = [Version::V1_7, Version::V2_4];
    let between = [Version::V2_1, Version::V2_3];
    let every = [current, between].concat();
    let cases = [
        sandbox::CASES,
        lifecycle::CASES,
        linux::CASES,
        exec::CASES,
        terminals::CASES,
        security::CASES,
        resources::CASES,
        mounts::CASES,
        annotations::CASES,
        logs::CASES,
        restarts::CASES,
        churn::CASES,
    ];
    let suite = Suite::new(env!("CARGO_BIN_EXE_containerd-shim-wasm-v1")).of_pods();
    let suite = cases.into_iter().fold(suite, |suite, cases| suite.on(&current, cases));
    suite
        .on(&[Version::V2_4], mounts::OF_NEWER_VERSIONS)
        .on(&between, lifecycle::CASES)
        .on(&between, logs::CASES)
        .on(&between, restarts::CASES)
        .on(&every, images::CASES)
        .on_nodes_with(Feature::Systemd, &[Version::V2_4], systemd::CASES)
        .run()
}
