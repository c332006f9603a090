//! Who is measured: each a runtime with a program that says hello and one that stays.

use crate::bed::{Bed, Program};
use anyhow::{Context, Result, ensure};
use std::fs;
use std::process::Command;
use testkit::image::Rootfs;
use testkit::{Image, Runtime, guests};

/// Names that rows of results are found by.
pub(crate) const OURS: &str = "ours";
pub(crate) const PEER: &str = "peer";
pub(crate) const RUNC: &str = "runc";
pub(crate) const FLOOR: &str = "floor";
/// A shim on the stock library that starts nothing either.
pub(crate) const STOCK_FLOOR: &str = "stock floor";

/// Whether this one is measured: all are, unless `WASM_BENCH_WHO` names some.
pub(crate) fn wanted(name: &str) -> bool {
    std::env::var("WASM_BENCH_WHO").map_or(true, |who| who.split(',').any(|one| one == name))
}

/// One of those who are measured.
#[derive(Debug, Clone)]
pub(crate) struct Contender {
    pub(crate) name: &'static str,
    pub(crate) runtime: Runtime,
    /// Says hello and leaves.
    pub(crate) hello: Program,
    /// Says that it sleeps, and does.
    pub(crate) idle: Program,
}

impl Contender {
    /// Whether its containers are the shim.
    pub(crate) fn starts_nothing(&self) -> bool {
        [FLOOR, STOCK_FLOOR].contains(&self.name)
    }
}

/// All of them, in the order in which they take turns.
pub(crate) fn all(bed: &Bed) -> Result<Vec<Contender>> {
    let hello = wasm(bed, "p1_hello.wat", "hello from wasm\n")?;
    let idle = idle_wasm(bed)?;
    let image = Image::new("bench.local/native:1")
        .rootfs(Rootfs::new().file("app", &native(include_str!("../guests/native.c"))?));
    let native_hello = bed.program(&image, &["/app"], "hello from wasm\n")?;
    let native_idle = native_hello.saying(&["/app", "sleep"], "sleeping\n");
    let native = |name, binary| Contender {
        name,
        runtime: Runtime::runc(binary),
        hello: native_hello.clone(),
        idle: native_idle.clone(),
    };
    let of_wasm = |name, runtime| Contender { name, runtime, hello: hello.clone(), idle: idle.clone() };
    let silent = |name, runtime| Contender {
        name,
        runtime: Runtime::named(runtime),
        hello: hello.saying(&["/app.wasm"], ""),
        idle: idle.saying(&["/app.wasm"], ""),
    };
    Ok(vec![
        of_wasm(OURS, Runtime::wasm(&bed.containerd.operator_file())),
        of_wasm(PEER, Runtime::named("io.containerd.peer.v1")),
        native(RUNC, "runc"),
        native("crun", "crun"),
        silent(STOCK_FLOOR, "io.containerd.stock-floor.v1"),
        silent(FLOOR, "io.containerd.floor.v1"),
    ])
}

/// The guest that says that it sleeps, and does.
pub(crate) fn idle_wasm(bed: &Bed) -> Result<Program> {
    wasm(bed, "p1_sleep.wat", "sleeping\n")
}

fn wasm(bed: &Bed, guest: &str, says: &'static str) -> Result<Program> {
    let name = guest.split('.').next().unwrap_or(guest).replace('_', "-");
    let image = Image::with_file(&format!("bench.local/{name}:1"), &guests::module(guest)?);
    bed.program(&image, &["/app.wasm"], says)
}

/// A C program of the node, static.
pub(crate) fn native(text: &str) -> Result<Vec<u8>> {
    let dir = tempfile::tempdir()?;
    let (source, program) = (dir.path().join("native.c"), dir.path().join("native"));
    fs::write(&source, text)?;
    let mut compiler = Command::new("cc");
    compiler.args(["-O2", "-static", "-s", "-o"]).arg(&program).arg(&source);
    ensure!(compiler.status().context("run cc")?.success(), "cc did not compile a program of the benchmarks");
    Ok(fs::read(program)?)
}
