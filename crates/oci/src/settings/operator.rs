//! The operator's file: defaults and maxima for what pods choose, and the node's own settings of the cache.
//! It must not know annotations.

use super::keys::{Choices, KeyError, Maxima};
use super::toml_text::{self, TomlError};
use super::units;
use plan::{CacheSettings, CompileBounds};
use std::io;
use std::path::{Path, PathBuf};
use toml::{Table, Value};

/// Read if it exists; all has a default.
const DEFAULT_FILE: &str = "/etc/containerd-shim-wasm/config.toml";

/// Why the operator's file is refused.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file is unreadable, or was named by the runtime options and is absent.
    #[error("read operator file {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// Not TOML.
    #[error("operator file {path} is not valid toml")]
    Toml {
        /// The file.
        path: PathBuf,
        /// The place and the reason.
        #[source]
        source: TomlError,
    },
    /// A table that the file does not have.
    #[error("operator file {path}: unknown {table}: known tables are [defaults], [maxima], [cache]")]
    UnknownTable {
        /// The file.
        path: PathBuf,
        /// The top-level key.
        table: String,
    },
    /// A known table's name with something else than a table.
    #[error("operator file {path}: {table} is not a table: write [{table}]")]
    NotATable {
        /// The file.
        path: PathBuf,
        /// The top-level key.
        table: String,
    },
    /// A key of `[defaults]` or `[maxima]`, or its value.
    #[error("operator file {path}: [{table}]")]
    Key {
        /// The file.
        path: PathBuf,
        /// The table.
        table: &'static str,
        /// What is wrong.
        #[source]
        source: KeyError,
    },
    /// A key that `[cache]` does not have.
    #[error(
        "operator file {path}: unknown key {key} in [cache]: known keys are dir, size, compile-memory, compile-timeout, wasm-size"
    )]
    UnknownCacheKey {
        /// The file.
        path: PathBuf,
        /// The key.
        key: String,
    },
    /// A value of `[cache]`.
    #[error("operator file {path}: bad value {value:?} of {key} in [cache]: expected {expected}")]
    BadCacheValue {
        /// The file.
        path: PathBuf,
        /// The key.
        key: String,
        /// What was written.
        value: String,
        /// The form the key takes.
        expected: &'static str,
    },
}

/// The file's content, with the built-in defaults where it says nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Operator {
    pub(crate) defaults: Choices,
    pub(crate) maxima: Maxima,
    pub(crate) cache: CacheSettings,
}

impl Default for Operator {
    fn default() -> Self {
        Operator {
            defaults: Choices::default(),
            maxima: Maxima::default(),
            cache: CacheSettings {
                dir: PathBuf::from("/var/lib/containerd-shim-wasm/cache"),
                size_bytes: 2 << 30,
                compile: CompileBounds {
                    // Address space, of which the compiler touches only a part.
                    memory_bytes: 4 << 30,
                    time_ms: 120_000,
                    wasm_bytes: 256 << 20,
                },
            },
        }
    }
}

/// Reads the file that the runtime options name, else the default one if it is there.
pub(crate) fn load(named: Option<&Path>) -> Result<Operator, Error> {
    let path = named.unwrap_or(Path::new(DEFAULT_FILE));
    match std::fs::read(path) {
        Ok(text) => parse(path, &text),
        Err(error) if named.is_none() && error.kind() == io::ErrorKind::NotFound => Ok(Operator::default()),
        Err(source) => Err(Error::Read { path: path.to_owned(), source }),
    }
}

fn parse(path: &Path, text: &[u8]) -> Result<Operator, Error> {
    let mut operator = Operator::default();
    let tables = toml_text::parse(text).map_err(|source| Error::Toml { path: path.to_owned(), source })?;
    for (name, value) in tables {
        let table = match (name.as_str(), value) {
            ("defaults" | "maxima" | "cache", Value::Table(table)) => table,
            ("defaults" | "maxima" | "cache", _) => {
                return Err(Error::NotATable { path: path.to_owned(), table: name });
            }
            (_, value) => {
                return Err(Error::UnknownTable {
                    path: path.to_owned(),
                    table: match value {
                        Value::Table(_) => format!("table [{name}]"),
                        _ => format!("key {name}"),
                    },
                });
            }
        };
        match name.as_str() {
            "defaults" => set_all(path, "defaults", &table, &mut |key, value| operator.defaults.set(key, value))?,
            "maxima" => set_all(path, "maxima", &table, &mut |key, value| operator.maxima.set(key, value))?,
            _ => set_cache(path, &mut operator.cache, &table)?,
        }
    }
    operator.defaults.within(&operator.maxima).map_err(|source| Error::Key {
        path: path.to_owned(),
        table: "defaults",
        source,
    })?;
    Ok(operator)
}

fn set_all(
    path: &Path,
    table: &'static str,
    values: &Table,
    set: &mut dyn FnMut(&str, &str) -> Result<(), KeyError>,
) -> Result<(), Error> {
    for (key, value) in flatten(values) {
        set(&key, &value).map_err(|source| Error::Key { path: path.to_owned(), table, source })?;
    }
    Ok(())
}

/// TOML reads `limits.memory = "64Mi"` as a table `limits`: gives the keys back as they were written.
fn flatten(table: &Table) -> Vec<(String, String)> {
    let mut flat = Vec::new();
    for (key, value) in table {
        match value {
            Value::Table(inner) => {
                let inner = flatten(inner).into_iter();
                flat.extend(inner.map(|(rest, value)| (format!("{key}.{rest}"), value)));
            }
            _ => flat.push((key.clone(), text(value))),
        }
    }
    flat
}

fn set_cache(path: &Path, cache: &mut CacheSettings, values: &Table) -> Result<(), Error> {
    for (key, value) in flatten(values) {
        let bad =
            |expected| Error::BadCacheValue { path: path.to_owned(), key: key.clone(), value: value.clone(), expected };
        let size = || units::size(&value).ok_or_else(|| bad(units::SIZE_FORM));
        match key.as_str() {
            "dir" if Path::new(&value).is_absolute() => cache.dir = PathBuf::from(&value),
            "dir" => return Err(bad("an absolute path")),
            "size" => cache.size_bytes = size()?,
            "compile-memory" => cache.compile.memory_bytes = size()?,
            "wasm-size" => cache.compile.wasm_bytes = size()?,
            "compile-timeout" => {
                let time = units::duration(&value).ok_or_else(|| bad(units::DURATION_FORM))?;
                cache.compile.time_ms =
                    u64::try_from(time.as_millis()).expect("a duration is parsed from whole milliseconds in 64 bits");
            }
            _ => {
                return Err(Error::UnknownCacheKey { path: path.to_owned(), key });
            }
        }
    }
    Ok(())
}

/// The value as a pod author would write it in an annotation.
fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Integer(number) => number.to_string(),
        Value::Float(number) => number.to_string(),
        Value::Boolean(truth) => truth.to_string(),
        Value::Datetime(time) => time.to_string(),
        Value::Array(values) => values.iter().map(text).collect::<Vec<_>>().join(","),
        // Only inside an array, and no key takes that; the key's own form is named in the error.
        Value::Table(_) => "{}".to_owned(),
    }
}

#[cfg(test)]
#[path = "operator_tests.rs"]
mod tests;
