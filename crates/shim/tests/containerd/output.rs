//! What a guest is told and what it says: arguments, environment, stdio, exit codes, traps.

use crate::Cases;
use anyhow::{Result, ensure};
use serde_json::{Value, json};
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use testkit::task::Draft;
use testkit::{Image, Namespace, cases, guests};

pub(crate) const CASES: Cases = cases![
    crate::output::hello_from_a_component,
    crate::output::arguments_and_environment,
    crate::output::clocks_and_random_bytes,
    crate::output::stdin_is_piped_through,
    crate::output::a_guest_without_stdin_sees_its_end,
    crate::output::ten_megabytes_arrive_unchanged,
    crate::output::stdout_and_stderr_are_apart,
    crate::output::files_take_the_output,
    crate::output::a_go_program,
    crate::output::a_rust_program,
    crate::output::the_samples_do_what_their_readmes_say,
    crate::output::an_export_after_initialize,
    crate::output::a_trap_is_explained,
    crate::output::a_fifo_for_the_termination_message_stops_nobody,
    crate::output::a_message_goes_where_the_container_may_write,
];

/// The image with this guest as `/app.wasm`, imported.
pub(crate) fn image_of(node: &Namespace, guest: &str) -> Result<Image> {
    image_with(node, &guests::module(guest)?)
}

/// The image with this wasm as `/app.wasm`, imported.
pub(crate) fn image_with(node: &Namespace, wasm: &[u8]) -> Result<Image> {
    let image = Image::with_file(&format!("test.local/{}:1", node.fresh("i")), wasm);
    node.import(&image)?;
    Ok(image)
}

/// As [`image_of`], as a component.
pub(crate) fn component_image_of(node: &Namespace, guest: &str) -> Result<Image> {
    image_with(node, &guests::component(guest)?)
}

pub(crate) fn hello_from_a_file(node: &Namespace) -> Result<()> {
    let image = image_of(node, "p1_hello.wat")?;
    let output = node.run(&image).expect(0)?;
    ensure!(output.text() == "hello from wasm\n" && output.errors().is_empty(), "{output}");
    Ok(())
}

fn hello_from_a_component(node: &Namespace) -> Result<()> {
    let image = component_image_of(node, "p1_hello.wat")?;
    let output = node.run(&image).expect(0)?;
    ensure!(output.text() == "hello from wasm\n" && output.errors().is_empty(), "{output}");
    Ok(())
}

fn arguments_and_environment(node: &Namespace) -> Result<()> {
    let image = Image::with_file("test.local/show:1", &guests::module("p1_show.c")?).env("FROM_IMAGE=yes");
    node.import(&image)?;
    let output = node.run(&image).args(["/app.wasm", "one", "", "two words", "ünï"]).env("WHO=user").expect(0)?;
    let text = output.text();
    let wanted = [
        "arg 0 [/app.wasm]",
        "arg 1 [one]",
        "arg 2 []",
        "arg 3 [two words]",
        "arg 4 [ünï]",
        "env [FROM_IMAGE=yes]",
        "env [WHO=user]",
        "env [PWD=/]",
    ];
    for line in wanted {
        ensure!(text.lines().any(|has| has == line), "{line}: {output}");
    }
    Ok(())
}

fn clocks_and_random_bytes(node: &Namespace) -> Result<()> {
    let images = [image_of(node, "p1_clock.c")?, component_image_of(node, "p1_clock.c")?];
    let mut draws = Vec::new();
    for image in &images {
        let before = now_s();
        let output = node.run(image).expect(0)?;
        let text = output.text();
        let values = |name| text.lines().filter_map(move |line| line.strip_prefix(name)).map(str::to_owned);
        let wall: u64 = values("wall ").next().unwrap_or_default().parse()?;
        ensure!((before..=now_s()).contains(&wall), "{output}");
        ensure!(text.contains("monotonic forward"), "{output}");
        draws.extend(values("random "));
    }
    draws.sort();
    draws.dedup();
    ensure!(draws.len() == 4, "two draws of two containers, all different: {draws:?}");
    Ok(())
}

fn now_s() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.unwrap_or_default().as_secs()
}

fn stdin_is_piped_through(node: &Namespace) -> Result<()> {
    let text = "first line\nsecond line without an end";
    for image in [image_of(node, "p1_cat.c")?, component_image_of(node, "p1_cat.c")?] {
        let output = node.run(&image).stdin(text.as_bytes()).expect(0)?;
        ensure!(output.text() == text, "{output}");
        ensure!(output.errors() == format!("end of input after {} bytes\n", text.len()), "{output}");
    }
    Ok(())
}

fn a_guest_without_stdin_sees_its_end(node: &Namespace) -> Result<()> {
    let image = image_of(node, "p1_cat.c")?;
    let task = node.task(&image).create()?;
    task.start()?;
    let end = task.finish()?;
    ensure!(end.code == 0 && end.stderr == "end of input after 0 bytes\n", "{end:?}");
    Ok(())
}

fn ten_megabytes_arrive_unchanged(node: &Namespace) -> Result<()> {
    const BYTES: usize = 10_000_000;
    let mut x = 1u32;
    let expected: Vec<u8> = (0..BYTES)
        .map(|_| {
            x = x.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            x.to_be_bytes()[0]
        })
        .collect();
    for image in [image_of(node, "p1_pattern.c")?, component_image_of(node, "p1_pattern.c")?] {
        let output = node.run(&image).args(["/app.wasm", &BYTES.to_string()]).expect(0)?;
        ensure!(output.stdout.len() == BYTES, "{} bytes", output.stdout.len());
        let first = output.stdout.iter().zip(&expected).position(|(has, wants)| has != wants);
        ensure!(first.is_none(), "byte {first:?} differs");
    }
    Ok(())
}

fn stdout_and_stderr_are_apart(node: &Namespace) -> Result<()> {
    let image = image_of(node, "p1_stderr.wat")?;
    let output = node.run(&image).expect(0)?;
    ensure!(output.text() == "to stdout\n" && output.errors() == "to stderr\n", "{output}");
    Ok(())
}

/// `ctr run --log-uri`, and what a failure has to say comes there too.
fn files_take_the_output(node: &Namespace) -> Result<()> {
    let log = node.directory("log")?.join("made/by/the/shim.log");
    let uri = format!("file://{}", log.display());
    for (guest, code) in [("p1_stderr.wat", 0), ("p1_trap.wat", 134)] {
        let run = node.run(&image_of(node, guest)?).flags(["--log-uri", &uri]);
        let id = run.id().to_owned();
        let output = run.output()?;
        ensure!(output.text().is_empty(), "{output}");
        node.until_logged(&[&id, &format!("code={code}")])?;
    }
    let text = fs::read_to_string(&log)?;
    let expected = "to stdout\nto stderr\nbefore the trap\nwasm trap: ";
    ensure!(text.starts_with(expected) && text.contains("deepest_of_all"), "{text}");
    Ok(())
}

pub(crate) fn exit_codes(node: &Namespace) -> Result<()> {
    let image = image_of(node, "p1_exit.c")?;
    for code in [0, 7, 255] {
        let words = ["/app.wasm".to_owned(), code.to_string()];
        let output = node.run(&image).args(words).expect(code)?;
        ensure!(output.text() == format!("leaving with {code}\n") && output.errors().is_empty(), "{output}");
    }
    Ok(())
}

fn a_go_program(node: &Namespace) -> Result<()> {
    program_of(node, "p1_tool.go", "go")
}

fn a_rust_program(node: &Namespace) -> Result<()> {
    program_of(node, "p1_command", "rust")
}

fn program_of(node: &Namespace, guest: &str, language: &str) -> Result<()> {
    let image = image_of(node, guest)?;
    let volume = node.directory("v")?;
    fs::write(volume.join("note.txt"), "a note")?;
    let run = node.run(&image).bind(&volume, "/data", "rbind:ro").env(&format!("WHO={language}"));
    let output = run.args(["/app.wasm", "/data/note.txt", "7"]).expect(7)?;
    ensure!(output.text() == format!("args /data/note.txt,7\nwho {language}\nfile a note\n"), "{output}");
    ensure!(output.errors() == format!("{language} to stderr\n"), "{output}");
    Ok(())
}

fn the_samples_do_what_their_readmes_say(node: &Namespace) -> Result<()> {
    let sample = |name: &str| image_with(node, &guests::sample(name)?);
    let output = node.run(&sample("hello-wat")?).expect(0)?;
    ensure!(output.text() == "hello from wat\n", "{output}");
    let output = node.run(&sample("hello-c")?).args(["/app.wasm", "reader"]).expect(0)?;
    ensure!(output.text() == "hello reader, from C\n", "{output}");
    let show = sample("show-go")?;
    let output = node.run(&show).env("WHO=reader").expect(0)?;
    for line in ["program: /app.wasm", "env: WHO=reader", "file: /app.wasm"] {
        ensure!(output.text().lines().any(|said| said == line), "{line}: {output}");
    }
    let notes = node.directory("notes")?;
    fs::write(notes.join("today.txt"), "milk\n")?;
    let run = node.run(&show).bind(&notes, "/notes", "rbind:ro");
    let output = run.args(["/app.wasm", "read", "/notes/today.txt"]).expect(0)?;
    ensure!(output.text() == "milk\n", "{output}");
    node.run(&show).args(["/app.wasm", "exit", "7"]).expect(7)?;
    Ok(())
}

fn an_export_after_initialize(node: &Namespace) -> Result<()> {
    let image = image_of(node, "p1_reactor.wat")?;
    let output = node.run(&image).args(["/app.wasm#greet"]).expect(0)?;
    ensure!(output.text() == "greeted after initialization\n", "{output}");
    let output = node.run(&image).annotation("io.containerd.wasm.v1/invoke", "greet").expect(0)?;
    ensure!(output.text() == "greeted after initialization\n", "{output}");
    node.run(&image).args(["/app.wasm#depart"]).refused(&["exports no \"depart\"", "it has _initialize, greet"])
}

/// In all three places: the container's stderr, its termination file, the log.
fn a_trap_is_explained(node: &Namespace) -> Result<()> {
    for image in [image_of(node, "p1_trap.wat")?, component_image_of(node, "p1_trap.wat")?] {
        let file = node.directory("t")?.join("termination-log");
        fs::write(&file, "")?;
        let run = node.run(&image).bind(&file, "/dev/termination-log", "rbind:rw");
        let output =
            run.annotation("io.kubernetes.container.terminationMessagePath", "/dev/termination-log").expect(134)?;
        ensure!(output.text() == "before the trap\n", "{output}");
        let message = fs::read_to_string(&file)?;
        let parts = ["unreachable", "deepest_of_all", "open_ledger", "serve_customer"];
        for place in [output.errors(), message] {
            ensure!(parts.iter().all(|part| place.contains(part)), "one of {parts:?} is not in: {place}");
        }
        for part in parts {
            node.until_logged(&[part])?;
        }
    }
    Ok(())
}

/// The shim has one thread: it must not wait for a reader of what a pod put in the message's place.
fn a_fifo_for_the_termination_message_stops_nobody(node: &Namespace) -> Result<()> {
    let image = image_of(node, "p1_trap.wat")?;
    let fifo = node.directory("t")?.join("termination-log");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU)?;
    let task = node.task(&image).bind(&fifo, "/dev/termination-log", &["rbind", "rw"]).create()?;
    task.start()?;
    let end = task.finish()?;
    ensure!(end.code == 134 && end.stderr.contains("deepest_of_all"), "{end:?}");
    node.until_logged(&["the termination file takes no reason"])?;
    Ok(())
}

/// The shim may write every file of the node: a container must not have it write what it cannot write itself.
fn a_message_goes_where_the_container_may_write(node: &Namespace) -> Result<()> {
    let image = image_of(node, "p1_trap.wat")?;
    let dir = node.directory("t")?;
    let (logs, secret) = (dir.join("logs"), dir.join("secret"));
    for folder in [&logs, &secret] {
        fs::create_dir(folder)?;
        fs::write(folder.join("end"), "")?;
    }
    let place = "/dev/termination-log";
    let trapped = |draft: Draft<'_>| -> Result<()> {
        let task = draft.create()?;
        task.start()?;
        ensure!(task.finish()?.code == 134);
        Ok(())
    };
    let file = secret.join("end");
    trapped(node.task(&image).bind(&file, place, &["rbind", "ro"]))?;
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644))?;
    let user = |spec: &mut Value| spec["process"]["user"] = json!({ "uid": 1000, "gid": 1000 });
    trapped(node.task(&image).bind(&file, place, &["rbind", "rw"]).spec(user))?;
    node.until_logged(&["the container's user may not write it"])?;
    // What lies at the path later is another file.
    let task = node.task(&image).bind(&logs.join("end"), place, &["rbind", "rw"]).create()?;
    fs::rename(&logs, dir.join("aside"))?;
    symlink(&secret, &logs)?;
    task.start()?;
    ensure!(task.finish()?.code == 134);
    ensure!(fs::read_to_string(&file)?.is_empty(), "the shim wrote what the container could not");
    ensure!(fs::read_to_string(dir.join("aside/end"))?.contains("deepest_of_all"));
    Ok(())
}
