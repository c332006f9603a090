//! Which crate may name what: the floors of the architecture, compared with manifests and sources.
//! The table here is the one in the README's Architecture section; change both or neither.

mod source;

use anyhow::{Context, Result};
use std::fs;
use std::path::{Path, PathBuf};

use source::Place;

/// What one crate may do.
#[derive(Debug, Clone, Copy)]
pub struct Floor {
    /// The crate.
    pub name: &'static str,
    /// Workspace crates it may import.
    pub crates: &'static [&'static str],
    /// Owned external names it may import; a trailing `*` stands for any ending.
    pub owned: &'static [&'static str],
    /// Whether other external crates are free to it.
    pub others: Others,
    /// What its sources say about unsafe code.
    pub unsafety: Unsafety,
}

/// External crates that nobody owns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Others {
    /// Any.
    Free,
    /// These and no other.
    Only(&'static [&'static str]),
}

/// The rule about `unsafe`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unsafety {
    /// `#![forbid(unsafe_code)]` in every root.
    Forbidden,
    /// `#![deny(unsafe_code)]`, and one module allows it.
    OneModule(&'static str),
    /// Wherever it is needed, with a `SAFETY` comment, which clippy checks.
    Free,
}

/// The table. A crate that is not in it is a violation, one that is not built yet is not.
pub const FLOORS: [Floor; 9] = [
    Floor {
        name: "prologue",
        crates: &[],
        owned: &[],
        others: Others::Only(&["libc", "syscalls"]),
        unsafety: Unsafety::Free,
    },
    Floor { name: "plan", crates: &[], owned: &[], others: Others::Only(&["serde"]), unsafety: Unsafety::Forbidden },
    Floor { name: "oci", crates: &["plan"], owned: &["oci-spec"], others: Others::Free, unsafety: Unsafety::Forbidden },
    Floor {
        name: "engine",
        crates: &["plan"],
        owned: &["wasmtime*", "hyper*"],
        others: Others::Free,
        unsafety: Unsafety::OneModule("artifact"),
    },
    Floor {
        name: "sandbox",
        crates: &["plan"],
        owned: &["nix", "rustix"],
        others: Others::Free,
        unsafety: Unsafety::Free,
    },
    Floor {
        name: "shim",
        crates: &["plan", "prologue", "oci", "engine", "sandbox"],
        owned: &["ttrpc*", "containerd-shim*"],
        others: Others::Free,
        unsafety: Unsafety::Forbidden,
    },
    Floor {
        name: "cli",
        crates: &["plan", "oci", "engine"],
        owned: &[],
        others: Others::Free,
        unsafety: Unsafety::Forbidden,
    },
    Floor { name: "node", crates: &[], owned: &[], others: Others::Free, unsafety: Unsafety::Forbidden },
    Floor {
        name: TESTKIT,
        crates: &["plan", "prologue", "oci", "engine", "sandbox", "shim", "cli", "node"],
        owned: OWNED,
        others: Others::Free,
        unsafety: Unsafety::Forbidden,
    },
];

const TESTKIT: &str = "testkit";

/// Every owned name.
const OWNED: &[&str] = &["wasmtime*", "hyper*", "ttrpc*", "containerd-shim*", "oci-spec", "nix", "rustix"];

/// Everything in the workspace that breaks the rules, one line each.
pub fn violations(workspace: &Path) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(workspace.join("crates"))? {
        let folder = entry?.path();
        let name = folder.file_name().unwrap_or_default().to_string_lossy();
        let Some(floor) = FLOORS.iter().find(|floor| floor.name == name) else {
            found.push(format!("crate {name} has no floor: add it to the table"));
            continue;
        };
        found.extend(of_manifest(floor, &folder)?);
        found.extend(of_sources(floor, &folder)?);
    }
    found.sort();
    Ok(found)
}

/// Whether the crate may import the package or module path root `import`.
fn allowed(floor: &Floor, import: &str) -> bool {
    let import = import.replace('_', "-");
    let listed = |names: &[&str]| {
        names.iter().any(|name| match name.strip_suffix('*') {
            Some(stem) => import.starts_with(stem),
            None => import == *name,
        })
    };
    if import == floor.name {
        return true;
    }
    if FLOORS.iter().any(|floor| floor.name == import) {
        return listed(floor.crates);
    }
    if listed(OWNED) {
        return listed(floor.owned);
    }
    match floor.others {
        Others::Free => true,
        Others::Only(names) => listed(names),
    }
}

fn of_manifest(floor: &Floor, folder: &Path) -> Result<Vec<String>> {
    let path = folder.join("Cargo.toml");
    let text = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
    let manifest: toml::Table = text.parse().with_context(|| path.display().to_string())?;
    let mut tables: Vec<&toml::Table> = vec![&manifest];
    let targets = manifest.get("target").and_then(toml::Value::as_table);
    tables.extend(targets.into_iter().flat_map(|targets| {
        let tables = targets.values();
        tables.filter_map(toml::Value::as_table)
    }));
    let mut found = Vec::new();
    for table in tables {
        for kind in ["dependencies", "build-dependencies"] {
            let Some(imports) = table.get(kind).and_then(toml::Value::as_table) else {
                continue;
            };
            for (name, value) in imports {
                // `name = { package = "other" }` imports `other`.
                let package = value.get("package").and_then(toml::Value::as_str);
                let package = package.unwrap_or(name);
                if !allowed(floor, package) {
                    found.push(format!("{}: may not depend on {package}", path.display()));
                }
            }
        }
    }
    Ok(found)
}

fn of_sources(floor: &Floor, folder: &Path) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for path in source::files(folder)? {
        let text = fs::read_to_string(&path)?;
        let shown = path.display();
        if !text.starts_with("//!") {
            found.push(format!("{shown}: does not begin with what it owns (//!)"));
        }
        let relative = path.strip_prefix(folder)?;
        let product = relative.starts_with("src") && !source::is_test(&path);
        // Elsewhere dev-dependencies are at work, and those are free.
        if !product {
            continue;
        }
        let mut named = source::mentions(&text, Place::Anywhere);
        named.retain(|name| is_owned(name));
        let crates = source::mentions(&text, Place::Root);
        named.extend(crates.into_iter().filter(|name| FLOORS.iter().any(|floor| floor.name == *name)));
        for name in named {
            if !allowed(floor, &name) {
                found.push(format!("{shown}: may not name {name}"));
            }
        }
        found.extend(of_unsafety(floor, relative, &text).map(|what| format!("{shown}: {what}")));
    }
    Ok(found)
}

fn is_owned(name: &str) -> bool {
    let name = name.replace('_', "-");
    OWNED.iter().any(|owned| match owned.strip_suffix('*') {
        Some(stem) => name.starts_with(stem),
        None => name == *owned,
    })
}

fn of_unsafety(floor: &Floor, relative: &Path, text: &str) -> Option<String> {
    let root = is_root(relative);
    let code = source::code(text);
    let allows = code.contains("allow(unsafe_code)");
    match floor.unsafety {
        Unsafety::Free => None,
        Unsafety::Forbidden if root && !code.contains("#![forbid(unsafe_code)]") => {
            Some("a root without #![forbid(unsafe_code)]".to_owned())
        }
        Unsafety::Forbidden => None,
        Unsafety::OneModule(_) if root && !code.contains("#![deny(unsafe_code)]") => {
            Some("a root without #![deny(unsafe_code)]".to_owned())
        }
        // The permission stands either in the module's file or at its declaration in the root.
        Unsafety::OneModule(module) if allows => {
            let own = PathBuf::from("src").join(format!("{module}.rs"));
            let declared = code.contains(&format!("#[allow(unsafe_code)]\nmod {module};"))
                && code.matches("allow(unsafe_code)").count() == 1;
            let fine = relative == own || (root && declared);
            (!fine).then(|| format!("allows unsafe code, which only {module} may"))
        }
        Unsafety::OneModule(_) => None,
    }
}

fn is_root(relative: &Path) -> bool {
    relative == Path::new("src/lib.rs")
        || relative == Path::new("src/main.rs")
        || relative.parent() == Some(Path::new("src/bin"))
}
