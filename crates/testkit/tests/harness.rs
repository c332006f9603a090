//! The harness itself, proven with what is known to work: runc and busybox, on every version of containerd.

use anyhow::{Result, ensure};
use std::fs;
use std::process::ExitCode;
use testkit::fifo::{Input, Output, Stdio};
use testkit::image::Rootfs;
use testkit::{Image, Namespace, Suite, Version, cases, spec};

const RUNC: &str = "io.containerd.runc.v2";

fn main() -> ExitCode {
    let every = [Version::V1_6, Version::V1_7, Version::V2_4];
    // No case starts it; the suite wants to know whose sockets and processes to look for.
    Suite::new("/nonexistent/containerd-shim-wasm-v1")
        .on(&every, cases![ctr_run_gives_output_and_code, layer_images_are_imported])
        .on(&every, cases![tasks_of_the_api_are_refused_without_a_shim])
        .run()
}

fn ctr_run_gives_output_and_code(node: &Namespace) -> Result<()> {
    let busybox = fs::read("/bin/busybox")?;
    let image = Image::new("test.local/busybox:1")
        .rootfs(Rootfs::new().directory("bin").file("bin/busybox", &busybox))
        .entrypoint(["/bin/busybox"])
        .env("WHO=image");
    node.import(&image)?;
    let script = "cat; echo $WHO $PWD; echo bad >&2; exit 7";
    let output = node
        .run(&image)
        .runtime(RUNC)
        .args(["/bin/busybox", "sh", "-c", script])
        .flags(["--cwd", "/bin"])
        .stdin(b"piped\n")
        .expect(7)?;
    ensure!(output.text() == "piped\nimage /bin\n", "{output}");
    ensure!(output.errors() == "bad\n", "{output}");
    Ok(())
}

fn layer_images_are_imported(node: &Namespace) -> Result<()> {
    let image = Image::with_layer("test.local/layer:1", "application/wasm", b"\0asm\x01\0\0\0");
    let digests = node.import(&image)?;
    let listed = node.ctr(&["content", "list"])?;
    for digest in digests.layers {
        ensure!(listed.text().contains(&digest), "{digest} is not in {listed}");
    }
    Ok(())
}

fn tasks_of_the_api_are_refused_without_a_shim(node: &Namespace) -> Result<()> {
    let api = node.api()?;
    let id = node.fresh("api");
    let events = api.events()?;
    let stdio = Stdio::new(&node.containerd().fifos(), &id, Input::Fifo, &Output::Fifos)?;
    api.create_container(&id, &spec::linux(node.name(), &id, &["/app.wasm"]), "", "")?;
    let refused = api.create_task(&id, Some(&stdio)).expect_err("there is no shim");
    ensure!(refused.message().contains("wasm"), "{refused}");
    api.delete_container(&id)?;
    ensure!(events.of(&id).is_empty(), "{events:?}");
    Ok(())
}
