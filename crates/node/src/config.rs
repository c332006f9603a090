//! containerd's configuration: what the files say, whether they would load, and the runtime that is added to them.
//! Facts about versions are in one table here; TOML is parsed, comments and order stay.

mod edit;
#[cfg(test)]
mod golden_tests;

pub(crate) use edit::{Change, RUNTIME, defines, without};

use crate::host::{Host, HostError};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use toml_edit::{DocumentMut, TableLike, TomlError};

/// A version of containerd, as it says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Daemon {
    pub(crate) major: u64,
    pub(crate) minor: u64,
}

/// A file of the configuration.
#[derive(Debug)]
pub(crate) struct File {
    pub(crate) path: PathBuf,
    pub(crate) text: String,
    document: DocumentMut,
}

/// The main file, and those that it imports, in the order in which containerd reads them.
#[derive(Debug)]
pub(crate) struct Files {
    main: File,
    imported: Vec<File>,
    /// The patterns of the main file's `imports`, absolute.
    patterns: Vec<String>,
    form: Form,
    daemon: Daemon,
}

/// The value of `version`, and where it has the runtimes of CRI.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Form {
    version: i64,
    plugin: &'static str,
    /// The first containerd that reads it.
    since: Daemon,
}

const FORMS: [Form; 3] = [
    Form { version: 2, plugin: "io.containerd.grpc.v1.cri", since: Daemon { major: 1, minor: 3 } },
    Form { version: 3, plugin: "io.containerd.cri.v1.runtime", since: Daemon { major: 2, minor: 0 } },
    Form { version: 4, plugin: "io.containerd.cri.v1.runtime", since: Daemon { major: 2, minor: 3 } },
];

/// The oldest containerd that is served.
const OLDEST: Daemon = Daemon { major: 1, minor: 7 };

/// Why a configuration is not touched.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConfigError {
    #[error(transparent)]
    Host(#[from] HostError),
    #[error("{path} would not load: {}", one_line(source))]
    Syntax {
        path: PathBuf,
        #[source]
        source: Box<TomlError>,
    },
    #[error("{path} would not load: it is not UTF-8")]
    Encoding { path: PathBuf },
    #[error(
        "{importer} would not load: it imports {import}, which is not there, or outside of the folder that this pod sees"
    )]
    MissingImport { importer: PathBuf, import: String },
    #[error("{path} would not load: {key} is not {expected}")]
    Shape { path: PathBuf, key: String, expected: &'static str },
    #[error(
        "{path} has version {found} of containerd's configuration: containerd {daemon} is configured by {served}; \
             `containerd config migrate` writes it anew"
    )]
    Version { path: PathBuf, found: i64, daemon: Daemon, served: String },
    #[error("containerd {0} is too old: wasm-node serves containerd 1.7 and 2.x")]
    TooOld(Daemon),
    #[error("containerd says its version is {0:?}: expected numbers such as 2.3.7")]
    Unreadable(String),
    #[error("{path} defines the runtime `{RUNTIME}` already, and wasm-node did not write it: remove it there first")]
    Defined { path: PathBuf },
    #[error(
        "{path} replaces CRI's whole configuration in containerd {daemon}: name that file with --config, or move its \
             settings to {main}"
    )]
    Replaced { path: PathBuf, daemon: Daemon, main: PathBuf },
}

impl std::fmt::Display for Daemon {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

impl Daemon {
    /// Reads what containerd's version service says: `v2.3.7`, `1.7.24~ds1`.
    pub(crate) fn parse(version: &str) -> Result<Daemon, ConfigError> {
        let mut numbers = version.trim_start_matches('v').split(|c: char| !c.is_ascii_digit()).map(str::parse);
        match (numbers.next(), numbers.next()) {
            (Some(Ok(major)), Some(Ok(minor))) => Ok(Daemon { major, minor }),
            _ => Err(ConfigError::Unreadable(version.to_owned())),
        }
    }
}

impl File {
    fn read(host: &Host, path: &Path) -> Result<Option<File>, ConfigError> {
        let Some(bytes) = host.read(path)? else { return Ok(None) };
        let text = String::from_utf8(bytes).map_err(|_| ConfigError::Encoding { path: path.to_owned() })?;
        File::parse(text, path).map(Some)
    }

    fn parse(text: String, path: &Path) -> Result<File, ConfigError> {
        let document =
            text.parse().map_err(|source| ConfigError::Syntax { path: path.to_owned(), source: Box::new(source) })?;
        Ok(File { path: path.to_owned(), text, document })
    }

    /// The table of CRI's runtimes, by the plugin's name.
    fn runtimes(&self, plugin: &str) -> Option<&dyn TableLike> {
        self.cri(plugin)?.get("runtimes")?.as_table_like()
    }

    /// Whether it has a runtime of our name, in any version's place.
    fn defines(&self) -> bool {
        FORMS.iter().any(|form| self.runtimes(form.plugin).is_some_and(|runtimes| runtimes.contains_key(RUNTIME)))
    }

    fn cri(&self, plugin: &str) -> Option<&dyn TableLike> {
        let plugins = self.document.get("plugins")?.as_table_like()?;
        plugins.get(plugin)?.as_table_like()?.get("containerd")?.as_table_like()
    }

    /// `imports`, as absolute patterns.
    fn imports(&self) -> Result<Vec<String>, ConfigError> {
        let shape =
            || ConfigError::Shape { path: self.path.clone(), key: "imports".to_owned(), expected: "a list of paths" };
        let Some(imports) = self.document.get("imports") else { return Ok(Vec::new()) };
        let imports = imports.as_array().ok_or_else(shape)?;
        let base = self.path.parent().unwrap_or(Path::new("/"));
        let absolute = |import: &toml_edit::Value| {
            let import = import.as_str().ok_or_else(shape)?;
            Ok(base.join(import).display().to_string())
        };
        imports.iter().map(absolute).collect()
    }

    fn version(&self) -> Result<Option<i64>, ConfigError> {
        let Some(version) = self.document.get("version") else { return Ok(None) };
        let shape = || ConfigError::Shape { path: self.path.clone(), key: "version".to_owned(), expected: "a number" };
        version.as_integer().map(Some).ok_or_else(shape)
    }
}

impl Files {
    /// Reads them all, and refuses what this containerd would not load.
    pub(crate) fn read(host: &Host, main: &Path, daemon: Daemon) -> Result<Files, ConfigError> {
        if daemon < OLDEST {
            return Err(ConfigError::TooOld(daemon));
        }
        let newest = FORMS.iter().rfind(|form| form.since <= daemon).unwrap_or(&FORMS[0]);
        host.no_link(main)?;
        let main = match File::read(host, main)? {
            Some(file) => file,
            // containerd runs without one; the third version is what all of 2.x reads.
            None => {
                let version = newest.version.min(3);
                let text = format!("version = {version}\n");
                let document = text.parse().expect("a number is a document");
                File { path: main.to_owned(), text: String::new(), document }
            }
        };
        let found = main.version()?.unwrap_or(1);
        let served = FORMS.iter().filter(|form| form.since <= daemon);
        let Some(&form) = served.clone().find(|form| form.version == found) else {
            let versions: Vec<_> = served.map(|form| form.version.to_string()).collect();
            let served = format!("version {}", versions.join(" or "));
            return Err(ConfigError::Version { path: main.path, found, daemon, served });
        };
        let patterns = main.imports()?;
        let imported = imports(host, &main, &mut BTreeSet::from([main.path.clone()]))?;
        for file in imported.iter().chain([&main]) {
            if file.document.get("plugins").is_some_and(|plugins| !plugins.is_table_like()) {
                let path = file.path.clone();
                return Err(ConfigError::Shape { path, key: "plugins".to_owned(), expected: "a table" });
            }
        }
        Ok(Files { main, imported, patterns, form, daemon })
    }

    /// The main file, then those it imports.
    pub(crate) fn all(&self) -> impl Iterator<Item = &File> {
        std::iter::once(&self.main).chain(&self.imported)
    }

    /// Those that define a runtime of our name, in any version's place.
    pub(crate) fn defining(&self) -> Vec<&Path> {
        self.all().filter(|file| file.defines()).map(|file| file.path.as_path()).collect()
    }

    /// A setting of CRI, of the last file that has it.
    fn last<'a, T>(&'a self, of: impl Fn(&'a dyn TableLike) -> Option<T>) -> Option<T> {
        let tables = self.all().filter_map(|file| file.cri(self.form.plugin));
        tables.filter_map(of).last()
    }
}

/// What `file` imports, and what those import; each once.
fn imports(host: &Host, file: &File, seen: &mut BTreeSet<PathBuf>) -> Result<Vec<File>, ConfigError> {
    let mut found = Vec::new();
    for pattern in file.imports()? {
        let is_pattern = pattern.contains(['*', '?', '[']);
        if is_pattern {
            host.no_link(Path::new(&pattern))?;
        }
        let paths = if is_pattern { host.matching(&pattern) } else { vec![PathBuf::from(&pattern)] };
        for path in paths.into_iter().filter(|path| !seen.contains(path)).collect::<Vec<_>>() {
            let Some(import) = File::read(host, &path)? else {
                // One that leads out of the folders that a pod sees.
                host.no_link(&path)?;
                return Err(ConfigError::MissingImport { importer: file.path.clone(), import: pattern });
            };
            seen.insert(path);
            let further = imports(host, &import, seen)?;
            found.push(import);
            found.extend(further);
        }
    }
    Ok(found)
}

fn one_line(error: &TomlError) -> String {
    error.to_string().lines().map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join(" ")
}
