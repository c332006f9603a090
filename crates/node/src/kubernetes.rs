//! The Kubernetes API, by the pod's own token: this node's label and events, the lease that one node at a time holds.
//!
//! A client of our own over `ureq`: kube's turns on features of tokio that one build of this workspace must not have, and
//! what is asked for here is six calls.

mod api;
mod lease;

pub(crate) use api::{Api, ApiError};
pub(crate) use lease::{Held, Lease};

use serde_json::{Value, json};
use std::str::FromStr;
use std::time::SystemTime;

/// `true` on a DaemonSet while all of it goes: its pods then leave their nodes to the jobs.
pub(crate) const UNINSTALLING: &str = "io.containerd.wasm.v1/uninstalling";
/// The node's label; its values are those of [`Standing`].
pub(crate) const LABEL: &str = "io.containerd.wasm.v1/node";
/// The version that was verified, an annotation of the node.
pub(crate) const VERSION: &str = "io.containerd.wasm.v1/version";

/// `NAMESPACE/NAME`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ObjectName {
    namespace: String,
    name: String,
}

/// What a node's label says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Standing {
    /// Something is being changed.
    Pending,
    /// A Wasm container ran: the RuntimeClass selects this.
    Verified,
    /// It did not work, and was taken back.
    Failed,
}

/// One node of the cluster.
#[derive(Debug, Clone)]
pub(crate) struct ThisNode {
    api: Api,
    name: String,
}

/// What the kubelet says about a node.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct NodeInfo {
    pub(crate) os_image: String,
    pub(crate) runtime: String,
    pub(crate) kubelet: String,
}

impl Standing {
    fn name(self) -> &'static str {
        match self {
            Standing::Pending => "pending",
            Standing::Verified => "verified",
            Standing::Failed => "failed",
        }
    }
}

impl FromStr for ObjectName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once('/') {
            Some((namespace, name)) if !namespace.is_empty() && !name.is_empty() && !name.contains('/') => {
                Ok(ObjectName { namespace: namespace.to_owned(), name: name.to_owned() })
            }
            _ => Err(format!("{text:?} is no NAMESPACE/NAME")),
        }
    }
}

impl ThisNode {
    pub(crate) fn new(api: Api, name: &str) -> ThisNode {
        ThisNode { api, name: name.to_owned() }
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Labels the node; with `None` the label and the version go away.
    pub(crate) fn label(&self, standing: Option<Standing>) -> Result<(), ApiError> {
        let version = match standing {
            Some(Standing::Verified) => json!(env!("CARGO_PKG_VERSION")),
            _ => Value::Null,
        };
        let label = standing.map(Standing::name);
        let change = json!({ "metadata": { "labels": { LABEL: label }, "annotations": { VERSION: version } } });
        self.api.patch(&self.path(), &change)
    }

    /// What the kubelet says about it.
    pub(crate) fn info(&self) -> Result<NodeInfo, ApiError> {
        let node = self.api.get(&self.path())?.unwrap_or_default();
        let text = |key: &str| node["status"]["nodeInfo"][key].as_str().unwrap_or_default().to_owned();
        Ok(NodeInfo {
            os_image: text("osImage"),
            runtime: text("containerRuntimeVersion"),
            kubelet: text("kubeletVersion"),
        })
    }

    /// Tells what is to be known, for `kubectl describe node`.
    pub(crate) fn warn(&self, reason: &str, message: &str) -> Result<(), ApiError> {
        let now = SystemTime::now();
        let at = humantime::format_rfc3339_seconds(now).to_string();
        let unique = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_nanos();
        let event = json!({
            "apiVersion": "v1",
            "kind": "Event",
            // Of things that are in no namespace, events are in this one.
            "metadata": { "name": format!("{}.{unique:x}", self.name), "namespace": "default" },
            "involvedObject": { "apiVersion": "v1", "kind": "Node", "name": self.name, "uid": self.name },
            "reason": reason,
            "message": message.chars().take(1000).collect::<String>(),
            "type": "Warning",
            "firstTimestamp": at,
            "lastTimestamp": at,
            "count": 1,
            "source": { "component": "wasm-node", "host": self.name },
        });
        self.api.post("/api/v1/namespaces/default/events", &event).map(drop)
    }

    /// Whether this DaemonSet is there to stay, and does not want the node any more.
    pub(crate) fn is_deselected_by(&self, daemonset: &ObjectName) -> Result<bool, ApiError> {
        let path = format!("/apis/apps/v1/namespaces/{}/daemonsets/{}", daemonset.namespace, daemonset.name);
        let daemonset = self.api.get(&path)?.unwrap_or_default();
        let node = self.api.get(&self.path())?.unwrap_or_default();
        Ok(is_deselected(&daemonset, &node))
    }

    fn path(&self) -> String {
        format!("/api/v1/nodes/{}", self.name)
    }
}

fn is_deselected(daemonset: &Value, node: &Value) -> bool {
    let metadata = &daemonset["metadata"];
    let goes = !metadata["deletionTimestamp"].is_null() || metadata["annotations"][UNINSTALLING] == "true";
    let Some(selector) = daemonset["spec"]["template"]["spec"]["nodeSelector"].as_object() else { return false };
    let labels = &node["metadata"]["labels"];
    !goes && labels.is_object() && selector.iter().any(|(key, value)| labels[key] != *value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_has_two_parts() {
        assert!("kube-system/x".parse::<ObjectName>().is_ok());
        for bad in ["x", "/x", "x/", "a/b/c"] {
            assert!(bad.parse::<ObjectName>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_node_is_deselected_by_a_daemonset_that_stays() {
        let node = json!({ "metadata": { "labels": { "kubernetes.io/os": "linux", "pool": "a" } } });
        let daemonset = |selector: Value, metadata: Value| json!({ "metadata": metadata, "spec": { "template": { "spec": { "nodeSelector": selector } } } });
        let cases = [
            (daemonset(json!({ "pool": "a" }), json!({})), false),
            (daemonset(json!({ "pool": "b" }), json!({})), true),
            (daemonset(json!({ "other": "x" }), json!({})), true),
            (daemonset(json!({ "pool": "b" }), json!({ "deletionTimestamp": "now" })), false),
            (daemonset(json!({ "pool": "b" }), json!({ "annotations": { UNINSTALLING: "true" } })), false),
            // As the chart has it, and a rollback of the release puts it back.
            (daemonset(json!({ "pool": "b" }), json!({ "annotations": { UNINSTALLING: "false" } })), true),
            (Value::Null, false),
        ];
        for (daemonset, expected) in cases {
            assert_eq!(is_deselected(&daemonset, &node), expected, "{daemonset}");
        }
        // A node that is gone is nobody's.
        assert!(!is_deselected(&daemonset(json!({ "pool": "b" }), json!({})), &Value::Null));
    }
}
