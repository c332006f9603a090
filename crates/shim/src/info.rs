//! What `-v` and `-info` print.

use containerd_shim_protos::protobuf::well_known_types::any::Any;
use containerd_shim_protos::types::introspection::{RuntimeInfo, RuntimeVersion};
use protobuf::{Message, MessageField};
use serde_json::json;
use std::io::Write;

/// The runtime type of this shim.
const NAME: &str = "io.containerd.wasm.v1";
/// The type of the OCI `features` document inside of a runtime's description.
const FEATURES: &str = "types.containerd.io/opencontainers/runtime-spec/1/features/Features";

/// `-v`: the version, for people.
pub(crate) fn version() -> anyhow::Result<()> {
    println!("containerd-shim-wasm-v1 {}", env!("CARGO_PKG_VERSION"));
    Ok(())
}

/// `-info`: a `RuntimeInfo` in protobuf, for containerd.
pub(crate) fn info() -> anyhow::Result<()> {
    let mut info = RuntimeInfo::new();
    info.name = NAME.to_owned();
    let version = RuntimeVersion { version: env!("CARGO_PKG_VERSION").to_owned(), ..RuntimeVersion::default() };
    info.version = MessageField::some(version);
    let value = serde_json::to_vec(&features())?;
    info.features = MessageField::some(Any { type_url: FEATURES.to_owned(), value, ..Any::default() });
    Ok(std::io::stdout().write_all(&info.write_to_bytes()?)?)
}

/// The OCI runtime spec's `features` document.
fn features() -> serde_json::Value {
    json!({
        "ociVersionMin": "1.0.0",
        "ociVersionMax": "1.2.0",
        "hooks": ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"],
        "mountOptions": [
            "bind", "idmap", "noatime", "nodev", "noexec", "nosuid", "rbind", "ridmap", "ro", "rprivate", "rro", "rw",
        ],
        "linux": {
            "namespaces": ["cgroup", "ipc", "mount", "network", "pid", "user", "uts"],
            "capabilities": [],
            "cgroup": { "v1": true, "v2": true, "systemd": true, "systemdUser": false },
            "seccomp": {
                "enabled": true,
                "actions": [
                    "SCMP_ACT_ALLOW", "SCMP_ACT_ERRNO", "SCMP_ACT_KILL", "SCMP_ACT_KILL_PROCESS",
                    "SCMP_ACT_KILL_THREAD", "SCMP_ACT_LOG", "SCMP_ACT_TRACE", "SCMP_ACT_TRAP",
                ],
            },
            "apparmor": { "enabled": true },
            "selinux": { "enabled": false },
            "mountExtensions": { "idmap": { "enabled": true } }
        }
    })
}
