//! A registry of images: Debian's `docker-registry` on loopback with its files in a directory of the test, or one that runs
//! elsewhere.
//! Invariant: what was started here is ended, by its pid, when it is dropped.

use crate::containerd::pods::REGISTRIES;
use crate::{Containerd, Image, checkout, wait};
use anyhow::{Context, Result, bail, ensure};
use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// A registry that answers, over plain HTTP.
#[derive(Debug)]
pub struct Registry {
    /// None of one that somebody else runs.
    process: Option<Child>,
    /// `ADDRESS:PORT`, the first part of its images' names.
    address: String,
}

impl Registry {
    /// Starts one in an empty directory.
    pub fn start(dir: &Path) -> Result<Registry> {
        let program = program()?;
        let config = format!(
            "version: 0.1\nlog: {{level: info, accesslog: {{disabled: true}}}}\nhttp: {{addr: '127.0.0.1:0'}}\n\
             storage: {{filesystem: {{rootdirectory: {:?}}}}}\n",
            dir.join("images")
        );
        fs::write(dir.join("config.yml"), config)?;
        let log = File::create(dir.join("log"))?;
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "TERM"]).arg(program).arg("serve").arg(dir.join("config.yml"));
        command.env_clear().stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let process = command.spawn().context("start setpriv of util-linux")?;
        let mut registry = Registry { process: Some(process), address: String::new() };
        registry.address = registry.listens(&dir.join("log"))?;
        Ok(registry)
    }

    /// One that answers at `ADDRESS:PORT`.
    pub fn at(address: &str) -> Registry {
        Registry { process: None, address: address.to_owned() }
    }

    /// The kernel chooses the port, and the log tells it.
    fn listens(&mut self, log: &Path) -> Result<String> {
        wait::until("the registry listens", || {
            let text = fs::read_to_string(log)?;
            if let Some(status) = self.process.as_mut().map(Child::try_wait).transpose()?.flatten() {
                bail!("the registry ended with {status}: {text}");
            }
            let address = text.split_once("listening on ").map(|(_, rest)| rest);
            let end = |rest: &str| rest.find(|c: char| !c.is_ascii_digit() && c != '.' && c != ':');
            Ok(address.and_then(|rest| Some(rest[..end(rest)?].to_owned())))
        })
    }

    /// The name of an image of it, for example of `hello:1`.
    pub fn reference(&self, name: &str) -> String {
        format!("{}/{name}", self.address)
    }

    /// The name by which a containerd knows an image of it, once told that this host is reached here.
    pub fn behind(&self, host: &str, name: &str, containerd: &Containerd) -> Result<String> {
        let dir = containerd.dir().join(REGISTRIES).join(host);
        fs::create_dir_all(&dir)?;
        let text = format!("server = \"http://{0}\"\n[host.\"http://{0}\"]\n", self.address);
        fs::write(dir.join("hosts.toml"), text)?;
        Ok(format!("{host}/{name}"))
    }

    /// Pushes an image, whose name is one of [`Registry::reference`] with a tag, and gives its name with the digest in place
    /// of the tag.
    pub fn push(&self, image: &Image) -> Result<String> {
        let reference = image.reference();
        let name = reference.strip_prefix(&self.address).and_then(|rest| rest.strip_prefix('/'));
        let (name, tag) = name.and_then(|rest| rest.rsplit_once(':')).context("a name of this registry with a tag")?;
        let layout = image.layout()?;
        for (digest, bytes) in layout.blobs() {
            let begun = self.request("POST", &format!("/v2/{name}/blobs/uploads/"), "", &[])?;
            let place = begun.header("location").context("no place for a blob")?;
            let path = place.split_once(&self.address).map_or(place, |(_, path)| path);
            let mark = if path.contains('?') { '&' } else { '?' };
            self.request("PUT", &format!("{path}{mark}digest={digest}"), "application/octet-stream", bytes)?;
        }
        let mut last = "";
        for (digest, media_type, text) in layout.manifests() {
            self.request("PUT", &format!("/v2/{name}/manifests/{digest}"), media_type, text)?;
            last = digest;
        }
        let (_, media_type, text) = layout.manifests().last().context("an image with a manifest")?;
        self.request("PUT", &format!("/v2/{name}/manifests/{tag}"), media_type, text)?;
        Ok(self.reference(&format!("{name}@{last}")))
    }

    /// One request on a connection of its own, which must succeed.
    fn request(&self, method: &str, path: &str, media_type: &str, body: &[u8]) -> Result<Answer> {
        let mut connection = TcpStream::connect(&self.address)?;
        connection.set_read_timeout(Some(wait::patience()))?;
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\nContent-Type: {media_type}\r\n\
             Content-Length: {}\r\n\r\n",
            self.address,
            body.len()
        );
        connection.write_all(head.as_bytes())?;
        connection.write_all(body)?;
        let mut text = String::new();
        connection.read_to_string(&mut text)?;
        let good = text.split(' ').nth(1).is_some_and(|code| code.starts_with('2'));
        ensure!(good, "{method} {path}: {text}");
        Ok(Answer(text))
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let Some(process) = &mut self.process else { return };
        // Errors say that it is gone already.
        let _ = process.kill();
        let _ = process.wait();
    }
}

/// What the registry said.
struct Answer(String);

impl Answer {
    fn header(&self, name: &str) -> Option<&str> {
        let head = self.0.split("\r\n\r\n").next()?;
        let fields = head.lines().filter_map(|line| line.split_once(": "));
        fields.filter(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value).next()
    }
}

/// Where the script has put it.
fn program() -> Result<PathBuf> {
    let script = checkout::root().join("test/cri/registry.sh");
    let program = crate::store::dir().join("registry/docker-registry");
    ensure!(program.exists(), "no registry in {}: run {}", program.display(), script.display());
    Ok(program)
}
