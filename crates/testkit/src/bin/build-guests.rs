//! `build-guests FOLDER`: every guest, built, for a test run on a machine without toolchains (`WASM_TEST_GUESTS`).
//! It only reads the command line; `testkit::guests` builds.

#![forbid(unsafe_code)]

use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [folder] = words.as_slice() else {
        eprintln!("usage: build-guests FOLDER");
        return ExitCode::from(2);
    };
    match testkit::guests::build_into(Path::new(folder)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("build-guests: {error:#}");
            ExitCode::FAILURE
        }
    }
}
