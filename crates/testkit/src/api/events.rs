//! The events of a namespace, in the order containerd forwards them.

use super::{request, runtime};
use crate::wait;
use anyhow::{Context, Result, bail};
use containerd_client::events::{
    TaskCreate, TaskDelete, TaskExecAdded, TaskExecStarted, TaskExit, TaskOom, TaskPaused, TaskResumed, TaskStart,
};
use containerd_client::services::v1::events_client::EventsClient;
use containerd_client::services::v1::{PublishRequest, SubscribeRequest};
use containerd_client::types::Envelope;
use prost::Message;
use prost_types::Any;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::thread;

/// The topic of the event that proves that the subscription stands.
const PROBE: &str = "/test/subscribed";

/// A task event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// The container.
    pub id: String,
    /// What happened: `create`, `start`, `paused`, `resumed`, `oom`, `exit`, `delete`; of processes of exec `exec-added`,
    /// `exec-started`, `exec-exit`.
    pub what: String,
    /// Exit code of `exit` and `delete`, else 0.
    pub code: u32,
    /// Process id, where the event has one.
    pub pid: u32,
}

/// What has come so far; a thread gathers it.
#[derive(Debug)]
pub struct Events {
    heard: Arc<Mutex<Vec<Event>>>,
}

impl Events {
    pub(super) fn subscribe(socket: &Path, namespace: &str) -> Result<Self> {
        let heard = Arc::new(Mutex::new(Vec::new()));
        let (gathered, path, name) = (heard.clone(), socket.to_owned(), namespace.to_owned());
        // The thread ends with containerd's stream.
        thread::spawn(move || gather(&path, &name, &gathered));
        let events = Events { heard };
        // containerd says nothing until the first event: publish one until it arrives.
        wait::until("the subscription to events stands", || {
            publish_probe(socket, namespace)?;
            Ok(events.all().iter().any(|event| event.what == PROBE).then_some(()))
        })?;
        Ok(events)
    }

    /// All so far.
    fn all(&self) -> Vec<Event> {
        self.heard.lock().expect("nothing panics with the lock").clone()
    }

    /// The events of a container so far.
    pub fn of(&self, id: &str) -> Vec<Event> {
        let mut events = self.all();
        events.retain(|event| event.id == id);
        events
    }

    /// Waits until the container had an event of this kind, and gives all its events so far.
    pub fn until(&self, id: &str, what: &str) -> Result<Vec<Event>> {
        let found = wait::until(&format!("event {what} of {id}"), || {
            let events = self.of(id);
            Ok(events.iter().any(|event| event.what == what).then_some(events))
        });
        found.with_context(|| format!("heard: {:?}", self.of(id)))
    }
}

fn publish_probe(socket: &Path, namespace: &str) -> Result<()> {
    runtime()?.block_on(async {
        let channel = containerd_client::connect(socket).await?;
        let probe = PublishRequest {
            topic: PROBE.to_owned(),
            event: Some(Any {
                type_url: "containerd.events.TaskOOM".to_owned(),
                value: TaskOom::default().encode_to_vec(),
            }),
        };
        EventsClient::new(channel).publish(request(namespace, probe)).await?;
        Ok(())
    })
}

/// Gathers until the stream ends.
fn gather(socket: &PathBuf, namespace: &str, heard: &Mutex<Vec<Event>>) -> Result<()> {
    runtime()?.block_on(async {
        let channel = containerd_client::connect(socket).await?;
        let subscription = SubscribeRequest { filters: vec![format!("namespace=={namespace}")] };
        let mut client = EventsClient::new(channel);
        let reply = client.subscribe(request(namespace, subscription)).await?;
        let mut stream = reply.into_inner();
        while let Some(envelope) = stream.message().await? {
            if let Ok(event) = decode(envelope) {
                heard.lock().expect("nothing panics with the lock").push(event);
            }
        }
        Ok(())
    })
}

fn decode(envelope: Envelope) -> Result<Event> {
    let bytes = envelope.event.unwrap_or_default().value;
    let bytes = bytes.as_slice();
    let (id, what, code, pid) = match envelope.topic.as_str() {
        PROBE => (String::new(), PROBE, 0, 0),
        "/tasks/create" => {
            let event = TaskCreate::decode(bytes)?;
            (event.container_id, "create", 0, event.pid)
        }
        "/tasks/start" => {
            let event = TaskStart::decode(bytes)?;
            (event.container_id, "start", 0, event.pid)
        }
        "/tasks/oom" => (TaskOom::decode(bytes)?.container_id, "oom", 0, 0),
        "/tasks/paused" => (TaskPaused::decode(bytes)?.container_id, "paused", 0, 0),
        "/tasks/resumed" => (TaskResumed::decode(bytes)?.container_id, "resumed", 0, 0),
        "/tasks/exit" => {
            let event = TaskExit::decode(bytes)?;
            let what = if event.id == event.container_id { "exit" } else { "exec-exit" };
            (event.container_id, what, event.exit_status, event.pid)
        }
        "/tasks/exec-added" => (TaskExecAdded::decode(bytes)?.container_id, "exec-added", 0, 0),
        "/tasks/exec-started" => {
            let event = TaskExecStarted::decode(bytes)?;
            (event.container_id, "exec-started", 0, event.pid)
        }
        "/tasks/delete" => {
            let event = TaskDelete::decode(bytes)?;
            (event.container_id, "delete", event.exit_status, event.pid)
        }
        other => bail!("no task event: {other}"),
    };
    Ok(Event { id, what: what.to_owned(), code, pid })
}
