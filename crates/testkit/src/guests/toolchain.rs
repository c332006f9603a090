//! Builds guests in C and Go, and runs tools for the other languages. A toolchain that is missing fails with the line
//! that installs it.

use crate::store;
use anyhow::{Context, Result, bail};
use std::io::ErrorKind;
use std::path::Path;
use std::process::Command;

const INSTALL_C: &str = "run `make deps`, or: apt-get install clang lld wasi-libc libclang-rt-14-dev-wasm32 (the number is clang's version)";
const INSTALL_GO: &str = "install Go 1.26 or newer";

/// A C program for WASI preview 1, with clang and wasi-libc.
pub(super) fn c(file: &str, path: &Path, source: &[u8]) -> Result<Vec<u8>> {
    let version = run(Command::new("clang").arg("--version"), INSTALL_C)?;
    let key = store::key(&[b"c", &version, source]);
    store::cached("guests", &format!("{key}.wasm"), |output| {
        let mut clang = Command::new("clang");
        clang.args(["--target=wasm32-wasi", "-O1", "-Wall", "-Werror"]);
        if is_reactor(path) {
            clang.arg("-mexec-model=reactor");
        }
        clang.arg("-o");
        run(clang.arg(output).arg(path), INSTALL_C).with_context(|| format!("guest {file}"))?;
        Ok(())
    })
}

/// A Go program for WASI preview 1.
pub(super) fn go(file: &str, path: &Path, source: &[u8]) -> Result<Vec<u8>> {
    let version = run(Command::new("go").arg("version"), INSTALL_GO)?;
    let key = store::key(&[b"go", &version, source]);
    store::cached("guests", &format!("{key}.wasm"), |output| {
        let mut go = Command::new("go");
        go.env("GOOS", "wasip1").env("GOARCH", "wasm");
        go.args(["build", "-trimpath", "-ldflags", "-s -w"]);
        if is_reactor(path) {
            go.arg("-buildmode=c-shared");
        }
        go.arg("-o");
        run(go.arg(output).arg(path), INSTALL_GO).with_context(|| format!("guest {file}"))?;
        Ok(())
    })
}

/// Whether the program is to be called by the names of its functions.
fn is_reactor(path: &Path) -> bool {
    path.file_stem().is_some_and(|stem| stem == "p1_reactor")
}

/// Runs a tool and gives its stdout.
pub(super) fn run(command: &mut Command, install: &str) -> Result<Vec<u8>> {
    let tool = command.get_program().to_string_lossy().into_owned();
    let output = match command.output() {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            bail!("{tool} is missing: {install}")
        }
        output => output.with_context(|| format!("run {tool}"))?,
    };
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("{tool} failed, {}: {said}\nif a part of the toolchain is missing: {install}", output.status);
    }
    Ok(output.stdout)
}
