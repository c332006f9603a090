//! Where the checkout is that a test belongs to: the one it runs in, not the one that it was built in. Checkouts share
//! built artifacts, and cargo knows those by a path inside the workspace.

use std::path::PathBuf;

/// The workspace's folder, which the working directory is in, as it is under `cargo test`.
pub fn root() -> PathBuf {
    let here = std::env::current_dir().expect("a test is not run in a removed folder");
    let found = here.ancestors().find(|folder| folder.join("Cargo.lock").is_file());
    found.unwrap_or_else(|| panic!("{} is in no workspace: run the tests in a checkout", here.display())).to_owned()
}

/// The folder of one of its crates.
pub fn of_crate(name: &str) -> PathBuf {
    root().join("crates").join(name)
}
