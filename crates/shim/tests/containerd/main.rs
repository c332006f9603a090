//! The Task API against real containerds: an image goes in, and what a user, a client and the node see comes out.
//! Each row of the promises has a case; each case runs on each version.

mod cache;
mod confinement;
mod connections;
mod deaths;
mod disks;
mod exec;
mod exports;
mod files;
mod group;
mod h2;
mod hooks;
mod http;
mod images;
mod leftovers;
mod lifecycle;
mod limits;
mod load;
mod loggers;
mod memory;
mod mounts;
mod network;
mod output;
mod profiles;
mod refusals;
mod resources;
mod restarts;
mod signals;
mod sockets;
mod systemd;
mod terminals;
mod upgrade;
mod users;
mod wasi3;
mod web;

use std::process::ExitCode;
use testkit::node::Feature;
use testkit::{Suite, Version, cases};

fn main() -> ExitCode {
    let current = [Version::V1_7, Version::V2_4];
    let every = [Version::V1_6, Version::V1_7, Version::V2_4];
    Suite::new(env!("CARGO_BIN_EXE_containerd-shim-wasm-v1"))
        .on(&every, cases![output::hello_from_a_file, output::exit_codes, signals::kill_while_running])
        .on(&current, output::CASES)
        .on(&current, exports::CASES)
        .on(&current, exec::CASES)
        .on(&current, terminals::CASES)
        .on(&current, wasi3::CASES)
        .on(&current, images::CASES)
        .on(&current, files::CASES)
        .on(&current, mounts::CASES)
        .on(&current, memory::CASES)
        .on(&current, limits::CASES)
        .on(&current, loggers::CASES)
        .on(&current, hooks::CASES)
        .on(&current, users::CASES)
        .on(&current, http::CASES)
        .on(&current, connections::CASES)
        .on(&current, network::CASES)
        .on(&current, sockets::CASES)
        .on(&current, load::CASES)
        .on(&current, signals::CASES)
        .on(&current, lifecycle::CASES)
        .on(&current, group::CASES)
        .on(&current, confinement::CASES)
        .on(&current, profiles::CASES)
        .on(&current, profiles::apparmor_cases())
        .on(&current, cache::CASES)
        .on(&current, refusals::CASES)
        .on(&[Version::V1_7], cases![refusals::a_config_that_is_no_spec])
        .on(&current, resources::CASES)
        .on_nodes_with(Feature::Systemd, &[Version::V2_4], systemd::CASES)
        .on(&current, leftovers::CASES)
        .on(&current, deaths::CASES)
        .on(&current, disks::CASES)
        .on(&current, restarts::CASES)
        .on(&current, upgrade::CASES)
        .run()
}

/// A list of cases of a module.
type Cases = &'static [(&'static str, testkit::suite::Case)];
