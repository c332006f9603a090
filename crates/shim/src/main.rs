//! `containerd-shim-wasm-v1`: the shim behind the runtime type `io.containerd.wasm.v1`.
//! This room only picks the action; each action is a room of its own.

#![forbid(unsafe_code)]

mod address;
mod args;
mod artifact;
mod bootstrap;
mod delete;
mod events;
mod info;
mod log;
mod metrics;
mod runc;
mod server;
mod service;
mod spawner;
mod start;
mod task;
mod wire;

use args::{Action, Args};
use std::process::ExitCode;

fn main() -> ExitCode {
    let done = Args::parse(std::env::args().skip(1)).map_err(anyhow::Error::from).and_then(run);
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("containerd-shim-wasm-v1: {}", plan::one_line(error.as_ref()));
            ExitCode::FAILURE
        }
    }
}

fn run(args: Args) -> anyhow::Result<()> {
    match args.action {
        Action::Start => start::start(args),
        Action::Delete => delete::delete(&args),
        Action::Info => info::info(),
        Action::Version => info::version(),
    }
}
