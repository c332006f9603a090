//! Holds the workspace against the floors table, and shows that the check can fail.

use std::fs;
use testkit::checkout;
use testkit::floors::violations;

#[test]
fn every_crate_keeps_to_its_floor() {
    let found = violations(&checkout::root()).unwrap();
    assert!(found.is_empty(), "{}", found.join("\n"));
}

/// Writes a workspace of one crate and compares its violations.
fn check(name: &str, manifest: &str, files: &[(&str, &str)], expected: &[&str]) {
    let workspace = tempfile::tempdir().unwrap();
    let folder = workspace.path().join("crates").join(name);
    fs::create_dir_all(folder.join("src")).unwrap();
    fs::write(folder.join("Cargo.toml"), manifest).unwrap();
    for (path, text) in files {
        fs::write(folder.join(path), text).unwrap();
    }
    let found = violations(workspace.path()).unwrap();
    let matches = found.len() == expected.len() && found.iter().zip(expected).all(|(line, part)| line.contains(part));
    assert!(matches, "expected {expected:#?}, found {found:#?}");
}

#[test]
fn an_import_that_runs_upward_is_found() {
    let root = ("src/lib.rs", "//! x\n#![forbid(unsafe_code)]\n");
    check("oci", "[dependencies]\nplan = {}\nsha2 = {}", &[root], &[]);
    check("oci", "[dependencies]\nengine = {}", &[root], &["may not depend on engine"]);
    check("oci", "[dependencies]\nwasmtime-wasi = {}", &[root], &["may not depend on wasmtime-wasi"]);
    check("oci", "[dev-dependencies]\nwasmtime = {}\ntestkit = {}", &[root], &[]);
    check("oci", "[dependencies]\ntestkit = {}", &[root], &["may not depend on testkit"]);
    check("plan", "[dependencies]\nserde = {}\ntokio = {}", &[root], &["may not depend on tokio"]);
    check("node", "[dependencies]\nx = { package = \"plan\" }", &[root], &["may not depend on plan"]);
    check("oci", "[target.'cfg(unix)'.dependencies]\nnix = {}", &[root], &["may not depend on nix"]);
    check("extra", "", &[root], &["crate extra has no floor"]);
}

#[test]
fn a_name_that_another_crate_owns_is_found_in_sources() {
    let root = ("src/lib.rs", "//! x\n#![forbid(unsafe_code)]\n");
    let file = |text| [root, ("src/a.rs", text)];
    check("oci", "", &file("//! a\nuse shim::x;\n"), &["may not name shim"]);
    check("oci", "", &file("//! a\nuse other::ttrpc::x;\n"), &["may not name ttrpc"]);
    check("oci", "", &file("//! a\n#[cfg(test)]\nmod tests { use testkit::x; }\n"), &[]);
    check("oci", "", &file("use plan::x;\n"), &["does not begin with what it owns"]);
}

#[test]
fn a_missing_rule_about_unsafe_code_is_found() {
    let root = |text| [("src/lib.rs", text)];
    check("shim", "", &root("//! x\n"), &["without #![forbid(unsafe_code)]"]);
    check("sandbox", "", &root("//! x\n"), &[]);
    check("engine", "", &root("//! x\n"), &["without #![deny(unsafe_code)]"]);
    let denied = ("src/lib.rs", "//! x\n#![deny(unsafe_code)]\n");
    let here = ("src/artifact.rs", "//! x\n#![allow(unsafe_code)]\n");
    let there = ("src/link.rs", "//! x\n#![allow(unsafe_code)]\n");
    check("engine", "", &[denied, here], &[]);
    check("engine", "", &[denied, here, there], &["only artifact may"]);
}
