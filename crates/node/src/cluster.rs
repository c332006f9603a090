//! Uninstalling from all nodes of a cluster: refuse while Wasm pods run, stop the installers, then one node at a time by a
//! job of its own, which has no token. A run that was cut short is continued by the next.

mod job;

use crate::args::Uninstall;
use crate::kubernetes::{Api, ApiError, LABEL, Standing, ThisNode, UNINSTALLING};
use crate::progress::Progress;
use serde_json::{Value, json};
use std::thread;
use std::time::{Duration, Instant};

/// The RuntimeClass whose pods are counted.
const RUNTIME_CLASS: &str = "wasm";
/// How long the installers may take to end.
const PATIENCE: Duration = Duration::from_secs(300);
/// Between two looks.
const LOOK: Duration = Duration::from_secs(1);

/// Why the cluster still has it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ClusterError {
    #[error("refused, and nothing was changed: {} Wasm pods are in the cluster: {}; remove them first", .0.len(), .0.join(", "))]
    Pods(Vec<String>),
    #[error(
        "the DaemonSet {0} is not there, and nodes {1} still have the runtime: install the chart again, then uninstall"
    )]
    NoInstaller(String, String),
    #[error("the installers did not end in {} s: {left} pods are left", PATIENCE.as_secs())]
    Installers { left: usize },
    #[error(
        "{}; mend that, then uninstall again; or leave them as they are: --skip-node NODE (the chart's uninstall.skipNodes), or \
             kubectl label node {} {LABEL}-",
        .0.iter().map(|(node, why)| format!("node {node} {why}")).collect::<Vec<_>>().join("; "),
        .0.iter().map(|(node, _)| node.as_str()).collect::<Vec<_>>().join(" ")
    )]
    Left(Vec<(String, String)>),
    #[error(transparent)]
    Api(#[from] ApiError),
}

/// A cluster, and the release in it.
struct Cluster<'a> {
    api: Api,
    namespace: &'a str,
    release: &'a str,
    progress: Progress,
}

/// Uninstalls from every node that has our label.
pub(crate) fn uninstall(args: &Uninstall) -> Result<(), ClusterError> {
    let cluster = Cluster {
        api: Api::of_this_pod()?,
        namespace: args.namespace.as_deref().unwrap_or_default(),
        release: args.release.as_deref().unwrap_or_default(),
        progress: Progress::new(args.node.json),
    };
    let pods = cluster.wasm_pods()?;
    if !pods.is_empty() {
        return Err(ClusterError::Pods(pods));
    }
    cluster.progress.done("check", "no pod of the RuntimeClass wasm is in the cluster");
    let template = cluster.stop_installers()?;
    let nodes = cluster.nodes()?;
    let Some(template) = template else {
        let names: Vec<&str> = nodes.iter().map(|node| node.name.as_str()).collect();
        if names.is_empty() {
            return Ok(());
        }
        return Err(ClusterError::NoInstaller(cluster.release.to_owned(), names.join(", ")));
    };
    // No Wasm pod comes to any of them from here on.
    for node in &nodes {
        ThisNode::new(cluster.api.clone(), &node.name).label(Some(Standing::Pending))?;
    }
    let mut left = Vec::new();
    for node in &nodes {
        if args.skip_node.contains(&node.name) {
            cluster.progress.warn("skip", &format!("node {} is left as it is", node.name));
        } else {
            let why =
                if node.is_ready { cluster.clean(&node.name, &template)? } else { Some("is not ready".to_owned()) };
            if let Some(why) = why {
                cluster.progress.warn("clean", &format!("node {} {why}", node.name));
                left.push((node.name.clone(), why));
                continue;
            }
        }
        ThisNode::new(cluster.api.clone(), &node.name).label(None)?;
    }
    if !left.is_empty() {
        return Err(ClusterError::Left(left));
    }
    cluster.progress.done("uninstall", &format!("{} nodes are as they were", nodes.len()));
    Ok(())
}

/// A node that has our label.
struct Node {
    name: String,
    is_ready: bool,
}

impl Cluster<'_> {
    /// `namespace/name` of the pods that would lose their runtime.
    fn wasm_pods(&self) -> Result<Vec<String>, ApiError> {
        let mut found = Vec::new();
        self.api.list("/api/v1/pods", |pod| {
            if uses_runtime(pod) {
                found.push(name_of(pod));
            }
        })?;
        Ok(found)
    }

    /// Sends the installers away; the template of their pods, which says how the nodes were reached.
    fn stop_installers(&self) -> Result<Option<Value>, ClusterError> {
        let path = format!("/apis/apps/v1/namespaces/{}/daemonsets/{}", self.namespace, self.release);
        let Some(daemons) = self.api.get(&path)? else { return Ok(None) };
        // Before its pods go, so that they see it. No node is of this system, and a rollback of the release puts the
        // chart's own value back.
        self.api.patch(&path, &json!({ "metadata": { "annotations": { UNINSTALLING: "true" } } }))?;
        let nowhere = json!({ "kubernetes.io/os": "none" });
        self.api.patch(&path, &json!({ "spec": { "template": { "spec": { "nodeSelector": nowhere } } } }))?;
        let labels = daemons["spec"]["selector"]["matchLabels"].as_object().into_iter().flatten();
        let labels: Vec<String> =
            labels.map(|(key, value)| format!("{key}%3D{}", value.as_str().unwrap_or_default())).collect();
        let pods = format!("/api/v1/namespaces/{}/pods?labelSelector={}", self.namespace, labels.join("%2C"));
        let deadline = Instant::now() + PATIENCE;
        loop {
            let left = self.api.get(&pods)?.unwrap_or_default();
            // A pod of a node that is gone or out of reach stays until somebody removes it.
            let left = left["items"]
                .as_array()
                .into_iter()
                .flatten()
                .filter(|pod| pod["metadata"]["deletionTimestamp"].is_null());
            match left.count() {
                0 => break,
                left if Instant::now() >= deadline => return Err(ClusterError::Installers { left }),
                _ => thread::sleep(LOOK),
            }
        }
        self.progress.done("stop", "the installers are stopped");
        Ok(Some(daemons["spec"]["template"].clone()))
    }

    fn nodes(&self) -> Result<Vec<Node>, ApiError> {
        let label = LABEL.replace('/', "%2F");
        let mut nodes = Vec::new();
        self.api.list(&format!("/api/v1/nodes?labelSelector={label}"), |node| {
            let mut conditions = node["status"]["conditions"].as_array().into_iter().flatten();
            let is_ready = conditions.any(|condition| condition["type"] == "Ready" && condition["status"] == "True");
            nodes.push(Node { name: node["metadata"]["name"].as_str().unwrap_or_default().to_owned(), is_ready });
        })?;
        Ok(nodes)
    }
}

fn uses_runtime(pod: &Value) -> bool {
    let has_ended = ["Succeeded", "Failed"].iter().any(|phase| pod["status"]["phase"] == *phase);
    pod["spec"]["runtimeClassName"] == RUNTIME_CLASS && !has_ended
}

fn name_of(object: &Value) -> String {
    let text = |key: &str| object["metadata"][key].as_str().unwrap_or_default().to_owned();
    format!("{}/{}", text("namespace"), text("name"))
}
