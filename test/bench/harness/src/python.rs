//! A component of 18 MB, Python with a program: how soon it says something, from a file of the image and from a layer,
//! compiled before and not.

use crate::bed::{Bed, Program};
use crate::contender::{OURS, PEER};
use crate::statistics::{Better, Row};
use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};
use testkit::{Image, Runtime, image, process, store};

/// The tool that makes components of Python.
const COMPONENTIZE: &str = "componentize-py==0.25.1";
/// The world of commands, in the form that the engine's WIT files have.
const WORLD: &str = "wasi:cli/command@0.2.12";
/// Warm starts of ours.
const TURNS: usize = 10;
/// Warm starts of the peer, which compiles a file each time.
const TURNS_OF_PEER: usize = 3;

/// Cold and warm starts of ours and the peer.
pub(crate) fn starts(bed: &Bed) -> Result<Vec<Row>> {
    let wasm = component()?;
    let by_file = Image::with_file("bench.local/python-file:1", &wasm);
    let by_layer = Image::with_layer("bench.local/python-layer:1", image::WASM_LAYERS[2], &wasm).bare();
    let programs = [
        ("file", bed.program(&by_file, &["/app.wasm"], "hello")?),
        ("layer", bed.program(&by_layer, &["app.wasm"], "hello")?),
    ];
    let peer = Runtime::named("io.containerd.peer.v1");
    let mut rows = Vec::new();
    for (form, program) in programs {
        // A cache of its own, so that the first start finds nothing.
        let cache = bed.node.directory("python")?.join("cache");
        let ours = bed.ours_with_cache(&cache)?;
        for (who, runtime, turns) in [(OURS, &ours, TURNS), (PEER, &peer, TURNS_OF_PEER)] {
            let cold = to_first_output(bed, runtime, &program)?.0;
            let mut warm = Vec::new();
            let mut anonymous = Vec::new();
            for _ in 0..turns {
                let (time, kib) = to_first_output(bed, runtime, &program)?;
                warm.push(time);
                anonymous.push(kib);
            }
            rows.push(Row::ms(&format!("Python, {form}: cold start to output"), who, &[cold]));
            rows.push(Row::ms(&format!("Python, {form}: warm start to output"), who, &warm));
            let what = format!("Python, {form}: its process (Pss_Anon)");
            rows.push(Row::of(&what, who, "KiB", Better::Lower, anonymous));
        }
    }
    Ok(rows)
}

/// From create to the first byte of output; and what the process has by then, KiB.
fn to_first_output(bed: &Bed, runtime: &Runtime, program: &Program) -> Result<(Duration, f64)> {
    let api = bed.api(runtime)?;
    let container = bed.container(&api, &program.staying())?;
    let begun = Instant::now();
    container.create()?;
    let pid = container.start_until_heard()?;
    let took = begun.elapsed();
    let anonymous = process::anonymous_kib(pid)?;
    container.end()?;
    container.remove()?;
    Ok((took, anonymous as f64))
}

/// Builds the component, once per machine and version.
fn component() -> Result<Vec<u8>> {
    let source = include_str!("../guests/python.py");
    let key = store::key(&[b"python", COMPONENTIZE.as_bytes(), WORLD.as_bytes(), source.as_bytes()]);
    store::cached("guests", &format!("{key}.wasm"), |output| {
        let tool = store::dir().join("python").join(COMPONENTIZE.replace("==", "-"));
        if !tool.join("bin/componentize-py").exists() {
            run(Command::new("python3").args(["-m", "venv"]).arg(&tool))?;
            run(Command::new(tool.join("bin/pip")).args(["install", "--quiet", COMPONENTIZE]))?;
        }
        let dir = tempfile::tempdir()?;
        fs::write(dir.path().join("app.py"), source)?;
        let mut build = Command::new(tool.join("bin/componentize-py"));
        build.arg("--wit-path").arg(wit()?).args(["--world", WORLD, "componentize", "app", "--output"]).arg(output);
        run(build.current_dir(dir.path()))
    })
}

/// The WIT files of WASI, which the engine brings along.
fn wit() -> Result<PathBuf> {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    let told = cargo.args(["metadata", "--locked", "--format-version", "1"]).output().context("run cargo metadata")?;
    let told: Value = serde_json::from_slice(&told.stdout).context("read what cargo metadata says")?;
    let packages = told["packages"].as_array().context("cargo metadata names no packages")?;
    let engine = packages.iter().find(|package| package["name"] == "wasmtime-wasi").context("no wasmtime-wasi")?;
    let manifest = engine["manifest_path"].as_str().context("no manifest of wasmtime-wasi")?;
    let wit = Path::new(manifest).with_file_name("src").join("p2/wit");
    ensure!(wit.is_dir(), "wasmtime-wasi has no WIT files at {}", wit.display());
    Ok(wit)
}

fn run(command: &mut Command) -> Result<()> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command.output().with_context(|| format!("run {name}"))?;
    if !output.status.success() {
        bail!("{name} failed, {}: {}", output.status, String::from_utf8_lossy(&output.stderr));
    }
    Ok(())
}
