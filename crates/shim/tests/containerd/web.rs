//! A service under test and its clients: curl, and bytes as they are; and a network namespace to serve in.

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::thread::{self, JoinHandle};
use testkit::task::{Draft, Finished, Task};
use testkit::{Image, Namespace, guests, wait};

/// A container that serves on loopback, in the network namespace of the test.
pub(crate) struct Service {
    pub(crate) port: u16,
    task: Task,
}

/// What a client was told.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    /// Of HTTP, as curl says it.
    pub(crate) version: String,
    /// Whether the server said that it closes the connection.
    pub(crate) closes: bool,
    pub(crate) text: String,
}

/// What curl writes after a body.
const AFTER: &str = "\n\u{1e}%{http_code} %{http_version} %header{connection}\u{1d}";

impl Service {
    /// A container of the Rust guest on the node's network.
    pub(crate) fn draft(node: &Namespace) -> Result<Draft<'_>> {
        Service::draft_of(node, &guests::rust("http_service")?)
    }

    /// A container of this component on the node's network.
    pub(crate) fn draft_of<'a>(node: &'a Namespace, wasm: &[u8]) -> Result<Draft<'a>> {
        let image = Image::with_file(&format!("test.local/{}:1", node.fresh("http")), wasm);
        node.import(&image)?;
        let shared = json!([{ "type": "pid" }, { "type": "ipc" }, { "type": "uts" }, { "type": "mount" }]);
        Ok(node.task(&image).spec(|spec| spec["linux"]["namespaces"] = shared))
    }

    /// Starts one on a free port, and waits until it answers.
    pub(crate) fn start<'a>(node: &'a Namespace, change: impl FnOnce(Draft<'a>) -> Draft<'a>) -> Result<Service> {
        Service::start_by(node, |draft, port| {
            change(draft.annotation("io.containerd.wasm.v1/http.listen", &format!("127.0.0.1:{port}")))
        })
    }

    /// As [`Service::start`], with a change that may fail.
    pub(crate) fn try_start<'a>(
        node: &'a Namespace,
        change: impl FnOnce(Draft<'a>) -> Result<Draft<'a>>,
    ) -> Result<Service> {
        Service::start_listening(change(Service::draft(node)?)?)
    }

    /// Starts it on a free port, and waits until it answers.
    pub(crate) fn start_listening(draft: Draft<'_>) -> Result<Service> {
        Service::start_draft(draft, |draft, port| {
            draft.annotation("io.containerd.wasm.v1/http.listen", &format!("127.0.0.1:{port}"))
        })
    }

    /// Starts one that is told its port by other means.
    pub(crate) fn start_by<'a>(
        node: &'a Namespace,
        change: impl FnOnce(Draft<'a>, u16) -> Draft<'a>,
    ) -> Result<Service> {
        Service::start_draft(Service::draft(node)?, change)
    }

    fn start_draft<'a>(draft: Draft<'a>, change: impl FnOnce(Draft<'a>, u16) -> Draft<'a>) -> Result<Service> {
        let port = free_port()?;
        let task = change(draft, port).create()?;
        task.start()?;
        let service = Service { port, task };
        wait::until("the service answers", || Ok(service.answers()?.then_some(())))?;
        Ok(service)
    }

    /// Whether it takes connections.
    pub(crate) fn answers(&self) -> Result<bool> {
        Ok(TcpStream::connect(("127.0.0.1", self.port)).is_ok())
    }

    pub(crate) fn get(&self, path: &str) -> Result<Reply> {
        self.curl(&[], &[path])?.pop().context("curl says what came")
    }

    pub(crate) fn post(&self, path: &str, body: &[u8]) -> Result<Reply> {
        replies(&self.command(&["--data-binary", "@-"], &[path]), body)?.pop().context("curl says what came")
    }

    /// Asks for all paths on one connection.
    pub(crate) fn curl(&self, flags: &[&str], paths: &[&str]) -> Result<Vec<Reply>> {
        replies(&self.command(flags, paths), b"")
    }

    /// Asks on a thread.
    pub(crate) fn background(&self, path: &str) -> JoinHandle<Result<Reply>> {
        let command = self.command(&[], &[path]);
        thread::spawn(move || replies(&command, b"")?.pop().context("curl says what came"))
    }

    /// Sends these bytes and gives all that comes back.
    pub(crate) fn raw(&self, text: &str) -> Result<String> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port))?;
        stream.write_all(text.as_bytes())?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    }

    /// Connects and says this; the connection stays open while it is held.
    pub(crate) fn say(&self, text: &str) -> Result<TcpStream> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port))?;
        stream.write_all(text.as_bytes())?;
        Ok(stream)
    }

    pub(crate) fn pid(&self) -> i32 {
        self.task.pid
    }

    pub(crate) fn kill(&self, signal: u32) -> Result<()> {
        self.task.kill(signal as i32)
    }

    /// Ends it by this signal; how it ended and what it said.
    pub(crate) fn end(self, signal: u32) -> Result<Finished> {
        self.kill(signal)?;
        self.task.finish()
    }

    /// As [`Service::end`], with this exit code.
    pub(crate) fn finish(self, signal: u32, code: u32) -> Result<()> {
        self.kill(signal)?;
        self.ended(code)
    }

    /// Waits for its end, which must be this exit code.
    pub(crate) fn ended(self, code: u32) -> Result<()> {
        let end = self.task.finish()?;
        ensure!(end.code == code, "wanted exit code {code}: {end:?}");
        Ok(())
    }

    fn command(&self, flags: &[&str], paths: &[&str]) -> Vec<String> {
        let mut words =
            vec!["--silent".to_owned(), "--show-error".to_owned(), "--write-out".to_owned(), AFTER.to_owned()];
        words.extend(flags.iter().map(|&flag| flag.to_owned()));
        words.extend(paths.iter().map(|path| format!("http://127.0.0.1:{}{path}", self.port)));
        words
    }
}

fn replies(words: &[String], body: &[u8]) -> Result<Vec<Reply>> {
    let mut curl = Command::new("curl");
    curl.args(words).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = curl.spawn().context("start curl")?;
    let mut stdin = child.stdin.take().context("a pipe to curl")?;
    let body = body.to_vec();
    let feed = thread::spawn(move || stdin.write_all(&body));
    let output = child.wait_with_output()?;
    let _ = feed.join();
    if !output.status.success() {
        bail!("curl {words:?}: {}", String::from_utf8_lossy(&output.stderr));
    }
    let text = String::from_utf8(output.stdout)?;
    text.split_terminator('\x1d').map(reply).collect()
}

fn reply(text: &str) -> Result<Reply> {
    let (body, after) = text.rsplit_once("\n\x1e").context("what curl writes after a body")?;
    let mut words = after.split(' ');
    Ok(Reply {
        status: words.next().context("a status")?.parse()?,
        version: words.next().unwrap_or_default().to_owned(),
        closes: words.next() == Some("close"),
        text: body.to_owned(),
    })
}

/// A port of loopback that nobody has.
pub(crate) fn free_port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

/// A network namespace with loopback alone, as long as this is held.
pub(crate) struct Network {
    holder: Child,
    path: String,
}

impl Network {
    /// One in which the shell has done `setup`.
    pub(crate) fn new(setup: &str) -> Result<Network> {
        let mut holder = Command::new("unshare");
        holder.args(["--net", "sh", "-c", &format!("ip link set lo up && {setup} && exec sleep 600")]);
        let holder = holder.spawn().context("make a network namespace")?;
        let path = format!("/proc/{}/ns/net", holder.id());
        let mut network = Network { holder, path };
        let own = fs::read_link("/proc/self/ns/net")?;
        wait::until("the namespace is there", || {
            ensure!(network.holder.try_wait()?.is_none(), "{setup} failed");
            let name = fs::read_to_string(format!("/proc/{}/comm", network.holder.id()))?;
            Ok((name.trim() == "sleep" && fs::read_link(&network.path)? != own).then_some(()))
        })?;
        Ok(network)
    }

    /// The namespaces of a container in it.
    pub(crate) fn namespaces(&self) -> Value {
        json!([{ "type": "pid" }, { "type": "mount" }, { "type": "network", "path": self.path }])
    }

    /// What a client in it is told; nothing if there is no server.
    pub(crate) fn curl(&self, address: &str) -> Result<String> {
        let mut curl = Command::new("nsenter");
        curl.arg(format!("--net={}", self.path)).args(["curl", "--silent", address]);
        Ok(String::from_utf8(curl.output()?.stdout)?)
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}
