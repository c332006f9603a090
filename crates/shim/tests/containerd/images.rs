//! Where the wasm comes from: a layer, a file of the root filesystem, by `PATH`, through symlinks.

use crate::Cases;
use anyhow::{Result, ensure};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use testkit::image::{ConfigForm, Rootfs, WASM_LAYERS};
use testkit::{Containerd, Image, Namespace, cases, guests};

pub(crate) const CASES: Cases = cases![
    crate::images::a_layer_of_each_type,
    crate::images::a_layer_by_ctr_run,
    crate::images::a_layer_beside_files,
    crate::images::a_component_as_layer,
    crate::images::a_layer_that_only_containerd_can_read,
    crate::images::a_program_found_by_path,
    crate::images::a_program_relative_to_its_working_directory,
    crate::images::a_program_behind_symlinks,
];

const HELLO: &str = "hello from wasm\n";

fn says_hello(node: &Namespace, image: &Image) -> Result<()> {
    node.import(image)?;
    let task = node.task(image).create()?;
    task.start()?;
    let end = task.finish()?;
    ensure!(end.code == 0 && end.stdout == HELLO && end.stderr.is_empty(), "{end:?}");
    Ok(())
}

fn a_layer_of_each_type(node: &Namespace) -> Result<()> {
    let wasm = guests::module("p1_hello.wat")?;
    for media_type in WASM_LAYERS {
        for config in [ConfigForm::Plain, ConfigForm::Wasm] {
            let reference = format!("test.local/{}:1", node.fresh("layer"));
            says_hello(node, &Image::with_layer(&reference, media_type, &wasm).config(config))?;
        }
    }
    Ok(())
}

/// As the README says it.
fn a_layer_by_ctr_run(node: &Namespace) -> Result<()> {
    let image = Image::with_layer("test.local/layer:1", WASM_LAYERS[0], &guests::module("p1_hello.wat")?);
    let tar = node.directory("image")?.join("image.tar");
    image.write(&tar)?;
    let imported = node.ctr(&["images", "import", "--local", "--platform", "wasi/wasm", &tar.to_string_lossy()])?;
    ensure!(imported.code == 0, "{imported}");
    let output = node.run(&image).flags(["--platform", "wasi/wasm"]).expect(0)?;
    ensure!(output.text() == HELLO, "{output}");
    Ok(())
}

/// The files are the guest's root filesystem; the layer is the program.
fn a_layer_beside_files(node: &Namespace) -> Result<()> {
    let wasm = guests::module("p1_file.c")?;
    let image = Image::new("test.local/both:1")
        .rootfs(Rootfs::new().directory("etc").file("etc/motd", b"from a file\n"))
        .blob_layer(WASM_LAYERS[0], &wasm)
        .entrypoint(["app.wasm"]);
    node.import(&image)?;
    let task = node.task(&image).args(["app.wasm", "read", "/etc/motd"]).create()?;
    task.start()?;
    let end = task.finish()?;
    ensure!(end.code == 0 && end.stdout.starts_with("from a file\n"), "{end:?}");
    Ok(())
}

fn a_component_as_layer(node: &Namespace) -> Result<()> {
    let wasm = guests::component("p1_hello.wat")?;
    says_hello(node, &Image::with_layer("test.local/component:1", WASM_LAYERS[2], &wasm))
}

/// The shim sees an empty directory where containerd has its content: it asks containerd for it.
fn a_layer_that_only_containerd_can_read(node: &Namespace) -> Result<()> {
    let shim = node.containerd().shim().display();
    let wrapper = node.directory("bin")?.join("containerd-shim-wasm-v1");
    let script = format!(
        "#!/bin/sh\nfor word; do case $word in */c.sock) dir=${{word%/c.sock}} ;; esac; done\n\
         exec unshare --mount sh -c 'mount -t tmpfs none \"$0\"/root/io.containerd.content.v1.content && exec \"$@\"' \
         \"$dir\" {shim} \"$@\"\n"
    );
    fs::write(&wrapper, script)?;
    fs::set_permissions(&wrapper, fs::Permissions::from_mode(0o755))?;
    let containerd = Containerd::start(node.containerd().version(), &wrapper)?;
    let own = containerd.namespace("grpc");
    let wasm = guests::module("p1_hello.wat")?;
    says_hello(&own, &Image::with_layer("test.local/remote:1", WASM_LAYERS[0], &wasm))?;
    own.until_nothing_remains()?;
    containerd.stop()
}

fn a_program_found_by_path(node: &Namespace) -> Result<()> {
    let rootfs = Rootfs::new().directory("opt").file("opt/hello.wasm", &guests::module("p1_hello.wat")?);
    let image = Image::new("test.local/path:1").rootfs(rootfs).entrypoint(["hello.wasm"]).env("PATH=/bin:/opt");
    node.import(&image)?;
    let output = node.run(&image).expect(0)?;
    ensure!(output.text() == HELLO, "{output}");
    node.run(&image).args(["absent.wasm"]).refused(&["absent.wasm", "test.local/path:1"])
}

fn a_program_relative_to_its_working_directory(node: &Namespace) -> Result<()> {
    let rootfs = Rootfs::new().directory("opt").file("opt/hello.wasm", &guests::module("p1_hello.wat")?);
    let image = Image::new("test.local/cwd:1").rootfs(rootfs).entrypoint(["./hello.wasm"]).workdir("/opt");
    node.import(&image)?;
    let output = node.run(&image).expect(0)?;
    ensure!(output.text() == HELLO, "{output}");
    Ok(())
}

/// Absolute links are those of the image's own root, and no link leads out of it.
fn a_program_behind_symlinks(node: &Namespace) -> Result<()> {
    let rootfs = Rootfs::new()
        .directory("opt")
        .file("opt/hello.wasm", &guests::module("p1_hello.wat")?)
        .symlink("current", "/opt")
        .symlink("app.wasm", "../../current/hello.wasm")
        .symlink("outside.wasm", "../../../../../proc/self/exe");
    let image = Image::new("test.local/links:1").rootfs(rootfs).entrypoint(["/app.wasm"]);
    node.import(&image)?;
    let output = node.run(&image).expect(0)?;
    ensure!(output.text() == HELLO, "{output}");
    node.run(&image).args(["/outside.wasm"]).refused(&["/outside.wasm"])
}
