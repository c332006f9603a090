//! The job that cleans one node: the installer's own pod, pinned to the node, told to uninstall, without a token.

use super::{Cluster, ClusterError, LOOK};
use crate::host::sha256;
use serde_json::{Value, json};
use std::thread;
use std::time::{Duration, Instant};

/// Seconds for one node: containerd restarts, and CRI answers.
const DEADLINE_S: u32 = 300;
/// How long a job that was deleted may take to go.
const PATIENCE: Duration = Duration::from_secs(60);
/// What a node's own uninstall must not be told: it speaks to no API server.
const NOT_FOR_JOBS: [&str; 5] =
    ["WASM_NODE_NODE", "WASM_NODE_LEASE", "WASM_NODE_STAY", "WASM_NODE_OPERATOR_CONFIG", "WASM_NODE_DAEMONSET"];

impl Cluster<'_> {
    /// Runs the job to its end, and removes it. Why the node is not clean, if it is not.
    pub(super) fn clean(&self, node: &str, template: &Value) -> Result<Option<String>, ClusterError> {
        let name = format!("{}-clean-{}", self.release, &sha256(node.as_bytes())[..10]);
        let folder = format!("/apis/batch/v1/namespaces/{}/jobs", self.namespace);
        let path = format!("{folder}/{name}");
        // One of a run that was cut short.
        self.remove(&name, &path)?;
        self.progress.doing("clean", &format!("node {node}"));
        self.api.post(&folder, &job(&name, self.namespace, node, template))?;
        let ended = loop {
            let Some(job) = self.api.get(&path)? else {
                return Ok(Some("was not cleaned: its job was deleted".to_owned()));
            };
            let conditions = job["status"]["conditions"].as_array().cloned().unwrap_or_default();
            let is = |kind: &str| conditions.iter().find(|one| one["type"] == kind && one["status"] == "True").cloned();
            match (is("Complete"), is("Failed")) {
                (Some(_), _) => break Ok(()),
                (_, Some(failed)) => break Err(failed["message"].as_str().unwrap_or("its job failed").to_owned()),
                _ if self.api.get(&format!("/api/v1/nodes/{node}"))?.is_none() => {
                    self.progress.warn("clean", &format!("node {node} was deleted meanwhile"));
                    break Ok(());
                }
                _ => thread::sleep(LOOK),
            }
        };
        let why = match ended {
            Ok(()) => None,
            Err(message) => Some(self.words(&name)?.pop().unwrap_or(message)),
        };
        if why.is_none() {
            // What stays there, and its job's log does not.
            for said in self.words(&name)? {
                self.progress.warn("clean", &format!("node {node}: {said}"));
            }
        }
        self.remove(&name, &path)?;
        if why.is_none() {
            self.progress.done("clean", &format!("node {node}"));
        }
        Ok(why.map(|why| format!("was not cleaned: {why}")))
    }

    /// What the pod of the job said at its end, by lines.
    fn words(&self, job: &str) -> Result<Vec<String>, ClusterError> {
        let pods = self.api.get(&self.pods_of(job))?.unwrap_or_default();
        let message = &pods["items"][0]["status"]["containerStatuses"][0]["state"]["terminated"]["message"];
        Ok(message.as_str().into_iter().flat_map(|text| text.trim().lines()).map(str::to_owned).collect())
    }

    fn pods_of(&self, job: &str) -> String {
        format!("/api/v1/namespaces/{}/pods?labelSelector=job-name%3D{job}", self.namespace)
    }

    /// Removes the job, and waits until its pod is gone: it holds the node's lock.
    fn remove(&self, job: &str, path: &str) -> Result<(), ClusterError> {
        self.api.delete(path)?;
        let deadline = Instant::now() + PATIENCE;
        let is_left = || -> Result<bool, ClusterError> {
            let pods = self.api.get(&self.pods_of(job))?.unwrap_or_default();
            Ok(self.api.get(path)?.is_some() || pods["items"].as_array().is_some_and(|pods| !pods.is_empty()))
        };
        // A pod of a node that is out of reach stays for ever.
        while is_left()? && Instant::now() < deadline {
            thread::sleep(LOOK);
        }
        Ok(())
    }
}

fn job(name: &str, namespace: &str, node: &str, template: &Value) -> Value {
    let mut pod = template["spec"].clone();
    for key in ["nodeSelector", "affinity", "serviceAccountName", "serviceAccount", "priority"] {
        pod.as_object_mut().map(|pod| pod.remove(key));
    }
    pod["nodeName"] = json!(node);
    pod["automountServiceAccountToken"] = json!(false);
    pod["restartPolicy"] = json!("Never");
    pod["tolerations"] = json!([{ "operator": "Exists" }]);
    let volumes = pod["volumes"].as_array().cloned().unwrap_or_default();
    let is_of_node = |volume: &Value| !volume["hostPath"].is_null();
    let volumes: Vec<Value> = volumes.into_iter().filter(is_of_node).collect();
    let kept = |mount: &Value| volumes.iter().any(|volume| volume["name"] == mount["name"]);
    let container = &mut pod["containers"][0];
    let environment = container["env"].as_array().cloned().unwrap_or_default();
    let environment = environment.into_iter().filter(|entry| !NOT_FOR_JOBS.iter().any(|name| entry["name"] == *name));
    container["env"] = environment.collect();
    let mounts: Vec<Value> =
        container["volumeMounts"].as_array().into_iter().flatten().filter(|mount| kept(mount)).cloned().collect();
    container["volumeMounts"] = json!(mounts);
    container["args"] = json!(["uninstall"]);
    for probe in ["readinessProbe", "livenessProbe", "startupProbe"] {
        container.as_object_mut().map(|container| container.remove(probe));
    }
    pod["volumes"] = json!(volumes);
    json!({
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": { "name": name, "namespace": namespace },
        "spec": {
            "backoffLimit": 0,
            "activeDeadlineSeconds": DEADLINE_S,
            "template": { "metadata": { "labels": { "app.kubernetes.io/component": "clean" } }, "spec": pod },
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_is_the_installer_without_a_token() {
        let template = json!({ "spec": {
            "serviceAccountName": "x",
            "automountServiceAccountToken": true,
            "nodeSelector": { "kubernetes.io/os": "none" },
            "containers": [{
                "name": "installer",
                "args": ["install", "--stay"],
                "readinessProbe": {},
                "env": [
                    { "name": "WASM_NODE_NODE", "valueFrom": {} },
                    { "name": "WASM_NODE_HOST_ROOT", "value": "/host" },
                ],
                "volumeMounts": [
                    { "name": "install", "mountPath": "/host/opt/wasm" },
                    { "name": "operator-config", "mountPath": "/operator" },
                ],
                "securityContext": { "capabilities": { "drop": ["ALL"] } },
            }],
            "volumes": [
                { "name": "install", "hostPath": { "path": "/opt/wasm" } },
                { "name": "operator-config", "configMap": { "name": "x" } },
            ],
        }});
        let job = job("clean-1", "ns", "worker", &template);
        let pod = &job["spec"]["template"]["spec"];
        assert_eq!(pod["nodeName"], "worker");
        assert_eq!(pod["automountServiceAccountToken"], false);
        assert!(pod["serviceAccountName"].is_null() && pod["nodeSelector"].is_null(), "{pod}");
        let container = &pod["containers"][0];
        assert_eq!(container["args"], json!(["uninstall"]));
        assert_eq!(container["env"], json!([{ "name": "WASM_NODE_HOST_ROOT", "value": "/host" }]));
        assert_eq!(container["securityContext"]["capabilities"]["drop"], json!(["ALL"]));
        let mounts: Vec<_> =
            container["volumeMounts"].as_array().unwrap().iter().map(|mount| &mount["mountPath"]).collect();
        assert_eq!(mounts, ["/host/opt/wasm"]);
        assert!(container["readinessProbe"].is_null());
    }
}
