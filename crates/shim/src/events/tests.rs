//! The queue against a containerd that is away, comes, goes and comes back.

use super::*;
use async_trait::async_trait;
use containerd_shim_protos::api::Empty;
use containerd_shim_protos::shim_async::{Events, create_events};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::{Arc, Mutex};
use ttrpc::asynchronous::{Server, TtrpcContext};

/// Takes events as containerd does, but refuses the first ones for the moment.
struct Taker {
    taken: Arc<Mutex<Vec<String>>>,
    busy: Mutex<usize>,
}

#[async_trait]
impl Events for Taker {
    async fn forward(&self, _: &TtrpcContext, request: ForwardRequest) -> ttrpc::Result<Empty> {
        let mut busy = self.busy.lock().expect("no test panics with the lock");
        if *busy > 0 {
            *busy -= 1;
            let status = ttrpc::get_status(ttrpc::Code::UNAVAILABLE, "not now");
            return Err(ttrpc::Error::RpcStatus(status));
        }
        let envelope = request.envelope.unwrap_or_default();
        let told = format!("{} {}", envelope.namespace, envelope.topic);
        self.taken.lock().expect("no test panics with the lock").push(told);
        Ok(Empty::new())
    }
}

async fn serve(socket: &Path, taken: &Arc<Mutex<Vec<String>>>, busy: usize) -> Server {
    let _ = std::fs::remove_file(socket);
    let listener = UnixListener::bind(socket).expect("a socket");
    listener.set_nonblocking(true).expect("a mode of the socket");
    let listener = tokio::net::UnixListener::from_std(listener).expect("a socket of the runtime");
    let taker = Arc::new(Taker { taken: taken.clone(), busy: Mutex::new(busy) });
    let mut server = Server::new().add_listener(listener.into()).register_service(create_events(taker));
    server.start().await.expect("a server");
    server
}

fn publish_life(publisher: &Publisher) {
    publisher.publish(&TaskCreate::default());
    publisher.publish(&TaskStart::default());
    publisher.publish(&TaskOOM::default());
    publisher.publish(&TaskExit::default());
    publisher.publish(&TaskDelete::default());
}

#[tokio::test]
async fn events_are_kept_in_order_while_containerd_is_away() {
    let dir = tempfile::tempdir().expect("a directory");
    let socket = dir.path().join("c.sock");
    let taken = Arc::default();
    let publisher = Publisher::start(socket.clone(), "ns".to_owned());
    publish_life(&publisher);
    let mut server = serve(&socket, &taken, 3).await;
    publisher.flush().await;
    server.shutdown().await.expect("the server stops");
    publish_life(&publisher);
    let _server = serve(&socket, &taken, 0).await;
    publisher.flush().await;
    let life = ["create", "start", "oom", "exit", "delete"].map(|what| format!("ns /tasks/{what}"));
    let expected = [life.clone(), life].concat();
    assert_eq!(*taken.lock().expect("nobody panicked"), expected);
}

#[test]
fn the_names_are_those_of_the_messages() {
    fn check<E: Event + protobuf::MessageFull>() {
        assert_eq!(format!("{PACKAGE}.{}", E::NAME), E::descriptor().full_name());
    }
    check::<TaskCreate>();
    check::<TaskStart>();
    check::<TaskPaused>();
    check::<TaskResumed>();
    check::<TaskOOM>();
    check::<TaskExit>();
    check::<TaskDelete>();
}
