//! Decodes the runtime options that containerd passes with Create.
//! It must not read the files that the options name.

use super::toml_text::{self, TomlError};
use crate::RuntimeOptions;
use prost::Message;
use std::path::PathBuf;
use toml::Value;

/// The options of a runtime that containerd does not know (containerd, `api/types/runtimeoptions/v1`).
const GENERIC: &str = "runtimeoptions.v1.Options";
/// The options of runc, which some clients send to every runtime (`ctr run --uidmap`). They say nothing about us.
const RUNC: [&str; 2] = ["containerd.runc.v1.Options", "containerd.linux.runc.CreateOptions"];

/// Why the runtime options are refused.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Options of a runtime that is not ours.
    #[error("runtime options of type {0}: expected {GENERIC}")]
    Type(String),
    /// Not a protobuf message of the generic type.
    #[error("runtime options are not a valid {GENERIC} message")]
    Decode(#[source] prost::DecodeError),
    /// The table is not TOML in UTF-8.
    #[error("runtime options are not valid toml")]
    Toml(#[source] TomlError),
    /// A key of the table that we do not have.
    #[error("unknown runtime option {0}: known options are BinaryName, SystemdCgroup, ConfigFile")]
    UnknownKey(String),
    /// A value of the wrong form.
    #[error("bad value of runtime option {key}: expected {expected}")]
    BadValue {
        /// The option.
        key: &'static str,
        /// The form it takes.
        expected: &'static str,
    },
    /// Two operator files.
    #[error("runtime options name two operator files, {config_path} and {config_file}: give one")]
    TwoFiles {
        /// From `config_path`.
        config_path: PathBuf,
        /// From `ConfigFile` of the table.
        config_file: PathBuf,
    },
}

/// `runtimeoptions.v1.Options`. containerd 1.6 and 1.7 fill the path only, 2.x also the body.
#[derive(Clone, PartialEq, Message)]
struct Generic {
    #[prost(string, tag = "1")]
    type_url: String,
    #[prost(string, tag = "2")]
    config_path: String,
    #[prost(bytes = "vec", tag = "3")]
    config_body: Vec<u8>,
}

/// What the options choose.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Chosen {
    /// The operator file in place of the default one.
    pub(crate) operator_file: Option<PathBuf>,
    /// The runc for Linux containers, by path or name.
    pub(crate) binary_name: Option<PathBuf>,
}

/// Reads the options.
pub(crate) fn choose(options: Option<&RuntimeOptions>) -> Result<Chosen, Error> {
    let Some(options) = options else {
        return Ok(Chosen::default());
    };
    // Clients may write the type as a URL: `types.containerd.io/runtimeoptions.v1.Options`.
    let name = options.type_url.rsplit('/').next().unwrap_or(&options.type_url);
    match name {
        "" => return Ok(Chosen::default()),
        name if RUNC.contains(&name) => return Ok(Chosen::default()),
        GENERIC => {}
        _ => return Err(Error::Type(options.type_url.clone())),
    }
    let generic = Generic::decode(options.value.as_slice()).map_err(Error::Decode)?;
    let config_path = match generic.config_path.as_str() {
        "" => None,
        path => Some(absolute("config_path", path)?),
    };
    let table = table(&generic.config_body)?;
    match (config_path, table.operator_file) {
        (Some(config_path), Some(config_file)) if config_path != config_file => {
            Err(Error::TwoFiles { config_path, config_file })
        }
        (config_path, config_file) => Ok(Chosen { operator_file: config_path.or(config_file), ..table }),
    }
}

fn table(body: &[u8]) -> Result<Chosen, Error> {
    let mut chosen = Chosen::default();
    for (key, value) in toml_text::parse(body).map_err(Error::Toml)? {
        match (key.as_str(), value) {
            ("ConfigFile", Value::String(path)) => chosen.operator_file = Some(absolute("ConfigFile", &path)?),
            ("ConfigFile", _) => return Err(not_absolute("ConfigFile")),
            // The form of cgroupsPath decides.
            ("SystemdCgroup", Value::Boolean(_)) => {}
            ("SystemdCgroup", _) => {
                return Err(Error::BadValue { key: "SystemdCgroup", expected: "true or false" });
            }
            ("BinaryName", Value::String(name)) if name.is_empty() => {}
            ("BinaryName", Value::String(name)) if name.starts_with('/') || !name.contains('/') => {
                chosen.binary_name = Some(name.into());
            }
            ("BinaryName", _) => {
                return Err(Error::BadValue { key: "BinaryName", expected: "an absolute path, or a name in PATH" });
            }
            (_, _) => return Err(Error::UnknownKey(key)),
        }
    }
    Ok(chosen)
}

fn absolute(key: &'static str, path: &str) -> Result<PathBuf, Error> {
    let path = PathBuf::from(path);
    if path.is_absolute() { Ok(path) } else { Err(not_absolute(key)) }
}

fn not_absolute(key: &'static str) -> Error {
    Error::BadValue { key, expected: "an absolute path" }
}

/// The options as containerd sends them.
#[cfg(test)]
pub(super) fn generic(config_path: &str, body: &[u8]) -> RuntimeOptions {
    let message = Generic { type_url: String::new(), config_path: config_path.to_owned(), config_body: body.to_vec() };
    RuntimeOptions { type_url: GENERIC.to_owned(), value: message.encode_to_vec() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chain;

    fn generic(config_path: &str, body: &str) -> RuntimeOptions {
        super::generic(config_path, body.as_bytes())
    }

    fn check(options: Option<RuntimeOptions>, wanted: Result<Option<&str>, &str>) {
        let got = choose(options.as_ref()).map(|chosen| chosen.operator_file).map_err(|error| chain(&error));
        let wanted = wanted.map(|file| file.map(PathBuf::from)).map_err(str::to_owned);
        assert_eq!(got, wanted, "{options:?}");
    }

    #[test]
    fn options_name_a_runc_by_path_or_name() {
        let named = |body: &str| choose(Some(&generic("", body))).map(|chosen| chosen.binary_name);
        assert_eq!(named("BinaryName = 'crun'").unwrap(), Some(PathBuf::from("crun")));
        assert_eq!(named("BinaryName = '/opt/runc'").unwrap(), Some(PathBuf::from("/opt/runc")));
        assert_eq!(named("BinaryName = ''").unwrap(), None);
        for bad in ["BinaryName = 'bin/runc'", "BinaryName = 1"] {
            let line = chain(&named(bad).unwrap_err());
            let wanted = "bad value of runtime option BinaryName: expected an absolute path, or a name in PATH";
            assert_eq!(line, wanted, "{bad}");
        }
    }

    #[test]
    fn options_name_an_operator_file_or_are_refused() {
        let typed = |type_url: &str, value: &[u8]| {
            Some(RuntimeOptions { type_url: type_url.to_owned(), value: value.to_vec() })
        };
        check(None, Ok(None));
        check(typed("", b""), Ok(None));
        for runc in RUNC {
            check(typed(runc, b"\xff"), Ok(None));
        }
        check(Some(generic("", "")), Ok(None));
        check(Some(generic("/etc/a.toml", "")), Ok(Some("/etc/a.toml")));
        let body = "BinaryName = 'runc'\nSystemdCgroup = false\nConfigFile = '/etc/b.toml'";
        check(Some(generic("", body)), Ok(Some("/etc/b.toml")));
        check(
            Some(generic("/a", "ConfigFile = '/b'")),
            Err("runtime options name two operator files, /a and /b: give one"),
        );
        check(Some(generic("a.toml", "")), Err("bad value of runtime option config_path: expected an absolute path"));
        check(
            Some(generic("", "Root = '/x'")),
            Err("unknown runtime option Root: known options are BinaryName, SystemdCgroup, ConfigFile"),
        );
        check(Some(generic("", "SystemdCgroup = true")), Ok(None));
        check(
            Some(generic("", "SystemdCgroup = 'yes'")),
            Err("bad value of runtime option SystemdCgroup: expected true or false"),
        );
        check(
            typed("kata.Options", b""),
            Err("runtime options of type kata.Options: expected runtimeoptions.v1.Options"),
        );
        let error = choose(typed("x/runtimeoptions.v1.Options", b"\xff").as_ref());
        assert!(matches!(error, Err(Error::Decode(_))), "{error:?}");
        let error = choose(Some(&generic("", "a = "))).unwrap_err();
        assert!(chain(&error).starts_with("runtime options are not valid toml: line 1: "), "{error:?}");
    }
}
