//! New limits for a container that runs: `UpdateTaskRequest.resources`.

use crate::lowering;
use oci_spec::runtime::LinuxResources;
use plan::Limits;

/// The last part of the type of an OCI `LinuxResources` (containerd, `typeurl`); before it stands a prefix and the
/// version of the runtime spec.
const TYPE: &str = "LinuxResources";

/// What an update comes to.
#[derive(Debug)]
pub struct Update {
    /// The limits that change.
    pub limits: Limits,
    /// One line each: what was asked for and is not applied, for the log.
    pub warnings: Vec<String>,
}

/// Why an update is refused.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nothing to update to.
    #[error("the update has no resources: send linux resources of the oci runtime spec")]
    Missing,
    /// For another system.
    #[error("the update is of type {0}: send linux resources of the oci runtime spec")]
    Type(String),
    /// Not JSON, or not of the shape the runtime spec demands.
    #[error("the resources of the update are not valid")]
    Parse(#[source] serde_json::Error),
    /// A limit.
    #[error(transparent)]
    Lowering(#[from] lowering::Error),
}

/// Lowers the resources of an update, JSON of the given type.
pub fn update(type_url: &str, value: &[u8]) -> Result<Update, Error> {
    let resources = resources(type_url, value)?;
    let mut warnings = Vec::new();
    let limits = lowering::lower_update(&resources, &mut warnings)?;
    Ok(Update { limits, warnings })
}

/// Reads the resources of an update.
pub fn resources(type_url: &str, value: &[u8]) -> Result<LinuxResources, Error> {
    if type_url.is_empty() && value.is_empty() {
        return Err(Error::Missing);
    }
    if type_url.rsplit('/').next() != Some(TYPE) {
        return Err(Error::Type(type_url.to_owned()));
    }
    serde_json::from_slice(value).map_err(Error::Parse)
}

#[cfg(test)]
mod tests {
    use super::*;
    use plan::Bound;

    #[test]
    fn resources_of_the_runtime_spec_are_read() {
        let kind = "types.containerd.io/opencontainers/runtime-spec/1/LinuxResources";
        let update = update(kind, br#"{"memory":{"limit":5},"cpu":{"burst":1}}"#).unwrap();
        assert_eq!(update.limits.memory.limit, Some(Bound::At(5)));
        assert_eq!(update.warnings, ["linux.resources.cpu.burst is not applied"]);
    }

    #[test]
    fn anything_else_is_refused_by_name() {
        let kind = "types.containerd.io/opencontainers/runtime-spec/1/";
        let cases = [
            (String::new(), "", "the update has no resources: send linux resources of the oci runtime spec"),
            (format!("{kind}WindowsResources"), "{}", "runtime-spec/1/WindowsResources: send linux resources"),
            (format!("{kind}LinuxResources"), "{", "the resources of the update are not valid: EOF while parsing"),
            (format!("{kind}LinuxResources"), r#"{"pids":{"limit":"x"}}"#, "not valid: invalid type: string"),
        ];
        for (kind, value, wanted) in cases {
            let error = update(&kind, value.as_bytes()).unwrap_err();
            let line = crate::chain(&error);
            assert!(line.contains(wanted), "{line}");
        }
    }
}
