//! Which runtime runs a container, and its options, as a client names them to containerd.

use prost::Message;
use prost_types::Any;
use std::path::Path;

/// A runtime with its options.
#[derive(Debug, Clone, PartialEq)]
pub struct Runtime {
    pub(crate) name: String,
    pub(crate) options: Option<Any>,
}

/// `runtimeoptions.v1.Options` of containerd's API.
#[derive(Clone, PartialEq, Message)]
struct RuntimeOptions {
    #[prost(string, tag = "1")]
    type_url: String,
    #[prost(string, tag = "2")]
    config_path: String,
    #[prost(bytes = "vec", tag = "3")]
    config_body: Vec<u8>,
}

/// `containerd.runc.v1.Options` of containerd's API, as far as it is used here.
#[derive(Clone, PartialEq, Message)]
struct RuncOptions {
    #[prost(string, tag = "6")]
    binary_name: String,
}

impl Runtime {
    /// Ours, with this operator file.
    pub fn wasm(operator_file: &Path) -> Runtime {
        let options =
            RuntimeOptions { config_path: operator_file.to_string_lossy().into_owned(), ..RuntimeOptions::default() };
        let options = Any { type_url: "runtimeoptions.v1.Options".to_owned(), value: options.encode_to_vec() };
        Runtime { name: "io.containerd.wasm.v1".to_owned(), options: Some(options) }
    }

    /// containerd's own, with this OCI runtime: `runc` or another with its command line.
    pub fn runc(binary: &str) -> Runtime {
        let options = RuncOptions { binary_name: binary.to_owned() };
        let options = Any { type_url: "containerd.runc.v1.Options".to_owned(), value: options.encode_to_vec() };
        Runtime { name: "io.containerd.runc.v2".to_owned(), options: Some(options) }
    }

    /// Another by its name, without options.
    pub fn named(name: &str) -> Runtime {
        Runtime { name: name.to_owned(), options: None }
    }
}
