//! Events for containerd: one queue, in order, none lost while containerd is away.
//! The order create, start, exit, delete is the callers' to keep: they queue in it.

use containerd_shim_protos::api::ForwardRequest;
use containerd_shim_protos::events::task::{
    TaskCreate, TaskDelete, TaskExecAdded, TaskExecStarted, TaskExit, TaskOOM, TaskPaused, TaskResumed, TaskStart,
};
use containerd_shim_protos::protobuf::well_known_types::any::Any;
use containerd_shim_protos::shim::event::Envelope;
use containerd_shim_protos::shim_async::{Client, EventsClient};
use containerd_shim_protos::topics;
use protobuf::{Message, MessageField};
use std::path::PathBuf;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{sleep, timeout};
use ttrpc::context;

/// How long containerd may take to accept one event.
const PATIENCE: Duration = Duration::from_secs(5);
/// The first pause before another try; it doubles up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// How long a shim that leaves waits for its queue.
const FLUSH: Duration = Duration::from_secs(10);

/// The package of the messages. A constant: to ask the generated code for a full name makes that parse the descriptors of
/// all messages around it, which takes half a megabyte and time.
const PACKAGE: &str = "containerd.events";

/// An event of the task API.
pub(crate) trait Event: Message {
    /// The topic that containerd's subscribers know it by.
    const TOPIC: &str;
}

impl Event for TaskCreate {
    const TOPIC: &str = topics::TASK_CREATE_EVENT_TOPIC;
}
impl Event for TaskStart {
    const TOPIC: &str = topics::TASK_START_EVENT_TOPIC;
}
impl Event for TaskExecAdded {
    const TOPIC: &str = topics::TASK_EXEC_ADDED_EVENT_TOPIC;
}
impl Event for TaskExecStarted {
    const TOPIC: &str = topics::TASK_EXEC_STARTED_EVENT_TOPIC;
}
impl Event for TaskPaused {
    const TOPIC: &str = topics::TASK_PAUSED_EVENT_TOPIC;
}
impl Event for TaskResumed {
    const TOPIC: &str = topics::TASK_RESUMED_EVENT_TOPIC;
}
impl Event for TaskOOM {
    const TOPIC: &str = topics::TASK_OOM_EVENT_TOPIC;
}
impl Event for TaskExit {
    const TOPIC: &str = topics::TASK_EXIT_EVENT_TOPIC;
}
impl Event for TaskDelete {
    const TOPIC: &str = topics::TASK_DELETE_EVENT_TOPIC;
}

/// The queue's entrance.
#[derive(Debug, Clone)]
pub(crate) struct Publisher {
    namespace: String,
    queue: mpsc::UnboundedSender<Item>,
}

#[derive(Debug)]
enum Item {
    Connect,
    Event(Box<Envelope>),
    Flush(oneshot::Sender<()>),
}

impl Publisher {
    /// Starts delivery to containerd's ttrpc socket. Must be called within the runtime.
    pub(crate) fn start(socket: PathBuf, namespace: String) -> Publisher {
        let (queue, items) = mpsc::unbounded_channel();
        tokio::spawn(deliver(format!("unix://{}", socket.display()), items));
        Publisher { namespace, queue }
    }

    /// Queues an event.
    pub(crate) fn publish<E: Event>(&self, event: &E) {
        let value = event.write_to_bytes().expect("a task event has no required fields to miss");
        let type_url = format!("{PACKAGE}.{}", E::NAME);
        let mut envelope = Envelope::new();
        envelope.timestamp = MessageField::some(crate::wire::timestamp(std::time::SystemTime::now()));
        envelope.namespace = self.namespace.clone();
        envelope.topic = E::TOPIC.to_owned();
        envelope.event = MessageField::some(Any { type_url, value, ..Any::default() });
        // The queue's other end lives as long as the runtime.
        let _ = self.queue.send(Item::Event(Box::new(envelope)));
    }

    /// Connects to containerd, if it is not: for moments in which nothing else is to be done.
    pub(crate) fn connect(&self) {
        let _ = self.queue.send(Item::Connect);
    }

    /// Waits until all that is queued is delivered.
    pub(crate) async fn flush(&self) {
        let (done, wait) = oneshot::channel();
        let _ = self.queue.send(Item::Flush(done));
        if timeout(FLUSH, wait).await.is_err() {
            tracing::error!("events are lost: containerd took none for {FLUSH:?}");
        }
    }
}

async fn deliver(address: String, mut items: mpsc::UnboundedReceiver<Item>) {
    let mut connection = None;
    while let Some(item) = items.recv().await {
        match item {
            // What fails is tried again with the next event.
            Item::Connect if connection.is_none() => connection = connect(&address).await,
            Item::Connect => {}
            Item::Event(envelope) => {
                let mut request = ForwardRequest::new();
                request.envelope = MessageField::some(*envelope);
                forward(&address, &mut connection, &request).await;
            }
            Item::Flush(done) => drop(done.send(())),
        }
    }
}

async fn connect(address: &str) -> Option<EventsClient> {
    Client::connect(address).await.ok().map(EventsClient::new)
}

/// Tries until containerd took the event, or refused it by word.
async fn forward(address: &str, connection: &mut Option<EventsClient>, request: &ForwardRequest) {
    let mut pause = FIRST_PAUSE;
    loop {
        let client = match connection.take() {
            Some(client) => Some(client),
            None => connect(address).await,
        };
        if let Some(client) = client {
            match timeout(PATIENCE, client.forward(context::with_duration(PATIENCE), request)).await {
                Ok(Ok(_)) => {
                    *connection = Some(client);
                    return;
                }
                Ok(Err(ttrpc::Error::RpcStatus(status))) if !passes(&status) => {
                    *connection = Some(client);
                    tracing::error!(
                        topic = request.envelope.topic,
                        reason = status.message,
                        "containerd refused an event"
                    );
                    return;
                }
                Ok(Err(_)) | Err(_) => {}
            }
        }
        sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// Whether a refusal may not stand a second later.
fn passes(status: &ttrpc::Status) -> bool {
    let code = status.code.enum_value_or_default();
    matches!(code, ttrpc::Code::UNAVAILABLE | ttrpc::Code::DEADLINE_EXCEEDED | ttrpc::Code::CANCELLED)
}

#[cfg(test)]
mod tests;
