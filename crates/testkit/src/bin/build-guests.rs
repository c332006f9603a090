//! `build-guests FOLDER`: every guest, built, for a test run on a machine without toolchains (`WASM_TEST_GUESTS`).
//! `build-guests --samples FOLDER [NAME...]`: the programs of `images/`, or these, each in a folder of its own, for building their
//! images.
//! It only reads the command line; `testkit::guests` builds.

#![forbid(unsafe_code)]

use std::path::Path;
use std::process::ExitCode;
use testkit::guests;

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let built = match words.as_slice() {
        ["--samples", folder, names @ ..] => guests::build_samples_into(Path::new(folder), names),
        [folder] if !folder.starts_with('-') => guests::build_into(Path::new(folder)),
        _ => {
            eprintln!("usage: build-guests FOLDER | --samples FOLDER [NAME...]");
            return ExitCode::from(2);
        }
    };
    match built {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("build-guests: {error:#}");
            ExitCode::FAILURE
        }
    }
}
