//! Leads one container after the other through its life, as its fate says, also over a containerd that goes away.

use crate::Churn;
use crate::fate::{Blow, Fate, Step};
use anyhow::{Context, Result, bail, ensure};
use containerd_client::tonic::{Code, Status};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;
use testkit::api::{Api, Ended};
use testkit::fifo::{Input, Output, Stdio};
use testkit::{process, spec, wait};

/// How long containerd may take to make a bundle.
const BUNDLE: Duration = Duration::from_secs(20);

pub(crate) struct Worker<'a> {
    churn: &'a Churn,
    api: Api,
}

/// A container that was created.
struct Made {
    pid: i32,
    shim: i32,
}

/// How a call went.
enum Answer<T> {
    /// containerd answered.
    Told(Result<T, Status>),
    /// containerd went away, and is back.
    Away,
}

impl<'a> Worker<'a> {
    pub(crate) fn new(churn: &'a Churn) -> Result<Worker<'a>> {
        Ok(Worker { churn, api: churn.node.api()? })
    }

    /// Makes a container, and leaves nothing of it.
    pub(crate) fn live(&mut self, index: usize, fate: &Fate) -> Result<()> {
        let id = format!("t{index}");
        let stdio = Stdio::new(&self.churn.containerd.fifos(), &id, Input::Fifo, &Output::Fifos)?;
        match fate {
            Fate::Lives { code } => self.leave(&id, &stdio, *code)?,
            Fate::Hurt { step, blow } => {
                self.hurt(&id, &stdio, *step, *blow)?;
                self.clean(&id)?;
                self.churn.count(|tally| &mut tally.hurt);
            }
        }
        Ok(())
    }

    /// From create to delete; the exit code must be the guest's.
    fn leave(&mut self, id: &str, stdio: &Stdio, code: u8) -> Result<()> {
        let Some(_) = self.create(id, Some(stdio), code)? else {
            self.churn.count(|tally| &mut tally.disturbed);
            return self.clean(id);
        };
        self.start(id)?;
        self.insist(|api| api.close_stdin(id))?.context("close stdin")?;
        let ended = self.insist(|api| api.wait(id))?.context("wait")?;
        ensure!(ended.code == u32::from(code), "wait said {ended:?}");
        let said = stdio.stderr.to_end()?;
        ensure!(said == "end of input after 0 bytes\n", "it said {said:?}");
        if let Some(deleted) = self.delete(id)? {
            ensure!(deleted == ended, "wait said {ended:?}, delete said {deleted:?}");
        }
        self.insist(|api| api.discard_container(id))?.context("delete the container")?;
        self.churn.count(|tally| &mut tally.right_code);
        Ok(())
    }

    /// Up to the step, and the blow. What comes after that is [`Worker::clean`]'s.
    fn hurt(&mut self, id: &str, stdio: &Stdio, step: Step, blow: Blow) -> Result<()> {
        if step == Step::Creating {
            return match blow {
                Blow::Client { patience_ms } => self.create_in_vain(id, stdio, patience_ms),
                Blow::Shim | Blow::Process => self.create_while_the_shim_is_killed(id, stdio),
            };
        }
        let Some(made) = self.create(id, Some(stdio), 0)? else { return Ok(()) };
        if step != Step::Created {
            self.start(id)?;
        }
        if step == Step::Paused {
            self.move_on(id, "RUNNING", |api| api.pause(id)).context("pause")?;
        }
        if matches!(step, Step::Exited | Step::Deleting) {
            self.insist(|api| api.close_stdin(id))?.context("close stdin")?;
            self.insist(|api| api.wait(id))?.context("wait")?;
        }
        match blow {
            // Whoever is in the middle of something is hit there; errors are expected and say nothing.
            Blow::Shim if step == Step::Deleting => thread::scope(|scope| {
                let killer = scope.spawn(|| kill(Pid::from_raw(made.shim), Signal::SIGKILL));
                let _ = self.call(|api| api.delete_task(id))?;
                let _ = killer.join().expect("it returns errors");
                Ok(())
            }),
            Blow::Shim => Ok(kill(Pid::from_raw(made.shim), Signal::SIGKILL)?),
            Blow::Process => {
                kill(Pid::from_raw(made.pid), Signal::SIGKILL)?;
                if step == Step::Paused {
                    // Under cgroup version 1 a frozen process dies when it goes on.
                    let _ = self.insist(|api| api.kill(id, 9))?;
                }
                let ended = self.insist(|api| api.wait(id))?.context("wait")?;
                ensure!(ended.code == 137, "wait said {ended:?}");
                Ok(())
            }
            Blow::Client { patience_ms } => {
                let Ok(client) = self.churn.node.api() else { return Ok(()) };
                let client = client.patience(Duration::from_millis(patience_ms));
                let _ = match step {
                    Step::Created => client.start(id).map(drop),
                    Step::Running => client.wait(id).map(drop),
                    Step::Paused => client.resume(id),
                    Step::Creating | Step::Exited | Step::Deleting => client.delete_task(id).map(drop),
                };
                Ok(())
            }
        }
    }

    fn create_in_vain(&mut self, id: &str, stdio: &Stdio, patience_ms: u64) -> Result<()> {
        let Some(()) = self.make(id, 0)? else { return Ok(()) };
        let Ok(client) = self.churn.node.api() else { return Ok(()) };
        let _ = client.patience(Duration::from_millis(patience_ms)).create_task(id, Some(stdio));
        Ok(())
    }

    /// As soon as there is one.
    fn create_while_the_shim_is_killed(&mut self, id: &str, stdio: &Stdio) -> Result<()> {
        let bundle = self.churn.containerd.bundle(self.churn.node.name(), id);
        thread::scope(|scope| {
            let killer = scope.spawn(move || {
                wait::until_within(BUNDLE, "the shim's socket", || Ok(shim_of(&bundle)))
                    .map(|shim| kill(Pid::from_raw(shim), Signal::SIGKILL))
            });
            let created = self.create_or_refusal(id, Some(stdio), 0);
            // With containerd away, or a create that was through before, there may be none.
            let _ = killer.join().expect("it returns errors");
            created.map(drop)
        })
    }

    /// `None` if containerd went away meanwhile, and who knows what it did, or if it has lost the snapshot.
    fn create(&mut self, id: &str, stdio: Option<&Stdio>, code: u8) -> Result<Option<Made>> {
        match self.create_or_refusal(id, stdio, code)? {
            // containerd's snapshotter collects what a kill left by number, and takes a snapshot for it that gets the same
            // number meanwhile.
            Some(Err(_)) if matches!(self.insist(|api| api.has_snapshot(id))?, Ok(false)) => Ok(None),
            Some(created) => Ok(Some(created.with_context(|| format!("create {id}"))?)),
            None => Ok(None),
        }
    }

    fn create_or_refusal(&mut self, id: &str, stdio: Option<&Stdio>, code: u8) -> Result<Option<Result<Made>>> {
        let Some(()) = self.make(id, code)? else { return Ok(None) };
        let Answer::Told(created) = self.call(|api| api.create_task(id, stdio))? else { return Ok(None) };
        let bundle = self.churn.containerd.bundle(self.churn.node.name(), id);
        if let Some(socket) = socket_of(&bundle) {
            self.churn.sockets.lock().expect("nothing panics with the lock").insert(socket, id.to_owned());
        }
        let made = created.map_err(anyhow::Error::from).and_then(|pid| Ok(Made { pid, shim: process::parent(pid)? }));
        Ok(Some(made))
    }

    /// The container, without a task. `None` if containerd went away meanwhile.
    fn make(&mut self, id: &str, code: u8) -> Result<Option<()>> {
        let churn = self.churn;
        wait::until(&format!("container {id} is made"), || {
            match self.call(|api| container(churn, api, id, code))? {
                Answer::Told(Ok(())) => Ok(Some(Some(()))),
                // containerd's snapshotter, killed while it made a snapshot, left a directory that it stumbles over with
                // every snapshot until it collects its garbage.
                Answer::Told(Err(status)) if status.message().contains("file exists") => {
                    churn.node.ctr(&["content", "prune", "references"])?;
                    Ok(None)
                }
                Answer::Told(Err(status)) => Err(status).context("make the container"),
                Answer::Away => Ok(Some(None)),
            }
        })
    }

    fn start(&mut self, id: &str) -> Result<()> {
        self.move_on(id, "CREATED", |api| api.start(id).map(drop)).context("start")
    }

    /// Calls again until there is an answer, or it is not as it was: the call came through, and its answer did not.
    fn move_on(&mut self, id: &str, from: &str, call: impl Fn(&Api) -> Result<(), Status>) -> Result<()> {
        loop {
            match self.call(&call)? {
                Answer::Told(moved) => return Ok(moved?),
                Answer::Away => {
                    let state = self.insist(|api| api.state(id))?.context("look at it after containerd was away")?;
                    if state.status != from {
                        return Ok(());
                    }
                }
            }
        }
    }

    /// `None` if containerd went away meanwhile, and it is gone.
    fn delete(&mut self, id: &str) -> Result<Option<Ended>> {
        let mut was_away = Vec::new();
        loop {
            match self.call(|api| api.delete_task(id))? {
                Answer::Told(Err(status)) if status.code() == Code::NotFound && !was_away.is_empty() => {
                    return Ok(None);
                }
                Answer::Told(deleted) => return Ok(Some(deleted.context("delete")?)),
                Answer::Away => was_away.push(()),
            }
        }
    }

    /// Removes all there is of it, whatever that is.
    fn clean(&mut self, id: &str) -> Result<()> {
        let mut last = String::new();
        let cleaned = wait::until(&format!("{id} is gone"), || match self.insist(|api| api.state(id))? {
            Ok(state) => {
                last = format!("{state:?}");
                if state.status != "STOPPED" {
                    let _ = self.insist(|api| api.kill(id, 9))?;
                }
                if let Err(refused) = self.insist(|api| api.delete_task(id))? {
                    last = format!("{last}, then {refused}");
                }
                Ok(None)
            }
            Err(status) if status.code() == Code::NotFound => {
                self.insist(|api| api.discard_container(id))?.context("delete the container")?;
                Ok(Some(()))
            }
            Err(status) => {
                last = status.to_string();
                Ok(None)
            }
        });
        cleaned.with_context(|| format!("the last answer was {last}"))
    }

    /// Calls again until there is an answer.
    fn insist<T>(&mut self, call: impl Fn(&Api) -> Result<T, Status>) -> Result<Result<T, Status>> {
        loop {
            if let Answer::Told(answer) = self.call(&call)? {
                return Ok(answer);
            }
        }
    }

    /// Calls once. An error while containerd was not there all the time is no answer; it is waited for.
    fn call<T>(&mut self, call: impl FnOnce(&Api) -> Result<T, Status>) -> Result<Answer<T>> {
        let generation = || self.churn.generation.load(Ordering::SeqCst);
        let before = generation();
        let answer = call(&self.api);
        if answer.is_ok() || (before.is_multiple_of(2) && generation() == before) {
            return Ok(Answer::Told(answer));
        }
        wait::until("containerd is back", || Ok(generation().is_multiple_of(2).then_some(())))?;
        match self.churn.node.api() {
            Ok(api) => self.api = api,
            // Away again.
            Err(error) if generation().is_multiple_of(2) => bail!("connect to containerd: {error:#}"),
            Err(_) => {}
        }
        Ok(Answer::Away)
    }
}

/// The shim that serves a bundle, once it has begun to create the container. Of one that is killed before containerd is
/// connected to it the socket stays: containerd does not run `delete` then, and the next container of the same name
/// replaces the socket.
fn shim_of(bundle: &Path) -> Option<i32> {
    bundle.join("wasm.json").exists().then_some(())?;
    process::server_of(&socket_of(bundle)?).ok()
}

fn socket_of(bundle: &Path) -> Option<PathBuf> {
    let address = fs::read_to_string(bundle.join("address")).ok()?;
    address.strip_prefix("unix://").map(PathBuf::from)
}

/// A container whose guest waits for the end of its input, then leaves with the code.
fn container(churn: &Churn, api: &Api, id: &str, code: u8) -> Result<(), Status> {
    let spec = spec::linux(churn.node.name(), id, &["/app.wasm", &code.to_string()]);
    let parent = churn.node.chain_id(churn.image.reference());
    api.create_container(id, &spec, churn.image.reference(), &parent).map_err(|error| {
        match error.downcast::<Status>() {
            Ok(status) => status,
            Err(error) => Status::unknown(format!("{error:#}")),
        }
    })
}
