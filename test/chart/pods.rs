//! What a pod may do, by its manifest: what holds for ours, and Pod Security's level `restricted`
//! (kubernetes.io, "Pod Security Standards").

use serde_json::{Value, json};

/// A pod, or the template of what makes pods.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pod<'a> {
    /// Of the object that it is in.
    pub(crate) kind: &'a str,
    pub(crate) spec: &'a Value,
}

/// Volumes that `restricted` allows.
const VOLUMES: [&str; 8] =
    ["configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret"];

impl<'a> Pod<'a> {
    /// The pod of an object, if it has one.
    pub(crate) fn of(object: &'a Value) -> Option<Pod<'a>> {
        let kind = object["kind"].as_str()?;
        let path = match kind {
            "Pod" => "/spec",
            "DaemonSet" | "Deployment" | "Job" => "/spec/template/spec",
            "CronJob" => "/spec/jobTemplate/spec/template/spec",
            _ => return None,
        };
        Some(Pod { kind, spec: object.pointer(path)? })
    }

    /// Its containers of all kinds.
    fn containers(self) -> impl Iterator<Item = &'a Value> {
        let of = |list: &str| self.spec[list].as_array().into_iter().flatten();
        of("initContainers").chain(of("containers"))
    }

    pub(crate) fn images(self) -> impl Iterator<Item = &'a str> {
        self.containers().map(|container| container["image"].as_str().unwrap_or_default())
    }

    /// The paths of the node, each with its type.
    pub(crate) fn host_paths(&self) -> Vec<(String, String)> {
        let volumes = self.spec["volumes"].as_array().into_iter().flatten();
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let paths = volumes.filter_map(|volume| volume.get("hostPath"));
        paths.map(|path| (text(&path["path"]), text(&path["type"]))).collect()
    }

    /// No privilege, no namespace of the node, a root filesystem that stays as it is.
    pub(crate) fn is_confined(self) -> Result<(), String> {
        for shared in ["hostPID", "hostIPC", "hostNetwork"] {
            expect(self.spec[shared].as_bool() != Some(true), self.kind, shared, self.spec)?;
        }
        let seccomp = &self.spec["securityContext"]["seccompProfile"]["type"];
        expect(*seccomp == json!("RuntimeDefault"), self.kind, "seccompProfile", self.spec)?;
        for container in self.containers() {
            let context = &container["securityContext"];
            expect(context["privileged"].as_bool() != Some(true), self.kind, "privileged", container)?;
            expect(
                context["allowPrivilegeEscalation"] == json!(false),
                self.kind,
                "allowPrivilegeEscalation",
                container,
            )?;
            expect(context["readOnlyRootFilesystem"] == json!(true), self.kind, "readOnlyRootFilesystem", container)?;
            expect(context["capabilities"] == json!({ "drop": ["ALL"] }), self.kind, "capabilities", container)?;
            for loosened in ["seccompProfile", "procMount", "runAsUser", "runAsNonRoot"] {
                expect(context.get(loosened).is_none(), self.kind, loosened, container)?;
            }
            let ports = container["ports"].as_array().into_iter().flatten();
            let mut of_node = ports.filter(|port| port.get("hostPort").is_some());
            expect(of_node.next().is_none(), self.kind, "hostPort", container)?;
        }
        Ok(())
    }

    /// The same, and no root and nothing of the node: `restricted`.
    pub(crate) fn is_restricted(self) -> Result<(), String> {
        self.is_confined()?;
        let context = &self.spec["securityContext"];
        expect(context["runAsNonRoot"] == json!(true), self.kind, "runAsNonRoot", self.spec)?;
        expect(context["runAsUser"].as_u64().is_some_and(|user| user > 0), self.kind, "runAsUser", self.spec)?;
        for volume in self.spec["volumes"].as_array().into_iter().flatten() {
            let kinds = volume.as_object().into_iter().flatten().map(|(key, _)| key.as_str());
            expect(
                kinds.into_iter().all(|kind| kind == "name" || VOLUMES.contains(&kind)),
                self.kind,
                "volumes",
                volume,
            )?;
        }
        Ok(())
    }
}

fn expect(holds: bool, kind: &str, what: &str, whose: &Value) -> Result<(), String> {
    if holds { Ok(()) } else { Err(format!("{kind}: {what} of {whose:#}")) }
}
