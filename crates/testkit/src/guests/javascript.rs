//! Builds components of JavaScript, with componentize-js in a folder of the cache.

use super::toolchain::run;
use super::wit;
use crate::store;
use anyhow::{Context, Result};
use std::fs;
use std::path::Path;
use std::process::Command;

/// The tool, and what it works with, which it would take the newest of.
const PACKAGES: [&str; 2] = ["@bytecodealliance/componentize-js@0.23.0", "@bytecodealliance/jco@1.35.0"];
const SCRIPT: &str = include_str!("componentize.mjs");
const INSTALL: &str = "run `make deps`, or install Node.js 18 or newer with npm";

/// A service of `wasi:http/proxy`: the source exports an `incomingHandler`.
pub(super) fn proxy(path: &Path, source: &[u8]) -> Result<Vec<u8>> {
    let world = wit::world("wasi:http/proxy");
    let tool = PACKAGES.join(" ");
    let key = store::key(&[b"javascript", tool.as_bytes(), SCRIPT.as_bytes(), world.as_bytes(), source]);
    store::cached("guests", &format!("{key}.wasm"), |output| {
        let version = &store::key(&[tool.as_bytes()])[..16];
        let folder = store::installed("javascript", &format!("componentize-js-{version}"), |folder| {
            // With a manifest in it, npm takes this folder and none above it.
            fs::write(folder.join("package.json"), "{\"private\": true}\n")?;
            let mut npm = Command::new("npm");
            npm.args(["install", "--no-audit", "--no-fund", "--no-package-lock", "--save-exact"]).args(PACKAGES);
            run(npm.current_dir(folder), INSTALL)?;
            Ok(())
        })
        .context("install componentize-js")?;
        let mut node = Command::new("node");
        node.args(["--input-type=module", "--eval", SCRIPT]).arg(path).arg(wit::folder()?).arg(world).arg(output);
        run(node.current_dir(folder), INSTALL)?;
        Ok(())
    })
}
