//! Wasmtime's own program, without a container around it: what its engine does with the same guest.

use anyhow::{Context, Result, ensure};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use testkit::store;

/// The name of its column.
pub(crate) const WASMTIME: &str = "wasmtime";
/// As `make bench-build` installs it.
const FOLDER: &str = "wasmtime-48.0.8";

/// A server that ends when this is dropped.
pub(crate) struct Server(Child);

/// Compiles a guest before it is measured; the file to run.
pub(crate) fn compiled(folder: &Path, wasm: &[u8]) -> Result<PathBuf> {
    let (source, code) = (folder.join("app.wasm"), folder.join("app.cwasm"));
    fs::write(&source, wasm)?;
    let output = finished(program().arg("compile").arg(&source).arg("--output").arg(&code))?;
    ensure!(output.status.success(), "wasmtime compile: {}", String::from_utf8_lossy(&output.stderr));
    Ok(code)
}

/// What a compiled command writes.
pub(crate) fn run(code: &Path) -> Result<String> {
    let output = finished(program().args(["run", "--allow-precompiled"]).arg(code))?;
    ensure!(output.status.success(), "wasmtime run: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8(output.stdout)?)
}

/// Serves a compiled component on loopback, with all interfaces that a guest of Rust's standard library imports.
pub(crate) fn serve(code: &Path, port: u16) -> Result<Server> {
    let mut command = program();
    command.args(["serve", "-Scli", "--allow-precompiled", "--addr", &format!("127.0.0.1:{port}")]).arg(code);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    Ok(Server(command.spawn().context("start wasmtime serve: run `make bench-build`")?))
}

fn program() -> Command {
    Command::new(store::dir().join(FOLDER).join("bin/wasmtime"))
}

fn finished(command: &mut Command) -> Result<Output> {
    command.output().context("start wasmtime: run `make bench-build`")
}

impl Server {
    pub(crate) fn pid(&self) -> i32 {
        self.0.id() as i32
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // An error says that it is gone already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
