//! Reads Rust sources just well enough to see which crates they name: comments, text and test modules put aside.

use anyhow::Result;
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Every `.rs` file of a crate, sorted.
pub(super) fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    collect(folder, &mut found)?;
    found.sort();
    Ok(found)
}

fn collect(folder: &Path, found: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            collect(&path, found)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    Ok(())
}

/// Whether the file is a module of tests: `tests.rs`, `lower_tests.rs`.
pub(super) fn is_test(path: &Path) -> bool {
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    stem == "tests" || stem.ends_with("_tests") || path.iter().any(|part| part == "tests")
}

/// Where in a path a name counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// At its root only, where a crate stands: `use cli::x`, not `use other::cli`.
    Root,
    /// Anywhere: a crate may hand on another one.
    Anywhere,
}

/// The names that stand at the side of a `::` or alone after `use` in the product's part of a source.
pub(super) fn mentions(text: &str, place: Place) -> BTreeSet<String> {
    let code = product(&code(text)).to_owned();
    let mut names = BTreeSet::new();
    let mut rest = code.as_str();
    let mut before_was_use = false;
    while let Some(start) = rest.find(|c: char| c.is_alphabetic() || c == '_') {
        let before = &rest[..start];
        let after_path = before.ends_with("::");
        // Nothing but the `::` between two words joins them to one path.
        let joined = before == "::";
        let word_and_more = &rest[start..];
        let end = word_and_more.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(word_and_more.len());
        let (word, more) = word_and_more.split_at(end);
        let counts = place == Place::Anywhere || !joined;
        if counts && (after_path || before_was_use || more.starts_with("::")) {
            names.insert(word.to_owned());
        }
        before_was_use = word == "use" || word == "crate" && more.trim_start().starts_with("as");
        rest = more;
    }
    // `crate::engine::…` and `self::…` name a module of the crate itself.
    for own in own_modules(&code) {
        names.remove(&own);
    }
    names
}

/// The modules that the code declares, and those it reaches through `crate`, `self` and `super`.
fn own_modules(code: &str) -> BTreeSet<String> {
    let mut own = BTreeSet::new();
    for start in ["mod ", "crate::", "self::", "super::"] {
        for piece in code.split(start).skip(1) {
            let end = piece.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(piece.len());
            own.insert(piece[..end].to_owned());
        }
    }
    own
}

/// Without what follows the first `#[cfg(test)]` that opens a module, which by custom is last in a file.
fn product(code: &str) -> &str {
    let tests = code.match_indices("#[cfg(test)]").find(|(at, found)| {
        let next = code[at + found.len()..].trim_start();
        next.starts_with("mod ") && next.split_once('{').is_some_and(|(head, _)| !head.contains(';'))
    });
    tests.map_or(code, |(at, _)| &code[..at])
}

/// The source with comments and the insides of string literals blanked out.
pub(super) fn code(text: &str) -> String {
    let mut code = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let skipped = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            rest.find("*/").map_or(rest.len(), |end| end + 2)
        } else if c == '"' {
            string_length(rest)
        } else if let Some(length) = raw_string_length(rest, &code) {
            length
        } else if rest.starts_with("'\"'") || rest.starts_with("'\\\"'") {
            rest[1..].find("'").map_or(rest.len(), |end| end + 2)
        } else {
            code.push(c);
            rest = &rest[c.len_utf8()..];
            continue;
        };
        code.push(' ');
        rest = &rest[skipped..];
    }
    code
}

/// Of `"…"`, with its quotes.
fn string_length(text: &str) -> usize {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return at + 1,
            _ => {}
        }
    }
    text.len()
}

/// Of `r"…"` or `r#"…"#`, if one starts here and the `r` is not the end of a longer word.
fn raw_string_length(text: &str, before: &str) -> Option<usize> {
    let continues = before.ends_with(|c: char| c.is_alphanumeric() && c != 'b' || c == '_');
    let body = text.strip_prefix('r').filter(|_| !continues)?;
    let hashes = body.len() - body.trim_start_matches('#').len();
    body[hashes..].strip_prefix('"')?;
    let close = format!("\"{}", "#".repeat(hashes));
    let inside = 1 + hashes + 1;
    let end = text[inside..].find(&close)?;
    Some(inside + end + close.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: &[&str]) {
        let names = mentions(text, Place::Anywhere);
        for name in expected {
            assert!(names.contains(*name), "{name} not in {names:?}: {text}");
        }
        for name in ["wasmtime", "ttrpc"] {
            let wanted = expected.contains(&name);
            assert_eq!(names.contains(name), wanted, "{name} in {names:?}: {text}");
        }
    }

    #[test]
    fn names_are_seen_in_paths_and_uses_only() {
        check("use wasmtime::Engine;", &["wasmtime"]);
        check("use wasmtime as w;", &["wasmtime"]);
        check("use a::ttrpc;", &["ttrpc"]);
        check("fn f() -> ::wasmtime::Result<()> {}", &["wasmtime"]);
        check("// use wasmtime::Engine;\nlet ttrpc = 1;", &[]);
        check("/* wasmtime::x */ let s = \"ttrpc::x \\\" wasmtime::y\";", &[]);
        check("let s = r#\"wasmtime::\"y\"#; ttrpc::go()", &["ttrpc"]);
        check("mod ttrpc; use ttrpc::Client;", &[]);
        check("use crate::wasmtime::x;", &[]);
        check("let c = '\"'; wasmtime::go(); let d = '\"';", &["wasmtime"]);
        check("fn f() {}\n#[cfg(test)]\nmod tests { use wasmtime::x; }", &[]);
        check("#[cfg(test)]\nmod x;\nuse wasmtime::y;", &["wasmtime"]);
    }

    #[test]
    fn a_module_of_another_crate_is_no_root() {
        let roots = mentions("use wasmtime_wasi::cli::{Input}; use ::shim::x; let y = oci::lower();", Place::Root);
        let expected = ["oci", "shim", "wasmtime_wasi"].map(str::to_owned);
        assert_eq!(roots, expected.into());
    }
}
