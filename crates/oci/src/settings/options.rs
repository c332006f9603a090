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

/// The operator file that the options name in place of the default one.
pub(crate) fn operator_file(options: Option<&RuntimeOptions>) -> Result<Option<PathBuf>, Error> {
    let Some(options) = options else {
        return Ok(None);
    };
    // Clients may write the type as a URL: `types.containerd.io/runtimeoptions.v1.Options`.
    let name = options.type_url.rsplit('/').next().unwrap_or(&options.type_url);
    match name {
        "" => return Ok(None),
        name if RUNC.contains(&name) => return Ok(None),
        GENERIC => {}
        _ => return Err(Error::Type(options.type_url.clone())),
    }
    let generic = Generic::decode(options.value.as_slice()).map_err(Error::Decode)?;
    let config_path = match generic.config_path.as_str() {
        "" => None,
        path => Some(absolute("config_path", path)?),
    };
    match (config_path, config_file(&generic.config_body)?) {
        (Some(config_path), Some(config_file)) if config_path != config_file => {
            Err(Error::TwoFiles { config_path, config_file })
        }
        (config_path, config_file) => Ok(config_path.or(config_file)),
    }
}

fn config_file(body: &[u8]) -> Result<Option<PathBuf>, Error> {
    let mut file = None;
    for (key, value) in toml_text::parse(body).map_err(Error::Toml)? {
        match (key.as_str(), value) {
            ("ConfigFile", Value::String(path)) => file = Some(absolute("ConfigFile", &path)?),
            ("ConfigFile", _) => return Err(not_absolute("ConfigFile")),
            // The form of cgroupsPath decides.
            ("SystemdCgroup", Value::Boolean(_)) => {}
            ("SystemdCgroup", _) => {
                return Err(Error::BadValue { key: "SystemdCgroup", expected: "true or false" });
            }
            // The runc for Linux containers in a pod, which come with a later issue.
            ("BinaryName", Value::String(_)) => {}
            ("BinaryName", _) => {
                return Err(Error::BadValue { key: "BinaryName", expected: "a string" });
            }
            (_, _) => return Err(Error::UnknownKey(key)),
        }
    }
    Ok(file)
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
        let got = operator_file(options.as_ref()).map_err(|error| chain(&error));
        let wanted = wanted.map(|file| file.map(PathBuf::from)).map_err(str::to_owned);
        assert_eq!(got, wanted, "{options:?}");
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
        let error = operator_file(typed("x/runtimeoptions.v1.Options", b"\xff").as_ref());
        assert!(matches!(error, Err(Error::Decode(_))), "{error:?}");
        let error = operator_file(Some(&generic("", "a = "))).unwrap_err();
        assert!(chain(&error).starts_with("runtime options are not valid toml: line 1: "), "{error:?}");
    }
}
