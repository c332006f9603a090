//! `image-tar [--layer] --name REFERENCE PROGRAM OUTPUT`: an OCI image tar from a `.wasm` or `.wat` file.
//! It only reads the command line; `testkit::image` builds the image.

#![forbid(unsafe_code)]

use anyhow::{Context, Result, bail};
use std::path::Path;
use std::process::ExitCode;
use testkit::Image;
use testkit::image::{Rootfs, WASM_LAYERS};

const USAGE: &str = "usage: image-tar [--layer] --name REFERENCE PROGRAM.wasm|PROGRAM.wat OUTPUT.tar";

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let causes: Vec<String> = error.chain().map(ToString::to_string).collect();
            eprintln!("image-tar: {}", causes.join(": "));
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    let mut name = None;
    let mut layer = false;
    let mut paths = Vec::new();
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        match word.as_str() {
            "--layer" => layer = true,
            "--name" => name = words.next(),
            flag if flag.starts_with('-') => bail!("unknown flag {flag}: {USAGE}"),
            _ => paths.push(word),
        }
    }
    let (Some(name), [program, output]) = (name, paths.as_slice()) else {
        bail!("{USAGE}");
    };
    let program = Path::new(program);
    // `parse_file` gives a binary as it is and translates text.
    let wasm = wat::parse_file(program).with_context(|| program.display().to_string())?;
    let stem = program.file_stem().context(USAGE)?.to_string_lossy();
    let file = format!("{stem}.wasm");
    let image = if layer {
        Image::with_layer(&name, WASM_LAYERS[0], &wasm).entrypoint([&file])
    } else {
        Image::new(&name).rootfs(Rootfs::new().file(&file, &wasm)).entrypoint([&format!("/{file}")])
    };
    image.write(Path::new(output))?;
    Ok(())
}
