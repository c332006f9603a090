//! From a run plan to a running guest: compiles wasm ahead of time, keeps the compiled code, links, grants and runs.
//! The only crate that names wasmtime. It knows neither containerd nor OCI nor how the process was isolated.
//!
//! The order of use, over three processes:
//!
//! 1. The shim asks the [`Cache`] for the artifact of a wasm. If there is none, [`Cache::begin`] gives the descriptors
//!    that a child process needs to [`compile`], and [`Cache::commit`] takes the result in.
//! 2. The container process calls [`Host::load`], on the host that the shim made, while it still is root and sees the
//!    node, [`Loaded::grant`] once it is confined, and [`Guest::run`] at the word to start.
//!
//! Invariant: no process here compiles and forks afterwards. The compiler's thread pool would not survive the fork.

#![deny(unsafe_code)]

mod artifact;
mod budget;
mod cache;
mod call;
mod compile;
mod config;
mod end;
mod errno;
mod grant;
mod hash;
mod http;
mod key;
mod link;
mod network;
mod p1;
mod p2;
mod p3;
mod program;
mod run;
mod signals;
mod stdio;
mod ticker;

pub use artifact::Artifact;
pub use cache::{Cache, CacheError, Pending};
pub use compile::{CompileJob, compile};
pub use config::{Metering, Role, Variant, config};
pub use hash::{HashError, hash};
pub use key::ArtifactKey;
pub use link::{Host, Interrupter, Loaded};
pub use run::Guest;
pub use stdio::Stdio;
