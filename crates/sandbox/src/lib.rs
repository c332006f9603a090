//! Linux around a guest: namespaces, cgroups, mounts, identity, seccomp, stdio, and the processes themselves.
//! It knows neither wasm nor containerd: it is given a plan and a body to run inside.

mod apparmor;
mod capabilities;
pub mod cgroup;
pub mod channel;
pub mod children;
pub mod compiler;
pub mod console;
pub mod container;
pub mod errand;
pub mod hooks;
mod identity;
pub mod logger;
mod mounts;
mod namespaces;
pub mod pause;
pub mod process;
mod record;
pub mod rootfs;
mod seccomp;
pub mod signals;
pub mod stdio;
mod syscall;
mod user_namespace;

pub use channel::{Channel, ChannelError, Orders};
pub use process::{Child, Ended};
pub use record::{Record, RecordError, Runtime};
