//! Builds components of Python, with componentize-py in a virtual environment of the cache.

use super::toolchain::run;
use super::wit;
use crate::store;
use anyhow::{Context, Result};
use std::fs;
use std::process::Command;

/// The tool that makes components of Python.
const COMPONENTIZE: &str = "componentize-py==0.25.1";
const INSTALL: &str = "run `make deps`, or: apt-get install python3-venv";

/// What a Python program is to its host.
#[derive(Debug, Clone, Copy)]
pub enum World {
    /// `wasi:cli/command`: it has a class `Run`.
    Command,
    /// `wasi:http/proxy`: it has a class `IncomingHandler`.
    Proxy,
}

/// The program as a component of WASI 0.2, built once per machine and version.
pub fn component(source: &str, world: World) -> Result<Vec<u8>> {
    let world = wit::world(match world {
        World::Command => "wasi:cli/command",
        World::Proxy => "wasi:http/proxy",
    });
    let key = store::key(&[b"python", COMPONENTIZE.as_bytes(), world.as_bytes(), source.as_bytes()]);
    store::cached("guests", &format!("{key}.wasm"), |output| {
        let tool = store::installed("python", &COMPONENTIZE.replace("==", "-"), |folder| {
            run(Command::new("python3").args(["-m", "venv"]).arg(folder), INSTALL)?;
            run(Command::new(folder.join("bin/pip")).args(["install", "--quiet", COMPONENTIZE]), INSTALL)?;
            Ok(())
        })
        .with_context(|| format!("install {COMPONENTIZE}"))?;
        let dir = tempfile::tempdir()?;
        fs::write(dir.path().join("app.py"), source)?;
        let mut build = Command::new(tool.join("bin/componentize-py"));
        build.arg("--wit-path").arg(wit::folder()?).args(["--world", &world, "componentize", "app", "--output"]);
        run(build.arg(output).current_dir(dir.path()), INSTALL)?;
        Ok(())
    })
}
