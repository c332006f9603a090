//! What the tests stand on: guests, image tars, a private containerd of each version, a client of its API, and a look
//! at what processes and files are there. It is only ever a dev-dependency, and decides nothing about the product.
//!
//! A test binary (`harness = false`) hands its cases to [`Suite`], which runs each of them on each version of
//! containerd in a [`Namespace`] of its own, and closes with a case per version that looks for leftovers.
//!
//! A test binary may run on another machine than the one that built it (`test/vm.sh`). The environment tells it where
//! things are there:
//!
//! | variable | what it names |
//! |---|---|
//! | `WASM_TEST_SHIM` | the shim under test, instead of the one built beside the test ([`Suite::new`]) |
//! | `WASM_TEST_CRICTL` | a folder with `crictl` and its configuration, since there is no checkout ([`cri`]) |
//! | `WASM_TEST_GUESTS` | a folder of built guests, since there is no toolchain ([`guests`]) |
//! | `WASM_TEST_PATIENCE` | how many times longer than usual things may take ([`wait`]) |
//! | `WASM_TEST_NODE` | what the node must have ([`node`]) |
//! | `XDG_CACHE_HOME` | the cache with the versions of containerd ([`store`]) |

#![forbid(unsafe_code)]

pub mod api;
pub mod checkout;
pub mod cluster;
pub mod containerd;
pub mod cri;
pub mod disk;
pub mod fifo;
pub mod floors;
pub mod fuzz;
pub mod guests;
pub mod image;
pub mod kit;
pub mod leftovers;
pub mod names;
pub mod namespace;
pub mod node;
pub mod process;
pub mod random;
pub mod registry;
pub mod run;
pub mod runtime;
pub mod spec;
pub mod store;
pub mod suite;
pub mod task;
pub mod wait;

pub use containerd::{Containerd, Version};
pub use image::Image;
pub use namespace::Namespace;
pub use runtime::Runtime;
pub use suite::Suite;
