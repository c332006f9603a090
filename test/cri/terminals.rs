//! Terminals of containers, by attach, and of processes of exec: `crictl` has one itself, as a user's has.

use crate::Cases;
use crate::linux::busybox;
use crate::sandbox::reference;
use anyhow::{Context, Result, ensure};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, FdFlag, OFlag, fcntl};
use nix::pty::{OpenptyResult, Winsize, openpty};
use nix::sys::termios::{LocalFlags, Termios, tcgetattr};
use serde_json::{Value, json};
use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::process::Child;
use testkit::cri::{Cri, PodContainer};
use testkit::image::Rootfs;
use testkit::{Image, Namespace, cases, guests, wait};

pub(crate) const CASES: Cases =
    cases![crate::terminals::guests_have_terminals, crate::terminals::linux_containers_have_terminals];

const ROWS: u16 = 41;
const COLUMNS: u16 = 101;

/// `crictl` on a terminal, and the keyboard and the screen of that.
struct User {
    crictl: Child,
    terminal: File,
    seen: String,
}

impl User {
    fn call(cri: &Cri<'_>, words: &[&str]) -> Result<User> {
        let size = Winsize { ws_row: ROWS, ws_col: COLUMNS, ws_xpixel: 0, ws_ypixel: 0 };
        let OpenptyResult { master, slave } = openpty(&size, None::<&Termios>)?;
        for end in [&master, &slave] {
            fcntl(end, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC))?;
        }
        fcntl(&master, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        let mut command = cri.command(words);
        command.stdin(slave.try_clone()?).stdout(slave.try_clone()?).stderr(slave);
        let crictl = command.spawn().context("start crictl")?;
        Ok(User { crictl, terminal: File::from(master), seen: String::new() })
    }

    /// By whom the container's own terminal is used, from when what is typed goes on as it is: `crictl` has made its
    /// terminal raw.
    fn attached(cri: &Cri<'_>, container: &PodContainer<'_>) -> Result<User> {
        let user = User::call(cri, &["attach", "-i", "-t", &container.id])?;
        wait::until("crictl passes on what is typed", || {
            let flags = tcgetattr(&user.terminal)?.local_flags;
            Ok((!flags.contains(LocalFlags::ECHO)).then_some(()))
        })?;
        Ok(user)
    }

    fn types(&mut self, keys: &str) -> Result<()> {
        Ok(self.terminal.write_all(keys.as_bytes())?)
    }

    fn look(&mut self) -> Result<()> {
        let mut buffer = [0; 4096];
        loop {
            match self.terminal.read(&mut buffer) {
                Ok(0) => return Ok(()),
                Ok(size) => self.seen.push_str(&String::from_utf8_lossy(&buffer[..size])),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                // All is read, and crictl has ended.
                Err(error) if error.raw_os_error() == Some(Errno::EIO as i32) => return Ok(()),
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Waits until the screen shows this.
    fn sees(&mut self, part: &str) -> Result<()> {
        let shown = wait::until(&format!("{part:?} on the terminal"), || {
            self.look()?;
            Ok(self.seen.contains(part).then_some(()))
        });
        shown.with_context(|| format!("it shows {:?}", self.seen))
    }

    /// Waits for the end of `crictl`, which must succeed: all that the screen has shown.
    fn leaves(mut self) -> Result<String> {
        let ended = wait::until("crictl has ended", || {
            self.look()?;
            Ok(self.crictl.try_wait()?)
        });
        self.look()?;
        let status = ended.with_context(|| format!("it shows {:?}", self.seen))?;
        ensure!(status.success(), "{status}: {:?}", self.seen);
        Ok(std::mem::take(&mut self.seen))
    }
}

impl Drop for User {
    fn drop(&mut self) {
        // An error says that it has ended.
        let _ = self.crictl.kill();
        let _ = self.crictl.wait();
    }
}

fn on_terminal(config: &mut Value) {
    config["tty"] = json!(true);
    config["stdin"] = json!(true);
}

fn guests_have_terminals(node: &Namespace) -> Result<()> {
    let rootfs =
        Rootfs::new().file("app.wasm", &guests::module("p1_cat.c")?).file("tty.wasm", &guests::module("p1_tty.c")?);
    let guest = Image::new(&reference(node)).rootfs(rootfs).entrypoint(["/app.wasm"]);
    let cri = Cri::new(node, &[&guest])?;
    let pod = cri.pod(|_| ())?;
    let container = pod.run(&guest, &["/app.wasm", "4"], on_terminal)?;
    let seen = User::call(&cri, &["exec", "-i", "-t", &container.id, "/tty.wasm"])?.leaves()?;
    ensure!(seen == "1 1 1\r\n", "{seen:?}");
    let mut user = User::attached(&cri, &container)?;
    user.types("first\r")?;
    // containerd may read what is typed a moment before it shows what is said. Each line is there twice: once as the
    // terminal's echo, once as the guest's answer.
    wait::until("the first line is answered", || Ok((container.log().matches(" first").count() == 2).then_some(())))?;
    user.types("second\r")?;
    user.sees("second\r\nsecond\r\n")?;
    // Ctrl-D: the end of input.
    user.types("\x04")?;
    let seen = user.leaves()?;
    ensure!(seen.ends_with("end of input after 13 bytes\r\n"), "{seen:?}");
    let status = container.ended()?;
    ensure!(status["exitCode"] == json!(4), "{status}");
    pod.remove()
}

fn linux_containers_have_terminals(node: &Namespace) -> Result<()> {
    let linux = busybox(node)?;
    let cri = Cri::new(node, &[&linux])?;
    let pod = cri.pod(|_| ())?;
    let script = "read x; echo got $x; read x; echo got $x; exit 5";
    let container = pod.run(&linux, &["/bin/sh", "-c", script], on_terminal)?;
    // The size of the user's terminal comes a moment after the start.
    let sized = format!("until [ \"$(stty size 2>/dev/null)\" = '{ROWS} {COLUMNS}' ]; do :; done");
    let script = format!("{sized}; echo sized; read x; echo got $x");
    let mut user = User::call(&cri, &["exec", "-i", "-t", &container.id, "/bin/sh", "-c", &script])?;
    user.sees("sized\r\n")?;
    user.types("that\r")?;
    let seen = user.leaves()?;
    ensure!(seen.ends_with("that\r\ngot that\r\n"), "{seen:?}");
    let mut user = User::attached(&cri, &container)?;
    user.types("first\r")?;
    wait::until("the first line is read", || Ok(container.log().contains(" got first").then_some(())))?;
    user.types("second\r")?;
    let seen = user.leaves()?;
    ensure!(seen.ends_with("second\r\ngot second\r\n"), "{seen:?}");
    let status = container.ended()?;
    ensure!(status["exitCode"] == json!(5), "{status}");
    pod.remove()
}
