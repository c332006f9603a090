//! exec through CRI, as probes and `kubectl exec` ask for it.

use crate::Cases;
use crate::linux::busybox;
use crate::sandbox::reference;
use anyhow::{Result, ensure};
use testkit::cri::Cri;
use testkit::image::Rootfs;
use testkit::{Image, Namespace, cases, guests};

pub(crate) const CASES: Cases =
    cases![crate::exec::probes_have_output_and_exit_code, crate::exec::what_is_no_wasm_is_told];

fn guest(node: &Namespace) -> Result<Image> {
    let rootfs = Rootfs::new()
        .file("app.wasm", &guests::module("p1_sleep.wat")?)
        .file("show.wasm", &guests::module("p1_show.c")?)
        .file("exit.wasm", &guests::module("p1_exit.c")?);
    Ok(Image::new(&reference(node)).rootfs(rootfs).entrypoint(["/app.wasm"]))
}

fn probes_have_output_and_exit_code(node: &Namespace) -> Result<()> {
    let (guest, linux) = (guest(node)?, busybox(node)?);
    let cri = Cri::new(node, &[&guest, &linux])?;
    let pod = cri.pod(|_| ())?;
    let wasm = pod.run(&guest, &["/app.wasm"], |config| {
        config["envs"] = serde_json::json!([{ "key": "OF", "value": "the container" }]);
    })?;
    let said = cri.ask(&["exec", "--sync", &wasm.id, "/show.wasm", "probe"])?;
    ensure!(said.contains("arg 1 [probe]") && said.contains("env [OF=the container]"), "{said}");
    cri.ask(&["exec", "--sync", &wasm.id, "#wake"])?;
    let sidecar = pod.run(&linux, &["/bin/sleep", "1000"], |_| ())?;
    ensure!(cri.ask(&["exec", "--sync", &sidecar.id, "/bin/echo", "alive"])? == "alive", "a sidecar's");
    for (id, failing) in [(&wasm.id, ["/exit.wasm", "3", ""]), (&sidecar.id, ["/bin/sh", "-c", "exit 3"])] {
        let words = failing.into_iter().filter(|word| !word.is_empty());
        let words: Vec<&str> = ["exec", "--sync", id].into_iter().chain(words).collect();
        let output = cri.crictl(&words)?;
        let said = format!("{output}");
        ensure!(output.code != 0 && said.contains("exited with 3"), "{said}");
    }
    // A stream each, as `kubectl exec` has them.
    let output = cri.crictl(&["exec", &wasm.id, "/show.wasm", "streamed"])?;
    ensure!(output.code == 0 && output.text().contains("arg 1 [streamed]"), "{output}");
    pod.remove()
}

fn what_is_no_wasm_is_told(node: &Namespace) -> Result<()> {
    let guest = guest(node)?;
    let cri = Cri::new(node, &[&guest])?;
    let pod = cri.pod(|_| ())?;
    let wasm = pod.run(&guest, &["/app.wasm"], |_| ())?;
    let output = cri.crictl(&["exec", "--sync", &wasm.id, "sh"])?;
    let said = format!("{output}");
    ensure!(output.code != 0 && said.contains("exec needs a .wasm file or #export"), "{said}");
    pod.remove()
}
