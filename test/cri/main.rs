//! Pods through the CRI of real containerds: sandboxes, containers and their ends as a kubelet sees them. Each case runs on
//! containerd 1.7 and 2.4.

mod lifecycle;
mod sandbox;

use std::process::ExitCode;
use testkit::suite::Case;
use testkit::{Suite, Version};

/// Cases with their names.
type Cases = &'static [(&'static str, Case)];

fn main() -> ExitCode {
    let versions = [Version::V1_7, Version::V2_4];
    Suite::new(env!("CARGO_BIN_EXE_containerd-shim-wasm-v1"))
        .of_pods()
        .on(&versions, sandbox::CASES)
        .on(&versions, lifecycle::CASES)
        .run()
}
