//! `image-tar [--layer] --name REFERENCE PROGRAM OUTPUT`: an OCI image tar from a `.wasm` or `.wat` file.
//! `image-tar --name REFERENCE --linux ARCHITECTURE --entrypoint PATH FOLDER OUTPUT`: one from the files of a folder, all of
//! them executable.
//! It only reads the command line; `testkit::image` builds the image.

#![forbid(unsafe_code)]

use anyhow::{Context, Result, bail};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use testkit::Image;
use testkit::image::{Rootfs, WASM_LAYERS};

const USAGE: &str = "usage: image-tar [--layer] --name REFERENCE PROGRAM.wasm|PROGRAM.wat OUTPUT.tar
       image-tar --name REFERENCE --linux ARCHITECTURE --entrypoint PATH FOLDER OUTPUT.tar";

/// The command line.
#[derive(Debug, Default)]
struct Words {
    name: Option<String>,
    architecture: Option<String>,
    entrypoint: Option<String>,
    layer: bool,
    paths: Vec<PathBuf>,
}

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
    let words = words()?;
    let (Some(name), [source, output]) = (&words.name, words.paths.as_slice()) else {
        bail!("{USAGE}");
    };
    let image = match (&words.architecture, &words.entrypoint) {
        (None, None) => of_program(name, source, words.layer)?,
        (Some(architecture), Some(entrypoint)) if !words.layer => {
            Image::new(name).platform("linux", architecture).rootfs(files(source)?).entrypoint([entrypoint])
        }
        _ => bail!("{USAGE}"),
    };
    image.write(output)?;
    Ok(())
}

fn words() -> Result<Words> {
    let mut read = Words::default();
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        match word.as_str() {
            "--layer" => read.layer = true,
            "--name" => read.name = words.next(),
            "--linux" => read.architecture = words.next(),
            "--entrypoint" => read.entrypoint = words.next(),
            flag if flag.starts_with('-') => bail!("unknown flag {flag}: {USAGE}"),
            _ => read.paths.push(word.into()),
        }
    }
    Ok(read)
}

fn of_program(name: &str, program: &Path, layer: bool) -> Result<Image> {
    // `parse_file` gives a binary as it is and translates text.
    let wasm = wat::parse_file(program).with_context(|| program.display().to_string())?;
    let stem = program.file_stem().context(USAGE)?.to_string_lossy();
    let file = format!("{stem}.wasm");
    Ok(if layer {
        Image::with_layer(name, WASM_LAYERS[0], &wasm).entrypoint([&file])
    } else {
        Image::new(name).rootfs(Rootfs::new().file(&file, &wasm)).entrypoint([&format!("/{file}")])
    })
}

/// The files of a folder, in the order of their names, so that the same files give the same image.
fn files(folder: &Path) -> Result<Rootfs> {
    let mut paths = Vec::new();
    for entry in fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        paths.push(entry?.path());
    }
    paths.sort();
    let mut rootfs = Rootfs::new();
    for path in paths {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let bytes = fs::read(&path).with_context(|| path.display().to_string())?;
        rootfs = rootfs.file(&name, &bytes);
    }
    Ok(rootfs)
}
