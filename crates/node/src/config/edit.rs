//! The runtime that is added, where it goes, and how it is taken out again.

use super::{ConfigError, Daemon, Files, Form};
use std::path::{Path, PathBuf};
use toml_edit::{Array, DocumentMut, Item, Table, TableLike, value};

/// The handler that a RuntimeClass names.
pub(crate) const RUNTIME: &str = "wasm";

/// The runtime of Linux containers, which 1.x loses if the file names another one only.
const RUNC: &str = "runc";

/// The file below an imported directory.
const DROP_IN: &str = "containerd-shim-wasm.toml";

/// What a drop-in and our table begin with.
const NOTE: &str = "# Written by wasm-node; `wasm-node uninstall` takes it out again.\n";

/// A file to write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Change {
    pub(crate) path: PathBuf,
    /// What it has now; none if it is not there.
    pub(crate) before: Option<String>,
    pub(crate) after: String,
    /// The runtimes that are added.
    pub(crate) runtimes: Vec<String>,
}

/// What our runtime takes over from the default one.
#[derive(Debug, Default)]
struct Inherited {
    base_runtime_spec: Option<String>,
    binary_name: Option<String>,
}

impl Files {
    /// The change that adds our runtime, by this path of the shim. `ours` is the file that we wrote before, if any: its
    /// table is written anew. None if nothing is to be changed.
    pub(crate) fn with_runtime(&self, shim: &Path, ours: Option<&Path>) -> Result<Option<Change>, ConfigError> {
        // A copy of our table that another tool made of the whole section, once we had written ours, does no harm.
        let is_copy = |path: &Path| ours.is_some() && self.defines_shim(path, shim);
        if let Some(path) = self.defining().into_iter().find(|path| Some(*path) != ours && !is_copy(path)) {
            return Err(ConfigError::Defined { path: path.to_owned() });
        }
        self.nothing_replaces()?;
        // It stays where it is, as long as containerd reads it there.
        let drop_in = match ours {
            Some(path) if path == self.main.path => None,
            Some(path) if self.is_imported(path) => Some(path.to_owned()),
            _ => self.drop_in(),
        };
        let (path, before, mut document) = match drop_in {
            Some(path) => {
                let existing = self.imported.iter().find(|file| file.path == path).map(|file| file.text.clone());
                (path, existing, self.noted())
            }
            None => {
                let before = (!self.main.text.is_empty()).then(|| self.main.text.clone());
                let document = if before.is_none() { self.noted() } else { self.main.document.clone() };
                (self.main.path.clone(), before, document)
            }
        };
        let mut added = vec![RUNTIME.to_owned()];
        let runtimes = runtimes_mut(&mut document, self.form)?;
        if self.daemon.major < 2 && self.last(|cri| cri.get("runtimes")?.as_table_like()?.get(RUNC)).is_none() {
            let mut runc = Table::new();
            runc.insert("runtime_type", value("io.containerd.runc.v2"));
            put(runtimes, RUNC, runc);
            added.insert(0, RUNC.to_owned());
        }
        put(runtimes, RUNTIME, self.runtime(shim));
        let after = document.to_string();
        Ok((before.as_deref() != Some(after.as_str())).then_some(Change { path, before, after, runtimes: added }))
    }

    /// A file that is ours.
    fn noted(&self) -> DocumentMut {
        let text = format!("{NOTE}version = {}\n", self.form.version);
        text.parse().expect("a number is a document")
    }

    fn runtime(&self, shim: &Path) -> Table {
        let inherited = self.inherited();
        let mut runtime = Table::new();
        runtime.decor_mut().set_prefix(format!("\n{NOTE}"));
        runtime.insert("runtime_type", value(shim.display().to_string()));
        runtime.insert("pod_annotations", value(Array::from_iter(["io.containerd.wasm.v1/*"])));
        let termination = ["io.kubernetes.container.terminationMessage*"];
        runtime.insert("container_annotations", value(Array::from_iter(termination)));
        if let Some(spec) = inherited.base_runtime_spec {
            runtime.insert("base_runtime_spec", value(spec));
        }
        // Options are left out where nothing is to be said: containerd 2.4 refuses user namespaces to runtimes with them.
        if let Some(binary) = inherited.binary_name {
            let mut options = Table::new();
            options.insert("BinaryName", value(binary));
            runtime.insert("options", Item::Table(options));
        }
        runtime
    }

    fn inherited(&self) -> Inherited {
        let default = self.last(|cri| cri.get("default_runtime_name")?.as_str()).unwrap_or(RUNC);
        let of = |key: &'static str| {
            self.last(|cri| {
                let runtime = cri.get("runtimes")?.as_table_like()?.get(default)?.as_table_like()?;
                let text = if key == "BinaryName" {
                    runtime.get("options")?.as_table_like()?.get(key)?
                } else {
                    runtime.get(key)?
                };
                text.as_str().filter(|text| !text.is_empty()).map(str::to_owned)
            })
        };
        Inherited { base_runtime_spec: of("base_runtime_spec"), binary_name: of("BinaryName") }
    }

    /// A file of ours in a directory that the main file imports, beside it. On 1.x an import replaces what it names.
    fn drop_in(&self) -> Option<PathBuf> {
        let beside = self.main.path.parent()?;
        let dirs = self.patterns.iter().filter_map(|pattern| Path::new(pattern.strip_suffix("/*.toml")?).into());
        let dir = dirs.rev().find(|dir: &&Path| dir.starts_with(beside))?;
        (self.daemon >= Daemon { major: 2, minor: 0 }).then(|| dir.join(DROP_IN))
    }

    fn is_imported(&self, path: &Path) -> bool {
        let matches = |pattern: &String| glob::Pattern::new(pattern).is_ok_and(|pattern| pattern.matches_path(path));
        self.patterns.iter().any(matches)
    }

    /// Whether the file's runtime of our name is this shim.
    fn defines_shim(&self, path: &Path, shim: &Path) -> bool {
        let of = |form: &Form| {
            let file = self.all().find(|file| file.path == path)?;
            let runtime = file.runtimes(form.plugin)?.get(RUNTIME)?.as_table_like()?;
            Some(runtime.get("runtime_type")?.as_str()? == shim.to_string_lossy())
        };
        super::FORMS.iter().filter_map(of).any(|is_shim| is_shim)
    }

    fn nothing_replaces(&self) -> Result<(), ConfigError> {
        let replaced = self.imported.iter().find(|file| self.daemon.major < 2 && file.cri(self.form.plugin).is_some());
        match replaced {
            Some(file) => {
                let (path, main) = (file.path.clone(), self.main.path.clone());
                Err(ConfigError::Replaced { path, daemon: self.daemon, main })
            }
            None => Ok(()),
        }
    }
}

/// Whether the text has a runtime of our name.
pub(crate) fn defines(text: &str, path: &Path) -> Result<bool, ConfigError> {
    Ok(super::File::parse(text.to_owned(), path)?.defines())
}

/// The text without the runtimes that were added to it, and without the tables that only led to them. None if nothing
/// but our note and the version remains.
pub(crate) fn without(text: &str, path: &Path, added: &[String]) -> Result<Option<String>, ConfigError> {
    let mut document = super::File::parse(text.to_owned(), path)?.document;
    for form in super::FORMS {
        take_out(document.as_table_mut(), &["plugins", form.plugin, "containerd", "runtimes"], added);
    }
    let bare = document.iter().all(|(key, _)| key == "version");
    Ok((!bare || !text.starts_with(NOTE)).then(|| document.to_string()))
}

fn take_out(table: &mut dyn TableLike, path: &[&str], added: &[String]) {
    let Some((first, rest)) = path.split_first() else {
        added.iter().for_each(|runtime| drop(table.remove(runtime)));
        return;
    };
    let Some(inner) = table.get_mut(first).and_then(Item::as_table_like_mut) else { return };
    take_out(inner, rest, added);
    let led_only = inner.is_empty() && table.get(first).and_then(Item::as_table).is_some_and(Table::is_implicit);
    if led_only {
        table.remove(first);
    }
}

fn runtimes_mut(document: &mut DocumentMut, form: Form) -> Result<&mut Item, ConfigError> {
    let mut item = document.as_item_mut();
    for key in ["plugins", form.plugin, "containerd", "runtimes"] {
        let shape = || ConfigError::Shape {
            path: PathBuf::from("the configuration"),
            key: key.to_owned(),
            expected: "a table",
        };
        let is_inline = item.is_inline_table();
        let table = item.as_table_like_mut().ok_or_else(shape)?;
        item = table.entry(key).or_insert_with(|| {
            let mut implicit = Table::new();
            implicit.set_implicit(true);
            if is_inline { value(implicit.into_inline_table()) } else { Item::Table(implicit) }
        });
        if !item.is_table_like() {
            return Err(shape());
        }
    }
    Ok(item)
}

/// In the form of the table that it goes into: those between braces have no room for others.
fn put(runtimes: &mut Item, name: &str, runtime: Table) {
    let is_inline = runtimes.is_inline_table();
    if let Some(table) = runtimes.as_table_like_mut() {
        table.insert(name, if is_inline { value(runtime.into_inline_table()) } else { Item::Table(runtime) });
    }
}
