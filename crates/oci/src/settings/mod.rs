//! What operator and pod author chose for one container, from all the places where they can say it.
//! Order: annotation for the container, for the pod, environment (where a server listens), operator default.

mod annotations;
mod http;
mod keys;
mod network;
mod operator;
mod options;
mod toml_text;
mod units;

use crate::RuntimeOptions;
use plan::{CacheSettings, Http, NetworkAccess, RootAccess};
use std::collections::HashMap;
use std::time::Duration;

pub use annotations::Error as AnnotationError;
pub use keys::KeyError;
pub use operator::Error as OperatorError;
pub use options::Error as OptionsError;
pub use toml_text::TomlError;

use keys::Maxima;
pub(crate) use keys::narrower;
pub(crate) use options::choose as choose_options;

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
    /// How long the guest may run.
    pub(crate) timeout: Option<Duration>,
    /// Instructions that the guest may execute.
    pub(crate) fuel: Option<u64>,
    /// What the guest may reach.
    pub(crate) network: NetworkAccess,
    /// How a guest of the http world is served.
    pub(crate) http: Http,
    /// What an annotation asks for the root filesystem.
    pub(crate) rootfs_asked: Option<RootAccess>,
    /// What the operator leaves of the root filesystem where nobody asks.
    pub(crate) rootfs_bound: RootAccess,
    /// The export to call.
    pub(crate) invoke: Option<String>,
    /// The node's cache of compiled code.
    pub(crate) cache: CacheSettings,
}

/// Gathers the settings. An operator's maximum is also what holds where nobody asks. `env` is the container's.
pub(crate) fn load(
    options: Option<&RuntimeOptions>,
    annotations: &HashMap<String, String>,
    env: &[String],
) -> Result<Settings, Error> {
    let operator = operator::load(options::choose(options)?.operator_file.as_deref())?;
    let asked = annotations::choose(annotations, &operator.maxima)?;
    let Maxima(maxima) = operator.maxima;
    let bounds = [operator.defaults.rootfs, maxima.rootfs];
    let rootfs_bound = bounds.into_iter().flatten().fold(RootAccess::ReadWrite, narrower);
    let rootfs_asked = asked.rootfs;
    let http = http::choose(&asked, env, &operator.defaults, &maxima);
    let chosen = asked.or(operator.defaults);
    Ok(Settings {
        memory_bytes: chosen.memory_bytes.or(maxima.memory_bytes),
        timeout: chosen.timeout.or(maxima.timeout),
        fuel: chosen.fuel.or(maxima.fuel),
        network: chosen.network.or(maxima.network).unwrap_or_default(),
        http,
        rootfs_asked,
        rootfs_bound,
        invoke: chosen.invoke,
        cache: operator.cache,
    })
}

/// The operator's settings of the node's cache.
pub(crate) fn operator_cache(options: Option<&RuntimeOptions>) -> Result<CacheSettings, Error> {
    Ok(operator::load(options::choose(options)?.operator_file.as_deref())?.cache)
}

#[cfg(test)]
mod fuzz_tests;
