//! `ctr run`, as a user calls it, and the running of commands to their end.

use crate::namespace::Namespace;
use crate::wait;
use anyhow::{Context, Result, bail, ensure};
use std::fmt;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

/// What a command said and how it ended.
#[derive(Debug, Clone)]
pub struct Output {
    /// Exit code; `ctr run` leaves with the task's.
    pub code: i32,
    /// All of stdout.
    pub stdout: Vec<u8>,
    /// All of stderr.
    pub stderr: Vec<u8>,
}

impl Output {
    /// Stdout as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// Stderr as text, without the warnings that `ctr` itself prints about the node (cgroup v1 is deprecated).
    pub fn errors(&self) -> String {
        let text = String::from_utf8_lossy(&self.stderr);
        let of_ctr = |line: &&str| line.starts_with("time=") && line.contains("level=warning");
        text.split_inclusive('\n').filter(|line| !of_ctr(line)).collect()
    }
}

impl fmt::Display for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN: usize = 4000;
        let shorten = |text: String| text.chars().take(SHOWN).collect::<String>();
        write!(
            f,
            "exit code {}\n--- stdout\n{}\n--- stderr\n{}\n---",
            self.code,
            shorten(self.text()),
            shorten(self.errors())
        )
    }
}

/// What a command reads.
pub struct Stdin {
    /// Written at once.
    pub bytes: Vec<u8>,
    /// Asked again and again; stdin stays open until it says yes.
    pub may_close: Box<dyn FnMut() -> bool + Send>,
}

/// Runs a command to its end, with `stdin` written to it, and kills it after [`wait::patience`].
pub fn finish(mut command: Command, stdin: Option<Stdin>) -> Result<Output> {
    let shown = format!("{command:?}");
    let input = if stdin.is_some() { Stdio::piped() } else { Stdio::null() };
    command.stdin(input);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().with_context(|| format!("start {shown}"))?;
    let gone = Arc::new(AtomicBool::new(false));
    let pipe = child.stdin.take();
    let writer = pipe.zip(stdin).map(|(pipe, stdin)| {
        let gone = gone.clone();
        thread::spawn(move || feed(pipe, stdin, &gone))
    });
    let stdout = collect(child.stdout.take().context("a pipe of stdout")?);
    let stderr = collect(child.stderr.take().context("a pipe of stderr")?);
    let ended = wait::until(&shown, || Ok(child.try_wait()?));
    if ended.is_err() {
        child.kill()?;
        child.wait()?;
    }
    gone.store(true, Ordering::Release);
    let gather = |reader: JoinHandle<Vec<u8>>| reader.join().unwrap_or_default();
    let output = Output {
        code: ended.as_ref().ok().and_then(|status| status.code()).unwrap_or(-1),
        stdout: gather(stdout),
        stderr: gather(stderr),
    };
    drop(writer.map(JoinHandle::join));
    ended.with_context(|| format!("killed: {output}"))?;
    Ok(output)
}

fn feed(mut pipe: impl Write, mut stdin: Stdin, gone: &AtomicBool) {
    // A command that does not read to the end closes the pipe, which is no failure of the test.
    let _ = pipe.write_all(&stdin.bytes);
    let _ = wait::until("stdin may close", || {
        let close = gone.load(Ordering::Acquire) || (stdin.may_close)();
        Ok(close.then_some(()))
    });
}

fn collect(mut pipe: impl Read + Send + 'static) -> JoinHandle<Vec<u8>> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        // What was read before an error is still worth showing.
        let _ = pipe.read_to_end(&mut bytes);
        bytes
    })
}

/// A `ctr run` that is being put together.
#[derive(Debug, Clone)]
pub struct Run<'a> {
    namespace: &'a Namespace,
    image: String,
    id: String,
    runtime: String,
    operator_file: PathBuf,
    flags: Vec<String>,
    words: Vec<String>,
    stdin: Option<Vec<u8>>,
}

impl<'a> Run<'a> {
    pub(crate) fn new(namespace: &'a Namespace, image: &str, id: String) -> Self {
        Run {
            namespace,
            image: image.to_owned(),
            id,
            runtime: "io.containerd.wasm.v1".to_owned(),
            operator_file: namespace.containerd().operator_file(),
            flags: Vec::new(),
            words: Vec::new(),
            stdin: None,
        }
    }

    /// The container's id.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// With an id of the test's choice.
    pub fn named(mut self, id: &str) -> Self {
        id.clone_into(&mut self.id);
        self
    }

    /// With another runtime: to prove the harness without our shim.
    pub fn runtime(mut self, runtime: &str) -> Self {
        runtime.clone_into(&mut self.runtime);
        self
    }

    /// With another operator file.
    pub fn operator_file(mut self, path: &Path) -> Self {
        path.clone_into(&mut self.operator_file);
        self
    }

    /// The command line of the container instead of the image's.
    pub fn args<T: AsRef<str>>(mut self, words: impl IntoIterator<Item = T>) -> Self {
        self.words = words.into_iter().map(|word| word.as_ref().to_owned()).collect();
        self
    }

    /// More flags of `ctr run`.
    pub fn flags<T: AsRef<str>>(mut self, flags: impl IntoIterator<Item = T>) -> Self {
        let flags = flags.into_iter().map(|flag| flag.as_ref().to_owned());
        self.flags.extend(flags);
        self
    }

    /// One more environment variable, `NAME=VALUE`.
    pub fn env(self, entry: &str) -> Self {
        self.flags(["--env", entry])
    }

    /// One more annotation.
    pub fn annotation(self, key: &str, value: &str) -> Self {
        let pair = format!("{key}={value}");
        self.flags(["--annotation", &pair])
    }

    /// A bind mount with these options, for example `rbind:ro`.
    pub fn bind(self, source: &Path, destination: &str, options: &str) -> Self {
        let source = source.display();
        let mount = format!("type=bind,src={source},dst={destination},options={options}");
        self.flags(["--mount", &mount])
    }

    /// A tmpfs mount.
    pub fn tmpfs(self, destination: &str, options: &str) -> Self {
        let mount = format!("type=tmpfs,src=tmpfs,dst={destination},options={options}");
        self.flags(["--mount", &mount])
    }

    /// With these bytes piped to stdin.
    pub fn stdin(mut self, bytes: &[u8]) -> Self {
        self.stdin = Some(bytes.to_vec());
        self
    }

    /// The command, for a test that does more than wait for its end.
    pub fn command(&self) -> Command {
        let mut command = self.namespace.ctr_command();
        command.args(["run", "--rm", "--runtime", &self.runtime]);
        command.arg("--fifo-dir").arg(self.namespace.containerd().fifos());
        if !self.runtime.starts_with("io.containerd.runc") {
            command.arg("--runtime-config-path").arg(&self.operator_file);
        }
        command.args(&self.flags).args([&self.image, &self.id]);
        command.args(&self.words);
        command
    }

    /// Runs it to its end.
    pub fn output(self) -> Result<Output> {
        let command = self.command();
        let Some(bytes) = self.stdin else {
            return finish(command, None);
        };
        // ctr tells the task of the end of stdin only if that comes after it has created the task (cmd/ctr/commands/run:
        // `stdinC.closer` is set late), with any runtime: hold stdin open until the task runs.
        let (api, id) = (self.namespace.api()?, self.id);
        let may_close = move || api.state(&id).is_ok_and(|state| state.status != "CREATED");
        let stdin = Stdin { bytes, may_close: Box::new(may_close) };
        finish(command, Some(stdin))
    }

    /// Runs it to its end, which must be this exit code, and gives stdout.
    pub fn expect(self, code: i32) -> Result<Output> {
        let shown = format!("{:?}", self.command());
        let output = self.output()?;
        ensure!(output.code == code, "expected exit code {code}: {shown}: {output}");
        Ok(output)
    }

    /// Runs it; Create must fail with a message that has all the parts, in one line of its own.
    pub fn refused(self, parts: &[&str]) -> Result<()> {
        let shown = format!("{:?}", self.command());
        let output = self.output()?;
        let errors = output.errors();
        let line = errors.lines().find(|line| parts.iter().all(|part| line.contains(part)));
        if output.code == 0 || line.is_none() {
            bail!("expected a refusal with {parts:?}: {shown}: {output}");
        }
        Ok(())
    }
}
