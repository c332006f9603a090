//! containerd without Kubernetes: `wasm-node` by hand, on versions and configurations that the cluster's nodes have not.

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::fs;
use testkit::cluster::Cluster;
use testkit::image::Rootfs;
use testkit::{Image, Version, checkout, guests};

/// A second containerd on a node, in a unit of its own, that no kubelet speaks to.
struct Plain<'a> {
    cluster: &'a Cluster,
    node: String,
}

/// Where it is on the node.
const PLAIN: &str = "/root/plain";
const SOCKET: &str = "/run/plain/socket";
/// An overlay needs another file system than the node's own, which is one.
const PLAIN_ROOT: &str = "/var/lib/plain";
/// What both versions, as configured here, make sandboxes of.
const PAUSE: &str = "registry.k8s.io/pause:3.8";
const UNIT: &str = "/run/systemd/system/plain.service";

impl Plain<'_> {
    /// Starts it with these settings beside those that keep it apart from the node's own.
    fn start<'a>(cluster: &'a Cluster, version: Version, head: &str, tables: &str) -> Result<Plain<'a>> {
        let [node, _] = cluster.workers();
        let plain = Plain { cluster, node };
        // Of a row that failed.
        plain.clear()?;
        plain.on(&format!("mkdir -p {PLAIN}/bin {PLAIN}/etc/conf.d {PLAIN}/payload"))?;
        for program in ["containerd", "containerd-shim-runc-v2", "ctr"] {
            plain.bring(&format!("bin/{program}"), &fs::read(version.bin().join(program))?)?;
        }
        for program in ["wasm-node", "containerd-shim-wasm-v1"] {
            plain.bring(&format!("payload/{program}"), &cluster.program(program)?)?;
        }
        plain.bring("payload/verify.wasm", &wat::parse_file(checkout::root().join("images/node/verify.wat"))?)?;
        let config = format!(
            "# of plain containerd\n{head}\nroot = \"{PLAIN_ROOT}\"\nstate = \"/run/plain\"\n[grpc]\n  address = \"{SOCKET}\"\n{tables}"
        );
        plain.bring("etc/config.toml", config.as_bytes())?;
        let unit = format!(
            "[Service]\nType=notify\nDelegate=yes\nKillMode=process\nEnvironment=PATH={PLAIN}/bin:/usr/sbin:/usr/bin:/sbin:/bin\n\
             ExecStart={PLAIN}/bin/containerd -c {PLAIN}/etc/config.toml\n"
        );
        plain.bring("unit", unit.as_bytes())?;
        plain.on(&format!("chmod 755 {PLAIN}/bin/* {PLAIN}/payload/wasm-node && cp {PLAIN}/unit {UNIT}"))?;
        plain.on("systemctl daemon-reload && systemctl start plain")?;
        plain.import(&Image::new(PAUSE).rootfs(Rootfs::new().file("pause", b"")).entrypoint(["/pause"]), "k8s.io")?;
        Ok(plain)
    }

    fn on(&self, script: &str) -> Result<String> {
        self.cluster.on(&self.node, script)
    }

    fn bring(&self, place: &str, bytes: &[u8]) -> Result<()> {
        let file = tempfile::NamedTempFile::new()?;
        fs::write(file.path(), bytes)?;
        let to = format!("{}:{PLAIN}/{place}", self.node);
        self.cluster.docker(&["cp", &file.path().display().to_string(), &to]).map(drop)
    }

    fn import(&self, image: &Image, namespace: &str) -> Result<()> {
        let file = tempfile::NamedTempFile::new()?;
        image.write(file.path())?;
        self.bring("image.tar", &fs::read(file.path())?)?;
        self.on(&format!("{} -n {namespace} images import {PLAIN}/image.tar", self.ctr())).map(drop)
    }

    fn ctr(&self) -> String {
        format!("{PLAIN}/bin/ctr -a {SOCKET}")
    }

    /// What `wasm-node` says, and the code it leaves with.
    fn wasm_node(&self, words: &str) -> Result<(i32, String)> {
        let places = format!(
            "--config {PLAIN}/etc/config.toml --socket {SOCKET} --unit plain.service --install-dir {PLAIN}/opt"
        );
        let said = self.on(&format!("{PLAIN}/payload/wasm-node {words} {places} 2>&1; echo $?"))?;
        let (said, code) = said.trim_end().rsplit_once('\n').unwrap_or(("", said.trim_end()));
        Ok((code.parse()?, said.to_owned()))
    }

    fn done(&self, words: &str) -> Result<String> {
        let (code, said) = self.wasm_node(words)?;
        ensure!(code == 0, "wasm-node {words} left with {code}:\n{said}");
        Ok(said)
    }

    fn configuration(&self) -> Result<String> {
        self.on(&format!("find {PLAIN}/etc -type f | sort | xargs sha256sum; find {PLAIN}/etc -type d"))
    }

    /// Installs, runs an image through `ctr`, verifies, uninstalls: the configuration is what it was.
    fn is_served(&self, edited: &str) -> Result<()> {
        let before = self.configuration()?;
        let said = self.done("install")?;
        ensure!(said.contains("ran over CRI") && said.contains(&format!("{edited} has the runtime")), "{said}");
        self.import(&Image::with_file("plain.test/hello:1", &guests::module("p1_hello.wat")?), "default")?;
        let shim = format!("{PLAIN}/opt/bin/containerd-shim-wasm-v1");
        let hello = self.on(&format!("{} run --rm --runtime {shim} plain.test/hello:1 hello /app.wasm", self.ctr()))?;
        ensure!(hello == "hello from wasm\n", "{hello}");
        for line in self.done("verify --json")?.lines() {
            let fact: Value = serde_json::from_str(line).with_context(|| line.to_owned())?;
            ensure!(fact["step"] == "verify" && fact["state"] == "done", "{line}");
        }
        ensure!(self.done("status")?.contains(env!("CARGO_PKG_VERSION")), "no version");
        self.done("uninstall")?;
        let after = self.configuration()?;
        ensure!(before == after, "{before} is {after}");
        self.on(&format!("test ! -e {PLAIN}/opt")).map(drop)
    }

    fn clear(&self) -> Result<()> {
        let dirs = format!("{UNIT}.d {UNIT} {PLAIN} {PLAIN_ROOT} /run/plain");
        let sandboxes = format!("{PLAIN}/bin/ctr -a {SOCKET} -n k8s.io");
        self.on(&format!(
            "[ ! -e {UNIT} ] || {{ for task in $({sandboxes} tasks list -q); do {sandboxes} tasks rm -f $task; done; \
             systemctl stop plain; }}; rm -rf {dirs}; systemctl daemon-reload"
        ))
        .map(drop)
    }

    fn end(self) -> Result<()> {
        self.clear()?;
        // Not in one script, whose own words it would find.
        let left = self.on("pgrep -af '[/]root/plain' || true")?;
        ensure!(left.trim().is_empty(), "{left}");
        Ok(())
    }
}

pub(crate) fn a_containerd_of_1_7_without_kubernetes_is_served(cluster: &Cluster) -> Result<()> {
    let plain = Plain::start(cluster, Version::V1_7, "version = 2", "")?;
    plain.is_served(&format!("{PLAIN}/etc/config.toml"))?;
    plain.end()
}

/// By a file of its own, where the main file imports a directory; with pods on it, and under a unit that ends them.
pub(crate) fn a_containerd_of_2_4_with_imports_is_served(cluster: &Cluster) -> Result<()> {
    let head = format!(
        "version = 3\nimports = [\"{PLAIN}/etc/conf.d/*.toml\"]\ndisabled_plugins = [\"io.containerd.nri.v1.nri\"]"
    );
    let tables = format!("[plugins.\"io.containerd.cri.v1.images\".pinned_images]\n  sandbox = \"{PAUSE}\"\n");
    let plain = Plain::start(cluster, Version::V2_4, &head, &tables)?;
    plain.is_served(&format!("{PLAIN}/etc/conf.d/containerd-shim-wasm.toml"))?;

    let drop_in = "/run/systemd/system/plain.service.d/e2e.conf";
    plain.on(&format!(
        "mkdir -p $(dirname {drop_in}) && printf '[Service]\\nKillMode=control-group\\n' >{drop_in} && systemctl daemon-reload"
    ))?;
    let (code, said) = plain.wasm_node("install")?;
    ensure!(code == 3 && said.contains("set KillMode=process"), "{code}: {said}");
    plain.on(&format!("rm -r $(dirname {drop_in}) && systemctl daemon-reload && test ! -e {PLAIN}/opt/bin"))?;

    plain.done("install")?;
    let pod = r#"{"metadata":{"name":"kept","namespace":"plain","uid":"kept"},"log_directory":"/tmp","linux":{"cgroup_parent":"/plain","security_context":{"namespace_options":{"network":2}}}}"#;
    plain.bring("pod.json", pod.as_bytes())?;
    plain.on(&format!("crictl -r unix://{SOCKET} runp -r wasm {PLAIN}/pod.json"))?;
    let (code, said) = plain.wasm_node("uninstall")?;
    ensure!(code == 3 && said.contains("1 Wasm pods are on this node: plain/kept"), "{code}: {said}");
    let said = plain.done("uninstall --drain")?;
    ensure!(said.contains("the sandbox of pod plain/kept is removed"), "{said}");
    plain.on("rmdir $(find /sys/fs/cgroup -maxdepth 3 -type d -name plain) 2>/dev/null; true")?;
    plain.end()
}
