//! What operator and pod author chose for one container, from all the places where they can say it.
//! Order: annotation for the container, for the pod, operator default. (A key that also has an environment variable
//! takes it before the operator's default; none of the built keys has one.)

mod annotations;
mod keys;
mod operator;
mod options;
mod toml_text;
mod units;

use crate::RuntimeOptions;
use plan::{CacheSettings, RootAccess};
use std::collections::HashMap;

pub use annotations::Error as AnnotationError;
pub use keys::KeyError;
pub use operator::Error as OperatorError;
pub use options::Error as OptionsError;
pub use toml_text::TomlError;

pub(crate) use keys::narrower;

/// Why the settings are refused.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The runtime options of containerd's configuration.
    #[error(transparent)]
    Options(#[from] OptionsError),
    /// The operator's file.
    #[error(transparent)]
    Operator(#[from] OperatorError),
    /// An annotation of the pod.
    #[error(transparent)]
    Annotation(#[from] AnnotationError),
}

/// The settings that hold for one container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Settings {
    /// What the guest's memory is bounded by, apart from the cgroup.
    pub(crate) memory_bytes: Option<u64>,
    /// What an annotation asks for the root filesystem.
    pub(crate) rootfs_asked: Option<RootAccess>,
    /// What the operator leaves of the root filesystem where nobody asks.
    pub(crate) rootfs_bound: RootAccess,
    /// The export to call.
    pub(crate) invoke: Option<String>,
    /// The node's cache of compiled code.
    pub(crate) cache: CacheSettings,
}

/// Gathers the settings. An operator's maximum is also what holds where nobody asks.
pub(crate) fn load(options: Option<&RuntimeOptions>, annotations: &HashMap<String, String>) -> Result<Settings, Error> {
    let file = options::operator_file(options)?;
    let operator = operator::load(file.as_deref())?;
    let asked = annotations::choose(annotations, &operator.maxima)?;
    let bounds = [operator.defaults.rootfs, operator.maxima.rootfs];
    let rootfs_bound = bounds.into_iter().flatten().fold(RootAccess::ReadWrite, narrower);
    let rootfs_asked = asked.rootfs;
    let chosen = asked.or(operator.defaults);
    Ok(Settings {
        memory_bytes: chosen.memory_bytes.or(operator.maxima.memory_bytes),
        rootfs_asked,
        rootfs_bound,
        invoke: chosen.invoke,
        cache: operator.cache,
    })
}

#[cfg(test)]
mod fuzz_tests;
