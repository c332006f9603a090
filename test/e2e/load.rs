//! A client in the cluster: one request after the other, each over a new connection, until it is told to stop. It rests between
//! two, since the nodes share their processors with it.

use crate::workloads::pod;
use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use testkit::cluster::{APPS, Cluster, until};
use testkit::kit::BUSYBOX;

/// Requests to a service, from a pod of runc.
pub(crate) struct Load<'a> {
    cluster: &'a Cluster,
    client: Value,
}

impl<'a> Load<'a> {
    /// Begins; the service has answered once when this returns.
    pub(crate) fn start(cluster: &'a Cluster, service: &str) -> Result<Load<'a>> {
        let service = cluster.get(&["service", service, "-n", APPS])?;
        let address = service["spec"]["clusterIP"].as_str().context("the service has no address")?;
        let script = format!(
            "ask() {{ wget -q -O - http://{address}/ >/dev/null; }}; until ask; do sleep 1; done; echo begun; ok=0; bad=0; \
             while [ ! -e /tmp/stop ]; do if ask; then ok=$((ok+1)); else bad=$((bad+1)); fi; sleep 0.02; done; echo done $ok $bad"
        );
        let mut client = pod(
            "client",
            json!([{ "name": "client", "image": BUSYBOX, "command": ["/bin/sh", "-c", script],
                "volumeMounts": [{ "name": "tmp", "mountPath": "/tmp" }] }]),
        );
        client["spec"].as_object_mut().context("a pod has a spec")?.remove("runtimeClassName");
        client["spec"]["restartPolicy"] = json!("Never");
        client["spec"]["volumes"] = json!([{ "name": "tmp", "emptyDir": {} }]);
        cluster.apply(std::slice::from_ref(&client))?;
        let load = Load { cluster, client };
        until("the client has begun", || Ok(load.log()?.contains("begun").then_some(())))?;
        Ok(load)
    }

    /// Ends; fails if a request has failed, or if there were few. What was done meanwhile is for the message.
    pub(crate) fn stop(self, meanwhile: &str) -> Result<()> {
        // The client may end, and all of its container with it, before this shell has: its counts say whether it was told.
        let told = self.cluster.kubectl(&["exec", "-n", APPS, "client", "--", "/bin/sh", "-c", "echo > /tmp/stop"]);
        let counts = until("the client tells its counts", || {
            Ok(self.log()?.lines().find_map(|line| line.strip_prefix("done ").map(str::to_owned)))
        });
        let counts = counts.with_context(|| format!("it was told to stop: {told:?}"))?;
        let counts: Vec<u64> = counts.split(' ').map(str::parse).collect::<Result<_, _>>()?;
        println!("      requests during {meanwhile}: {} answered, {} failed", counts[0], counts[1]);
        ensure!(counts[0] > 50 && counts[1] == 0, "{} requests were answered, {} failed", counts[0], counts[1]);
        self.cluster.delete(&[self.client])
    }

    fn log(&self) -> Result<String> {
        self.cluster.kubectl(&["logs", "-n", APPS, "client"])
    }
}
