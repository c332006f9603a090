//! What is written for users, word for word: the README's first path on a cluster, manifests, samples, Dockerfiles.

use crate::failures::uninstall;
use anyhow::{Context, Result, ensure};
use std::fs;
use std::process::Command;
use testkit::checkout;
use testkit::cluster::{Cluster, KIT, MANIFESTS, SAMPLES, until};
use testkit::kit::{busybox, nothing_on, stands};

/// Where it begins in the README.
const MARK: &str = "<!-- first path -->\n```sh\n";

/// What a user's shell in the checkout says.
fn shell(cluster: &Cluster, words: &str) -> Result<String> {
    let mut shell = Command::new("bash");
    // Each job is a group of its own, as in a user's shell.
    shell.args(["-emc", words]).current_dir(checkout::root()).env("KIND_CLUSTER_NAME", cluster.name());
    // Cargo sets these for tests, and takes what it built without them for stale.
    let of_cargo = |name: &str| name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_");
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_str().is_some_and(of_cargo)) {
        shell.env_remove(name);
    }
    let said = shell.output().context("run bash")?;
    let (out, errors) = (String::from_utf8_lossy(&said.stdout), String::from_utf8_lossy(&said.stderr));
    ensure!(said.status.success(), "{words}: {}\n{out}{errors}", said.status);
    Ok(out.into_owned())
}

pub(crate) fn the_first_path_leads_to_an_answer(cluster: &Cluster) -> Result<()> {
    let readme = fs::read_to_string(checkout::root().join("README.md"))?;
    let path = readme.split_once(MARK).and_then(|(_, rest)| rest.split_once("```"));
    let path = path.with_context(|| format!("the README has no {MARK:?}"))?.0;
    // The rows have made it before.
    cluster.kubectl(&["delete", "namespace", KIT, "--timeout", "120s"])?;
    let said = shell(cluster, path)?;
    ensure!(said.ends_with("hello from rust: /\n"), "{said}");
    cluster.kubectl(&["delete", "namespace", SAMPLES, "--timeout", "120s"])?;
    uninstall(cluster)?;
    cluster.workers().iter().try_for_each(|node| nothing_on(cluster, node))
}

pub(crate) fn manifests_and_samples_do_without_helm(cluster: &Cluster) -> Result<()> {
    let images = ["node", "http-rust", "hello-c", "notes", "show-go"];
    let tars: Vec<String> = images.map(|name| format!("target/images/{name}.tar")).to_vec();
    shell(cluster, &format!("make images IMAGES='{}'; kind load image-archive {}", images.join(" "), tars.join(" ")))?;
    // What its Dockerfile makes of the same files is the same program.
    let dockerfile = "tag=e2e.test/dockerfile:1; docker build --quiet --build-arg TARGETARCH=$(go env GOARCH) --tag $tag \
        --file images/node/Dockerfile target/images/node >/dev/null; docker run --rm --network none $tag --version; \
        docker image rm $tag >/dev/null";
    let said = shell(cluster, &format!("export DOCKER_BUILDKIT=0; {dockerfile}"))?;
    ensure!(said == format!("wasm-node {}\n", env!("CARGO_PKG_VERSION")), "{said}");
    cluster.load(&busybox("docker.io/library/busybox:1.37.0")?)?;
    shell(cluster, "kubectl apply --filename deploy/install.yaml")?;
    cluster.workers().iter().try_for_each(|node| stands(cluster, node, Some("verified")))?;
    shell(
        cluster,
        "kubectl apply --filename deploy/samples/namespace.yaml; kubectl apply --namespace wasm-samples --filename deploy/samples/",
    )?;
    let waits = [
        "rollout status deployment/http --timeout 180s",
        "wait --for condition=Ready pod/mixed --timeout 180s",
        "wait --for condition=Complete job/volumes job/hello --timeout 180s",
        "create job now --from cronjob/greet",
        "wait --for condition=Complete job/now --timeout 180s",
    ];
    for words in waits {
        shell(cluster, &format!("kubectl --namespace {SAMPLES} {words}"))?;
    }
    let volumes = shell(cluster, &format!("kubectl --namespace {SAMPLES} logs job/volumes --all-containers"))?;
    ensure!(volumes.contains("good morning") && volumes.contains("no secret"), "{volumes}");
    for (of, said) in [("job/hello", "hello job, from C\n"), ("job/now", "hello from a CronJob\n")] {
        let log = shell(cluster, &format!("kubectl --namespace {SAMPLES} logs {of}"))?;
        ensure!(log == said, "{of}: {log:?}");
    }
    until("the sidecar has what both Wasm programs say", || {
        let log = shell(cluster, &format!("kubectl --namespace {SAMPLES} logs mixed --container linux"))?;
        Ok((log.starts_with("written by Wasm\n") && log.contains("hello from rust: /")).then_some(()))
    })?;
    cluster.kubectl(&["delete", "namespace", SAMPLES, "--timeout", "120s"])?;
    shell(
        cluster,
        "kubectl apply --filename deploy/uninstall.yaml; \
         kubectl --namespace containerd-shim-wasm wait job/containerd-shim-wasm-uninstall --for condition=complete --timeout 5m; \
         kubectl delete --filename deploy/uninstall.yaml --filename deploy/install.yaml",
    )?;
    cluster.workers().iter().try_for_each(|node| nothing_on(cluster, node))?;
    until("its namespace is gone", || Ok(cluster.get(&["namespace", MANIFESTS])?.is_null().then_some(())))
}
