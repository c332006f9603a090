//! A task by way of the API: created with a spec of the test's choice, then moved step by step.

use crate::api::{Api, Ended, Exec, Terminal};
use crate::fifo::{Input, Output, Stdio};
use crate::namespace::Namespace;
use crate::{Image, spec};
use anyhow::{Context, Result, bail, ensure};
use containerd_client::tonic::Code;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A task that is being put together.
#[derive(Debug)]
pub struct Draft<'a> {
    namespace: &'a Namespace,
    image: String,
    id: String,
    spec: Value,
    input: Input,
    output: Output,
    terminal: Terminal,
    operator_file: PathBuf,
    layer_options: Option<[String; 2]>,
    upper: Option<PathBuf>,
}

impl<'a> Draft<'a> {
    pub(crate) fn new(namespace: &'a Namespace, image: &Image, id: String) -> Self {
        let command: Vec<&str> = image.command().iter().map(String::as_str).collect();
        Draft {
            namespace,
            image: image.reference().to_owned(),
            spec: spec::linux(namespace.name(), &id, &command),
            id,
            input: Input::Absent,
            output: Output::Fifos,
            terminal: Terminal::None,
            operator_file: namespace.containerd().operator_file(),
            layer_options: None,
            upper: None,
        }
    }

    /// The container's id.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// With another command line than the image's.
    pub fn args<T: AsRef<str>>(mut self, words: impl IntoIterator<Item = T>) -> Self {
        let words: Vec<String> = words.into_iter().map(|word| word.as_ref().to_owned()).collect();
        self.spec["process"]["args"] = json!(words);
        self
    }

    /// With a changed spec.
    pub fn spec(mut self, change: impl FnOnce(&mut Value)) -> Self {
        change(&mut self.spec);
        self
    }

    /// With one more annotation.
    pub fn annotation(self, key: &str, value: &str) -> Self {
        self.spec(|spec| spec["annotations"][key] = json!(value))
    }

    /// With one more bind mount.
    pub fn bind(self, source: &Path, destination: &str, options: &[&str]) -> Self {
        let mount = json!({ "destination": destination, "type": "bind", "source": source, "options": options });
        self.spec(|spec| {
            if let Some(mounts) = spec["mounts"].as_array_mut() {
                mounts.push(mount);
            }
        })
    }

    /// With a fifo for stdin.
    pub fn stdin(mut self) -> Self {
        self.input = Input::Fifo;
        self
    }

    /// With a terminal, whose input comes by a fifo.
    pub fn terminal(mut self) -> Self {
        self.terminal = Terminal::Own;
        self.stdin().spec(|spec| spec["process"]["terminal"] = json!(true))
    }

    /// With a terminal that nobody types at.
    pub fn silent_terminal(self) -> Self {
        let draft = self.terminal();
        Draft { input: Input::Absent, ..draft }
    }

    /// With stdout and stderr appended to a file, as `ctr run --log-uri file://` has it, instead of fifos.
    pub fn log_file(mut self, path: &Path) -> Self {
        self.output = Output::File(path.to_owned());
        self
    }

    /// With stdout and stderr to a program of the node, `binary://`, as `ctr run --log-uri` has it.
    pub fn logger(mut self, uri: &str) -> Self {
        self.output = Output::Logger(uri.to_owned());
        self
    }

    /// With the writes to its root filesystem in this directory.
    pub fn upper(mut self, path: &Path) -> Self {
        self.upper = Some(path.to_owned());
        self
    }

    /// With another operator file.
    pub fn operator_file(mut self, path: &Path) -> Self {
        path.clone_into(&mut self.operator_file);
        self
    }

    /// With the layers of its image mapped for a user namespace, as a snapshotter does that can: `0:100000:65536`.
    pub fn map_layers(mut self, ids: &str) -> Self {
        self.layer_options = Some([format!("uidmap={ids}"), format!("gidmap={ids}")]);
        self
    }

    /// Creates container and task.
    pub fn create(self) -> Result<Task> {
        let mut api = self.namespace.api()?.operator_file(&self.operator_file);
        if let Some(options) = self.layer_options {
            api = api.layer_options(options);
        }
        if let Some(upper) = &self.upper {
            api = api.upper(upper);
        }
        let (id, fifos) = (self.id, self.namespace.containerd().fifos());
        let name = format!("{}-{id}", self.namespace.name());
        let stdio = Stdio::new(&fifos, &name, self.input, &self.output)?;
        let parent = self.namespace.chain_id(&self.image);
        api.create_container(&id, &self.spec, &self.image, &parent)?;
        let created = match self.terminal {
            Terminal::None => api.create_task(&id, Some(&stdio)),
            Terminal::Own => api.create_task_on_terminal(&id, &stdio),
        };
        match created {
            Ok(pid) => Ok(Task { id, pid, api, stdio }),
            Err(status) => {
                api.delete_container(&id)?;
                bail!("create {id}: {}", status.message())
            }
        }
    }

    /// Creates, and is gone before that is done: it must take longer than `patience`.
    pub fn abandon(self, patience: Duration) -> Result<()> {
        let api = self.namespace.api()?.operator_file(&self.operator_file);
        let parent = self.namespace.chain_id(&self.image);
        api.create_container(&self.id, &self.spec, &self.image, &parent)?;
        let api = api.patience(patience);
        let answer = api.create_task(&self.id, None);
        let gone = matches!(&answer, Err(status) if status.code() == Code::DeadlineExceeded);
        ensure!(gone, "create was through before it was given up: {answer:?}");
        Ok(())
    }

    /// Creates, and expects the creation to fail with a line that has all the parts.
    pub fn refused(self, parts: &[&str]) -> Result<()> {
        let id = self.id.clone();
        match self.create() {
            Ok(task) => {
                task.remove()?;
                bail!("{id} was created, and should have been refused with {parts:?}")
            }
            Err(error) => {
                let text = format!("{error:#}");
                let line = text.lines().find(|line| parts.iter().all(|part| line.contains(part)));
                ensure!(line.is_some(), "expected a refusal with {parts:?}, got: {text}");
                Ok(())
            }
        }
    }
}

/// A task that was created.
#[derive(Debug)]
pub struct Task {
    /// Its container.
    pub id: String,
    /// Its process on the node.
    pub pid: i32,
    /// The connection it was made by.
    pub api: Api,
    /// This end of its stdio.
    pub stdio: Stdio,
}

/// What is left of a task.
#[derive(Debug, Clone)]
pub struct Finished {
    /// Exit code.
    pub code: u32,
    /// All of stdout.
    pub stdout: String,
    /// All of stderr.
    pub stderr: String,
}

impl Task {
    /// Starts it.
    pub fn start(&self) -> Result<()> {
        self.api.start(&self.id).with_context(|| format!("start {}", self.id))?;
        Ok(())
    }

    /// Starts it and waits until it has said this on stdout.
    pub fn start_until(&self, said: &str) -> Result<()> {
        self.start()?;
        let heard = self.stdio.stdout.wait_for(said);
        heard.with_context(|| format!("{}: stderr: {}", self.id, self.stdio.stderr.text()))
    }

    /// Waits for its end.
    pub fn wait(&self) -> Result<Ended> {
        self.api.wait(&self.id).with_context(|| format!("wait for {}", self.id))
    }

    /// Sends a signal.
    pub fn kill(&self, signal: i32) -> Result<()> {
        let sent = self.api.kill(&self.id, signal);
        sent.with_context(|| format!("send signal {signal} to {}", self.id))
    }

    /// Takes up one more process of it, with these arguments, after `change` to its spec.
    pub fn exec(
        &self,
        node: &Namespace,
        args: &[&str],
        terminal: Terminal,
        change: impl FnOnce(&mut Value),
    ) -> Result<Exec<'_>> {
        let name = node.fresh("exec");
        let stdio = Stdio::new(
            &node.containerd().fifos(),
            &format!("{}-{}-{name}", node.name(), self.id),
            Input::Fifo,
            &Output::Fifos,
        )?;
        let mut process = json!({
            "args": args,
            "cwd": "/",
            "env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
            "user": { "uid": 0, "gid": 0 },
            "noNewPrivileges": true,
        });
        change(&mut process);
        let exec = self.api.exec(&self.id, &name, &process, stdio, terminal);
        exec.with_context(|| format!("exec {args:?} in {}", self.id))
    }

    /// Waits for its end, reads its output to the end, and deletes it.
    pub fn finish(self) -> Result<Finished> {
        let ended = self.wait()?;
        let (stdout, stderr) = (self.stdio.stdout.to_end()?, self.stdio.stderr.to_end()?);
        let deleted = self.api.delete_task(&self.id)?;
        ensure!(deleted == ended, "wait said {ended:?}, delete said {deleted:?}");
        self.api.delete_container(&self.id)?;
        Ok(Finished { code: ended.code, stdout, stderr })
    }

    /// Kills it, whatever it does, and deletes it.
    pub fn remove(self) -> Result<()> {
        if self.api.state(&self.id).is_ok_and(|state| state.status != "STOPPED") {
            self.kill(9)?;
            self.wait()?;
        }
        self.api.delete_task(&self.id)?;
        self.api.delete_container(&self.id)?;
        Ok(())
    }
}
