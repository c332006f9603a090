//! The binary's actions, as containerd and people call them.

use std::fs;
use std::process::{Command, Output, Stdio};

const SHIM: &str = env!("CARGO_BIN_EXE_containerd-shim-wasm-v1");

fn run(words: &[&str]) -> Output {
    let mut command = Command::new(SHIM);
    command.args(words).env_remove("TTRPC_ADDRESS").stdin(Stdio::null());
    command.current_dir(std::env::temp_dir()).output().expect("the shim starts")
}

fn check_refusal(words: &[&str], parts: &[&str]) {
    let output = run(words);
    let text = String::from_utf8_lossy(&output.stderr);
    let one_line = text.lines().count() == 1 && parts.iter().all(|part| text.contains(part));
    assert!(!output.status.success() && output.stdout.is_empty() && one_line, "{words:?}: {output:?}");
}

#[test]
fn version_is_told() {
    let output = run(&["-v"]);
    let expected = format!("containerd-shim-wasm-v1 {}\n", env!("CARGO_PKG_VERSION"));
    assert_eq!(String::from_utf8_lossy(&output.stdout), expected);
}

#[test]
fn info_names_the_runtime_and_its_features() {
    let output = run(&["-info"]);
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8_lossy(&output.stdout);
    for part in ["io.containerd.wasm.v1", env!("CARGO_PKG_VERSION"), "ociVersionMin", "rbind"] {
        assert!(text.contains(part), "{part}: {text}");
    }
}

#[test]
fn wrong_calls_are_refused_with_a_remedy() {
    check_refusal(&[], &["no action", "start or delete"]);
    check_refusal(&["stop"], &["unknown action \"stop\"", "start or delete"]);
    check_refusal(&["-id", "a", "start"], &["start needs the flag -namespace"]);
    let start = ["-namespace", "n", "-id", "a", "-address", "/c.sock", "start"];
    check_refusal(&start, &["TTRPC_ADDRESS is not set", "containerd 1.6 or newer"]);
}

/// As `file` shows it: no program header asks for a dynamic loader, and the type is an executable, which has one place.
#[test]
fn the_binary_is_static() {
    const EXECUTABLE: u16 = 2;
    const INTERP: u32 = 3;
    let bytes = fs::read(SHIM).expect("the shim is there");
    let word = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
    let long = |at: usize| u32::from(word(at)) | u32::from(word(at + 2)) << 16;
    assert_eq!(word(16), EXECUTABLE, "the type of the file");
    let (headers, size, count) = (long(32) as usize, usize::from(word(54)), usize::from(word(56)));
    let kinds: Vec<u32> = (0..count).map(|index| long(headers + index * size)).collect();
    assert!(!kinds.is_empty() && !kinds.contains(&INTERP), "{kinds:?}");
}
