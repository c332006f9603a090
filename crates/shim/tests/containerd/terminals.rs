//! Terminals: of guests and of Linux containers, of first processes and those of exec.

use crate::Cases;
use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use std::fs;
use testkit::api::Terminal;
use testkit::fifo::write_all;
use testkit::image::Rootfs;
use testkit::{Image, Namespace, cases, guests};

pub(crate) const CASES: Cases = cases![
    crate::terminals::a_guest_speaks_through_its_terminal,
    crate::terminals::ctrl_c_is_sigint,
    crate::terminals::an_exec_has_one_of_its_own,
    crate::terminals::a_linux_container_has_one,
    crate::terminals::a_terminal_without_stdin_has_no_end_of_input,
    crate::terminals::sizes_are_passed_on,
];

fn guest(node: &Namespace, name: &str) -> Result<Image> {
    let rootfs = Rootfs::new().file("app.wasm", &guests::module(name)?).file("cat.wasm", &guests::module("p1_cat.c")?);
    let image = Image::new(&format!("test.local/{}:1", node.fresh("i"))).rootfs(rootfs).entrypoint(["/app.wasm"]);
    node.import(&image)?;
    Ok(image)
}

fn linux(node: &Namespace) -> Result<Image> {
    let busybox = fs::read("/bin/busybox").context("read busybox-static")?;
    let mut rootfs = Rootfs::new().directory("bin").file("bin/busybox", &busybox);
    for applet in ["sh", "stty", "tty"] {
        rootfs = rootfs.symlink(&format!("bin/{applet}"), "busybox");
    }
    let image = Image::new(&format!("test.local/{}:1", node.fresh("i"))).rootfs(rootfs).entrypoint(["/bin/sh"]);
    node.import(&image)?;
    Ok(image)
}

fn a_guest_speaks_through_its_terminal(node: &Namespace) -> Result<()> {
    let task = node.task(&guest(node, "p1_cat.c")?).args(["/app.wasm", "4"]).terminal().create()?;
    task.start()?;
    write_all(task.stdio.write_end()?, b"a line\n")?;
    // Once as the terminal's echo, once as the guest's answer; each end of a line with its carriage return.
    task.stdio.stdout.wait_for("a line\r\na line\r\n")?;
    task.api.close_stdin(&task.id)?;
    ensure!(task.wait()?.code == 4, "the end of input ends it");
    let said = task.stdio.stdout.to_end()?;
    ensure!(said.ends_with("end of input after 7 bytes\r\n"), "stderr goes there too: {said:?}");
    task.remove()?;
    let image = guest(node, "p1_tty.c")?;
    let asking = node.task(&image).terminal().create()?;
    asking.start()?;
    ensure!(asking.wait()?.code == 0 && asking.stdio.stdout.to_end()? == "1 1 1\r\n", "it knows");
    asking.remove()?;
    let asking = node.task(&image).create()?;
    asking.start()?;
    ensure!(asking.finish()?.stdout == "0 0 0\n", "without one it knows too");
    Ok(())
}

fn ctrl_c_is_sigint(node: &Namespace) -> Result<()> {
    for name in ["p1_cat.c", "p1_spin.wat"] {
        let task = node.task(&guest(node, name)?).terminal().create()?;
        task.start()?;
        let mut keyboard = task.stdio.write_end()?;
        std::io::Write::write_all(&mut keyboard, b"\x03")?;
        let ended = task.wait()?;
        ensure!(ended.code == 128 + Signal::SIGINT as u32, "{name}: {ended:?}");
        ensure!(task.stdio.stdout.to_end()?.contains("^C"), "{name}: the terminal shows it");
        task.remove()?;
    }
    Ok(())
}

fn an_exec_has_one_of_its_own(node: &Namespace) -> Result<()> {
    let task = node.task(&guest(node, "p1_sleep.wat")?).create()?;
    task.start_until("sleeping\n")?;
    let cat = task.exec(node, &["/cat.wasm"], Terminal::Own, |_| ())?;
    cat.start()?;
    write_all(cat.stdio.write_end()?, b"typed\n")?;
    cat.stdio.stdout.wait_for("typed\r\ntyped\r\n")?;
    cat.close_stdin()?;
    ensure!(cat.wait()?.code == 0, "the end of input ends it");
    cat.delete()?;
    task.remove()
}

fn a_linux_container_has_one(node: &Namespace) -> Result<()> {
    let task = node.task(&linux(node)?).args(["/bin/sh"]).terminal().create()?;
    task.start()?;
    let mut keyboard = task.stdio.write_end()?;
    std::io::Write::write_all(&mut keyboard, b"tty; stty size; read x; echo got $x\n")?;
    task.stdio.stdout.wait_for("/dev/pts/0\r\n")?;
    std::io::Write::write_all(&mut keyboard, b"that\n")?;
    task.stdio.stdout.wait_for("got that\r\n")?;
    let exec = task.exec(node, &["/bin/sh", "-c", "tty; exit 6"], Terminal::Own, |process| {
        process["env"] = serde_json::json!(["PATH=/bin"]);
    })?;
    exec.start()?;
    ensure!(exec.wait()?.code == 6, "its code");
    ensure!(exec.stdio.stdout.to_end()? == "/dev/pts/1\r\n", "{}", exec.stdio.stdout.text());
    exec.delete()?;
    std::io::Write::write_all(&mut keyboard, b"exit 5\n")?;
    ensure!(task.wait()?.code == 5, "its code");
    task.remove()
}

fn a_terminal_without_stdin_has_no_end_of_input(node: &Namespace) -> Result<()> {
    let script = "echo up; read x; echo ended";
    let task = node.task(&linux(node)?).args(["/bin/sh", "-c", script]).silent_terminal().create()?;
    task.start()?;
    task.stdio.stdout.wait_for("up\r\n")?;
    // One that reads would have ended by the time that another has come and gone.
    let other = node.task(&guest(node, "p1_tty.c")?).silent_terminal().create()?;
    other.start()?;
    ensure!(other.wait()?.code == 0 && other.stdio.stdout.to_end()? == "1 1 1\r\n", "the other");
    other.remove()?;
    ensure!(task.api.state(&task.id)?.status == "RUNNING", "it waits for input: {}", task.stdio.stdout.text());
    task.remove()
}

fn sizes_are_passed_on(node: &Namespace) -> Result<()> {
    let task = node.task(&linux(node)?).args(["/bin/sh"]).terminal().create()?;
    task.start()?;
    task.api.resize(&task.id, "", 101, 41)?;
    let mut keyboard = task.stdio.write_end()?;
    std::io::Write::write_all(&mut keyboard, b"stty size\n")?;
    task.stdio.stdout.wait_for("41 101\r\n")?;
    task.remove()?;
    let none = node.task(&guest(node, "p1_sleep.wat")?).create()?;
    none.start_until("sleeping\n")?;
    let text = format!("{:?}", none.api.resize(&none.id, "", 1, 1).err());
    ensure!(text.contains("has no terminal"), "{text}");
    none.remove()
}
