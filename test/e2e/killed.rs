//! Installers that are killed: by hand, on the nodes, after each line that they say; the next run goes on.

use crate::failures::uninstall;
use anyhow::{Context, Result, bail, ensure};
use serde_json::json;
use std::{fs, thread};
use testkit::checkout;
use testkit::cluster::{Cluster, KIT, until};
use testkit::kit::{LABEL, REGISTRY, VERSION, nothing_on, stands};

const CONFIG: &str = "/etc/containerd/config.toml";
const SHIM: &str = "containerd-shim-wasm-v1";
/// Another shim, from another place.
const SHIM_BEFORE: &str = "previous/containerd-shim-wasm-v1";

/// What an installer that is run by hand on a node needs: its files, and an account of Kubernetes.
struct ByHand<'a> {
    cluster: &'a Cluster,
    node: &'a str,
    /// The environment and the program.
    program: String,
    /// Seconds between a line and the kill.
    delay: &'static str,
    /// What an install is told beside the rest.
    more: &'static str,
}

impl ByHand<'_> {
    /// Runs it; when it has said this many lines, it is killed. What it said.
    fn run(&self, words: &str, lines: usize) -> Result<Vec<String>> {
        let ByHand { program, delay, .. } = self;
        let script = format!(
            "cd /root/e2e && sh -c 'echo $$ >pid; exec env {program} {words}' 2>&1 | {{ n=0; while IFS= read -r line; do \
             echo \"$line\"; n=$((n + 1)); if [ $n = {lines} ]; then sleep {delay}; kill -9 $(cat pid) || true; fi; done; }}"
        );
        Ok(self.cluster.on(self.node, &script)?.lines().map(str::to_owned).collect())
    }

    /// Runs it to its end, which has to be this one.
    fn whole(&self, words: &str, end: &str) -> Result<Vec<String>> {
        let said = self.run(words, usize::MAX)?;
        ensure!(said.last().is_some_and(|last| last.contains(end)), "{} on {}: {said:#?}", words, self.node);
        Ok(said)
    }

    /// Kills it after so many lines, and runs it again, to its end. What both said.
    fn cut(&self, words: &str, end: &str, lines: usize, kills: &mut usize) -> Result<(Vec<String>, Vec<String>)> {
        let cut = self.run(words, lines)?;
        *kills += usize::from(!cut.last().is_some_and(|last| last.contains(end)));
        let again = self.whole(words, end).with_context(|| format!("after {cut:#?}"))?;
        Ok((cut, again))
    }

    fn keys_taken_off(&self) -> Result<()> {
        self.cluster.kubectl(&["label", "node", self.node, &format!("{LABEL}-")])?;
        self.cluster.kubectl(&["annotate", "node", self.node, &format!("{VERSION}-")]).map(drop)
    }

    fn install(&self) -> String {
        format!(
            "install --node {0} --lease {KIT}/e2e-{0} --image {REGISTRY}/containerd-shim-wasm-node:{1}",
            self.node,
            env!("CARGO_PKG_VERSION")
        )
    }

    /// Kills an install of another shim over the one that is there, after each of its lines, and continues it. How often.
    fn kill_upgrades_after_each(&self) -> Result<usize> {
        let (mut kills, end) = (0, "this node runs Wasm pods");
        let shims = [("previous", SHIM_BEFORE), (".", SHIM)];
        let place = format!("/opt/wasm/bin/{SHIM}");
        let mut installs = shims.iter().cycle().map(|(payload, shim)| {
            let change = format!("--payload /root/e2e/{payload} --operator-config /root/e2e/{payload}/operator.toml");
            (format!("{} {change}", self.install()), format!("cmp {place} /root/e2e/{shim}"), *payload)
        });
        let (first, ..) = installs.next().context("no first one")?;
        let steps = self.whole(&first, end)?.len();
        for (lines, (install, is_there, payload)) in (1..=steps).zip(installs) {
            let (cut, again) = self.cut(&install, end, lines, &mut kills)?;
            let rules = format!("cmp /etc/containerd-shim-wasm/config.toml /root/e2e/{payload}/operator.toml");
            let left = "ls /opt/wasm/state | grep -e previous -e failed";
            self.cluster
                .on(self.node, &format!("{is_there} && {rules} && ! {left}"))
                .with_context(|| format!("after {cut:#?}\n{again:#?}"))?;
            stands(self.cluster, self.node, Some("verified"))?;
        }
        self.whole("uninstall", "nothing of wasm-node is left")?;
        until("nothing is left", || nothing_on(self.cluster, self.node).map(Some))?;
        self.keys_taken_off()?;
        Ok(kills)
    }

    /// Kills an install after each of its lines, and an uninstall too; both are continued. How often.
    fn kill_after_each(&self) -> Result<usize> {
        let original = self.cluster.on(self.node, &format!("sha256sum <{CONFIG}"))?;
        let install = format!("{} {}", self.install(), self.more);
        let temporary = "find /etc/containerd /opt /etc/containerd-shim-wasm -name '.wasm-node-*' 2>/dev/null; true";
        let (mut kills, mut steps) = (0, 1);
        for lines in 1.. {
            if lines > steps {
                return Ok(kills);
            }
            let (cut, again) = self.cut(&install, "this node runs Wasm pods", lines, &mut kills)?;
            stands(self.cluster, self.node, Some("verified"))?;
            // Of the first run after one that had said a line only: all of them.
            steps = steps.max(again.len());
            let left = self.cluster.on(self.node, temporary)?;
            ensure!(left.is_empty(), "after {cut:#?}\n{again:#?}\nthere is {left}");
            let (cut, again) = self.cut("uninstall", "nothing of wasm-node is left", lines, &mut kills)?;
            until("nothing is left", || nothing_on(self.cluster, self.node).map(Some))
                .with_context(|| format!("after {cut:#?}\n{again:#?}"))?;
            let now = self.cluster.on(self.node, &format!("sha256sum <{CONFIG}; {temporary}"))?;
            ensure!(now == original, "after {cut:#?}\n{again:#?}\nthere is {now}");
            // Without --node it speaks to no API server.
            self.keys_taken_off()?;
        }
        bail!("no end of its steps")
    }
}

pub(crate) fn installs_are_killed_after_every_step(cluster: &Cluster) -> Result<()> {
    uninstall(cluster)?;
    let account = "e2e-by-hand";
    let objects = [
        json!({ "apiVersion": "v1", "kind": "ServiceAccount", "metadata": { "name": account, "namespace": KIT } }),
        json!({ "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": { "name": account },
            "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin" },
            "subjects": [{ "kind": "ServiceAccount", "name": account, "namespace": KIT }] }),
    ];
    cluster.apply(&objects)?;
    let token = cluster.kubectl(&["create", "token", account, "-n", KIT])?;
    let slices = cluster.get(&["endpointslice", "kubernetes", "-n", "default"])?;
    let (host, port) = (&slices["endpoints"][0]["addresses"][0], &slices["ports"][0]["port"]);
    let host = host.as_str().with_context(|| format!("no address in {slices}"))?;
    let dir = tempfile::tempdir()?;
    let verify = wat::parse_file(checkout::of_crate("testkit").join("../../images/node/verify.wat"))?;
    fs::write(dir.path().join("verify.wasm"), verify)?;
    let previous = dir.path().join("previous");
    fs::create_dir(&previous)?;
    for name in ["wasm-node", SHIM] {
        fs::write(dir.path().join(name), cluster.program(name)?)?;
    }
    fs::copy(dir.path().join("verify.wasm"), previous.join("verify.wasm"))?;
    // It does not look at its end.
    fs::write(dir.path().join(SHIM_BEFORE), [cluster.program(SHIM)?, b"before".to_vec()].concat())?;
    fs::write(dir.path().join("operator.toml"), "# now\n")?;
    fs::write(previous.join("operator.toml"), "# before\n")?;
    let place = "/var/run/secrets/kubernetes.io/serviceaccount";
    let made = format!(
        "chmod 755 /root/e2e/wasm-node && mkdir -p {place} && cp /etc/kubernetes/pki/ca.crt {place}/ && echo {token} >{place}/token"
    );
    let [node, other] = cluster.workers();
    // One at once, the other a moment after each line, and with a file to bring.
    let hands =
        [(&node, "0", ""), (&other, "0.15", "--operator-config operator.toml")].map(|(node, delay, more)| ByHand {
            cluster,
            node,
            program: format!("KUBERNETES_SERVICE_HOST={host} KUBERNETES_SERVICE_PORT={port} ./wasm-node"),
            delay,
            more,
        });
    let kills = thread::scope(|scope| {
        let begun = hands.each_ref().map(|hand| {
            scope.spawn(|| {
                cluster.docker(&["cp", &format!("{}/.", dir.path().display()), &format!("{}:/root/e2e", hand.node)])?;
                cluster.on(hand.node, &made)?;
                let kills = [hand.kill_after_each()?, hand.kill_upgrades_after_each()?];
                cluster.on(hand.node, &format!("rm -r /root/e2e {place}")).map(|_| kills)
            })
        });
        begun.map(|one| one.join().expect("rows return their errors"))
    });
    let [first, second] = kills;
    let (first, second) = (first?, second?);
    println!("      killed {first:?} and {second:?} times, upgrades the second time");
    // At once after a line, there is nearly always more to come.
    ensure!(first.iter().all(|kills| *kills >= 4), "a process was hardly ever killed: {first:?}");
    cluster.kubectl(&["delete", "lease", "-n", KIT, &format!("e2e-{node}"), &format!("e2e-{other}")])?;
    cluster.delete(&objects)
}
