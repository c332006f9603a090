//! Bad input: Create fails with one line that names the thing and the remedy, and nothing is left behind.

use crate::Cases;
use crate::output::image_of;
use crate::web::Service;
use anyhow::{Context, Result, ensure};
use serde_json::json;
use std::fs;
use testkit::guests::{self, Work};
use testkit::image::Rootfs;
use testkit::node::Feature;
use testkit::task::Draft;
use testkit::{Image, Namespace, cases};

pub(crate) const CASES: Cases = cases![
    crate::refusals::annotations,
    crate::refusals::operator_files,
    crate::refusals::images_without_wasm,
    crate::refusals::broken_wasm,
    crate::refusals::a_component_of_two_worlds,
    crate::refusals::memory_beyond_the_limit,
    crate::refusals::precompiled_code,
    crate::refusals::what_is_not_there,
    crate::refusals::broken_specs,
    crate::refusals::mounts,
    crate::refusals::the_reason_is_told_in_three_places,
];

const PREFIX: &str = "io.containerd.wasm.v1/";

fn annotations(node: &Namespace) -> Result<()> {
    let image = image_of(node, "p1_hello.wat")?;
    let cases: &[(&str, &str, &[&str])] = &[
        ("limits.memry", "64Mi", &["unknown key limits.memry", "known keys are limits.memory"]),
        ("limits.memory", "64 Mi", &["bad value \"64 Mi\"", "limits.memory", "expected"]),
        ("limits.memory", "-1", &["bad value \"-1\"", "expected"]),
        ("limits.memory", "2Gi", &["limits.memory = 2Gi is above the maximum 1Gi", "raise it in [maxima]"]),
        ("rootfs", "write", &["bad value \"write\" of rootfs", "rw"]),
        ("limits.fuel", "0", &["bad value \"0\" of limits.fuel: expected a whole number above 0"]),
        ("coredump", "on", &["coredump is not built yet: remove it"]),
        ("other_limits.memory", "lots", &["bad value \"lots\""]),
    ];
    let cache = node.containerd().cache();
    let operator = format!("[maxima]\n\"limits.memory\" = \"1Gi\"\n[cache]\ndir = {:?}\n", cache.display().to_string());
    let operator = node.operator_file(&operator)?;
    for (key, value, parts) in cases {
        let name = format!("{PREFIX}{key}");
        let named = format!("annotation {name}");
        let parts: Vec<&str> = [named.as_str()].into_iter().chain(parts.iter().copied()).collect();
        node.run(&image).operator_file(&operator).annotation(&name, value).refused(&parts)?;
    }
    node.until_nothing_remains()
}

fn operator_files(node: &Namespace) -> Result<()> {
    let image = image_of(node, "p1_hello.wat")?;
    let cases: &[(&str, &[&str])] = &[
        ("[defaults\n", &["is not valid toml", "line 1"]),
        ("[default]\n", &["unknown table [default]", "known tables are [defaults], [maxima], [cache]"]),
        ("[defaults]\n\"limits.memroy\" = \"1Mi\"\n", &["[defaults]", "unknown key limits.memroy"]),
        ("[cache]\nsize = \"big\"\n", &["bad value", "size in [cache]", "expected"]),
        ("[cache]\npath = \"/x\"\n", &["unknown key path in [cache]", "dir, size"]),
    ];
    for (text, parts) in cases {
        let file = node.operator_file(text)?;
        let name = format!("operator file {}", file.display());
        let parts: Vec<&str> = [name.as_str()].into_iter().chain(parts.iter().copied()).collect();
        node.run(&image).operator_file(&file).refused(&parts)?;
    }
    let absent = node.directory("absent")?.join("config.toml");
    let name = format!("read operator file {}", absent.display());
    node.run(&image).operator_file(&absent).refused(&[&name, "No such file"])?;
    node.until_nothing_remains()
}

fn refused_image(node: &Namespace, image: &Image, parts: &[&str]) -> Result<()> {
    node.import(image)?;
    node.task(image).refused(parts).with_context(|| image.reference().to_owned())
}

fn images_without_wasm(node: &Namespace) -> Result<()> {
    let wasm = guests::module("p1_hello.wat")?;
    let files = |rootfs: Rootfs, name: &str| Image::new(&format!("test.local/{name}:1")).rootfs(rootfs);
    let expected = "expected a layer of type application/wasm, or args[0] naming a .wasm file or a linux program";
    let text = files(Rootfs::new().file("app", b"just text"), "text").entrypoint(["/app"]);
    refused_image(node, &text, &["no wasm in", "test.local/text:1", expected])?;
    let absent = files(Rootfs::new().file("other.wasm", &wasm), "absent").entrypoint(["/app.wasm"]);
    refused_image(node, &absent, &["no wasm in", "test.local/absent:1", "/app.wasm", expected])?;
    let directory = files(Rootfs::new().directory("app.wasm"), "directory").entrypoint(["/app.wasm"]);
    refused_image(node, &directory, &["no wasm in", "test.local/directory:1", expected])?;
    let unknown = Image::with_layer("test.local/unknown:1", "application/vnd.acme.wasm", &wasm);
    let parts = [
        "no wasm in",
        "test.local/unknown:1",
        "unknown layer types",
        "application/vnd.acme.wasm",
        "expected application/wasm",
    ];
    refused_image(node, &unknown, &parts)?;
    let foreign = Image::with_layer("test.local/foreign:1", "application/wasm", b"just text, not wasm");
    refused_image(node, &foreign, &["is not wasm", "test.local/foreign:1"])?;
    let several = Image::with_layer("test.local/several:1", "application/wasm", &wasm)
        .blob_layer("application/wasm", &guests::module("p1_stderr.wat")?);
    refused_image(node, &several, &["test.local/several:1", "2 wasm layers", "ship one"])?;
    node.until_nothing_remains()
}

fn broken_wasm(node: &Namespace) -> Result<()> {
    let wasm = guests::module("p1_exit.c")?;
    let file = |name: &str, bytes: &[u8]| Image::with_file(&format!("test.local/{name}:1"), bytes);
    let layer =
        |name: &str, bytes: &[u8]| Image::with_layer(&format!("test.local/{name}:1"), "application/wasm", bytes);
    for make in [&file as &dyn Fn(&str, &[u8]) -> Image, &layer] {
        let thing = node.fresh("b");
        refused_image(
            node,
            &make(&format!("{thing}cut"), &wasm[..wasm.len() / 2]),
            &["invalid wasm module", "unexpected end"],
        )?;
        refused_image(node, &make(&format!("{thing}head"), &wasm[..6]), &["truncated wasm: build the image again"])?;
        let mut other = wasm.clone();
        other[4] = 9;
        refused_image(node, &make(&format!("{thing}version"), &other), &["unknown version", "component"])?;
        let mut garbled = wasm.clone();
        garbled[8..200].fill(0xff);
        refused_image(node, &make(&format!("{thing}garbled"), &garbled), &["invalid wasm module"])?;
    }
    let long = guests::importing(&"n".repeat(70_000));
    refused_image(node, &file("longname", &long), &["imports", "nnnn", "…"])?;
    let rude = guests::importing("\x1b[31mred");
    refused_image(node, &file("rudename", &rude), &["\\u{1b}[31mred", "does not provide"])?;
    refused_image(node, &file("import", &guests::module("p1_unknown_import.wat")?), &["acme:bank", "withdraw"])?;
    refused_image(
        node,
        &file("nostart", &guests::module("p1_no_start.wat")?),
        &["exports no _start", "path#function", "it has add"],
    )?;
    let large = guests::many_functions(Work { functions: 200, steps: 100 }, 7);
    let image = file("large", &large);
    node.import(&image)?;
    let cache = node.containerd().cache().display().to_string();
    let operator = node.operator_file(&format!("[cache]\ndir = {cache:?}\nwasm-size = \"64Ki\"\n"))?;
    let parts = ["/app.wasm", &large.len().to_string(), "wasm-size = 64Ki", "raise wasm-size"];
    node.task(&image).operator_file(&operator).refused(&parts)?;
    node.until_nothing_remains()
}

fn a_component_of_two_worlds(node: &Namespace) -> Result<()> {
    let text = r#"(component
        (component $empty)
        (instance $nothing (instantiate $empty))
        (export "wasi:cli/run@0.2.0" (instance $nothing))
        (export "wasi:http/incoming-handler@0.2.0" (instance $nothing)))"#;
    let image = Image::with_file("test.local/worlds:1", &guests::wat(text)?);
    let reason = "/app.wasm exports both wasi:cli/run and a handler of wasi:http: build it for one of the worlds";
    refused_image(node, &image, &[reason])?;
    node.until_nothing_remains()
}

fn memory_beyond_the_limit(node: &Namespace) -> Result<()> {
    let command = image_of(node, "p1_hello.wat")?;
    for (draft, begins, limit) in
        [(node.task(&command), "begins with 64Ki", "32Ki"), (Service::draft(node)?, "begins with", "64Ki")]
    {
        let remedy = format!("of memory, above its limit of {limit}: raise limits.memory");
        draft.annotation(&format!("{PREFIX}limits.memory"), limit).refused(&["/app.wasm", begins, &remedy])?;
    }
    node.until_nothing_remains()
}

/// Code of the very same wasmtime, from the node's own cache: it would load if anybody loaded it.
fn precompiled_code(node: &Namespace) -> Result<()> {
    node.run(&image_of(node, "p1_hello.wat")?).expect(0)?;
    let artifacts = fs::read_dir(node.containerd().cache().join("artifacts"))?;
    let mut files = artifacts.filter_map(|entry| fs::read(entry.ok()?.path()).ok());
    let code = files.find(|bytes| bytes.starts_with(b"\x7fELF")).context("an artifact in the cache")?;
    let file = Image::with_file("test.local/native:1", &code);
    refused_image(node, &file, &["/app.wasm", "precompiled code", "ship the .wasm"])?;
    let layer = Image::with_layer("test.local/nativelayer:1", "application/wasm", &code);
    refused_image(node, &layer, &["precompiled code", "ship the .wasm"])?;
    node.until_nothing_remains()
}

fn what_is_not_there(node: &Namespace) -> Result<()> {
    let image = image_of(node, "p1_hello.wat")?;
    let draft = || node.task(&image);
    node.run(&image)
        .flags(["--log-uri", "fluentd://x"])
        .refused(&["stdio by fluentd:// is not supported", "binary://"])?;
    let elsewhere = node.directory("rootfs")?;
    draft()
        .spec(|spec| spec["root"]["path"] = json!(elsewhere))
        .refused(&[&format!("root filesystem {} outside of the bundle", elsewhere.display()), "from an image"])?;
    if !Feature::Systemd.is_here() {
        let scope = draft().spec(|spec| spec["linux"]["cgroupsPath"] = json!("system.slice:cri:abc"));
        scope.refused(&["reach systemd at /run/systemd/private", "use the cgroupfs driver"])?;
    }
    node.until_nothing_remains()
}

/// containerd 2.4 parses the spec itself and refuses it before there is a shim.
pub(crate) fn a_config_that_is_no_spec(node: &Namespace) -> Result<()> {
    let image = image_of(node, "p1_hello.wat")?;
    let draft = node.task(&image).spec(|spec| spec["process"]["args"] = json!("text"));
    draft.refused(&["config.json is not a valid runtime spec", "expected a sequence"])?;
    node.until_nothing_remains()
}

fn broken_specs(node: &Namespace) -> Result<()> {
    let image = image_of(node, "p1_hello.wat")?;
    let draft = || node.task(&image);
    let no_process = |spec: &mut serde_json::Value| {
        if let Some(map) = spec.as_object_mut() {
            map.remove("process");
        }
    };
    draft().spec(no_process).refused(&["config.json has no process"])?;
    draft().spec(|spec| spec["process"]["env"] = json!(["NOVALUE"])).refused(&["process.env[0]", "NAME=value"])?;
    draft()
        .spec(|spec| spec["process"]["cwd"] = json!("relative"))
        .refused(&["process.cwd relative", "starts with /"])?;
    draft()
        .spec(|spec| spec["process"]["oomScoreAdj"] = json!(5000))
        .refused(&["oom score adjustment 5000", "-1000 to 1000"])?;
    let rlimits = json!([{ "type": "RLIMIT_NOFILE", "soft": 5, "hard": 4 }]);
    draft().spec(|spec| spec["process"]["rlimits"] = rlimits).refused(&["RLIMIT_NOFILE", "above the hard limit"])?;
    let gone = json!([{ "type": "mount" }, { "type": "network", "path": "/nonexistent/netns" }]);
    draft().spec(|spec| spec["linux"]["namespaces"] = gone).refused(&["/nonexistent/netns", "No such file"])?;
    node.until_nothing_remains()
}

fn mounts(node: &Namespace) -> Result<()> {
    let image = image_of(node, "p1_hello.wat")?;
    let with = |mount: serde_json::Value| -> Draft<'_> {
        node.task(&image).spec(|spec| {
            if let Some(mounts) = spec["mounts"].as_array_mut() {
                mounts.push(mount);
            }
        })
    };
    let volume = node.directory("v")?;
    with(json!({ "destination": "/data", "type": "bind", "source": "/nonexistent/data", "options": ["rbind"] }))
        .refused(&["/nonexistent/data", "/data", "No such file"])?;
    with(json!({ "destination": "/data", "type": "ext4", "source": "/dev/sda", "options": [] }))
        .refused(&["mount of type ext4 at /data is not supported: use bind or tmpfs"])?;
    with(json!({ "destination": "/data", "type": "bind", "source": volume, "options": ["rbind", "shiny"] }))
        .refused(&["unknown option shiny", "/data"])?;
    with(json!({ "destination": "/", "type": "bind", "source": volume, "options": ["rbind"] }))
        .refused(&["mount at / would hide the root filesystem"])?;
    with(json!({ "destination": "/app.wasm/below", "type": "bind", "source": volume, "options": ["rbind"] }))
        .refused(&["/app.wasm/below"])?;
    node.until_nothing_remains()
}

fn the_reason_is_told_in_three_places(node: &Namespace) -> Result<()> {
    let image = image_of(node, "p1_unknown_import.wat")?;
    let file = node.directory("t")?.join("termination-log");
    fs::write(&file, "")?;
    let run = node.run(&image).bind(&file, "/dev/termination-log", "rbind:rw");
    let output = run.output()?;
    ensure!(output.code == 1, "{output}");
    for (place, text) in [("stderr", output.errors()), ("termination file", fs::read_to_string(&file)?)] {
        let told = text.lines().any(|line| line.contains("acme:bank") && line.contains("withdraw"));
        ensure!(told, "{place}: {text}");
    }
    node.until_logged(&["acme:bank", "withdraw"])?;
    ensure!(output.errors().contains("failed to create shim task"), "create did not fail: {output}");
    Ok(())
}
