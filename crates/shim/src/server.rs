//! The server of one group of containers: one process, one thread, one async runtime.
//! The main loop turns the runtime, and forks children between two turns of it.

use crate::address::{AddressError, Group};
use crate::events::Publisher;
use crate::service::Service;
use crate::spawner;
use crate::task::Tasks;
use anyhow::{Context, anyhow};
use containerd_shim_protos::shim_async::create_task;
use engine::{Host, Variant};
use sandbox::rootfs;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;
use ttrpc::asynchronous::Server;

/// The service's name in containerd 2.x.
const TASK_V3: &str = "containerd.task.v3.Task";
/// Its name in containerd 1.x, and in 2.x for shims that answer with a bare address. The messages are equal.
const TASK_V2: &str = "containerd.task.v2.Task";
/// How long the last replies may take to leave through the socket.
const LAST_REPLIES: Duration = Duration::from_millis(50);

/// What a server is started with.
#[derive(Debug)]
pub(crate) struct Settings {
    pub(crate) namespace: String,
    pub(crate) grpc: PathBuf,
    pub(crate) ttrpc: PathBuf,
    pub(crate) group: Group,
}

/// Serves until containerd shuts the empty group down, and ends the process.
pub(crate) fn serve(settings: Settings, listener: Result<UnixListener, AddressError>) -> ! {
    let address = settings.group.address.clone();
    let code = match run(settings, listener) {
        Ok(()) => 0,
        Err(error) => {
            tracing::error!(error = plan::one_line(error.as_ref()), "the shim failed");
            let _ = address.remove();
            1
        }
    };
    sandbox::process::exit(code)
}

fn run(settings: Settings, listener: Result<UnixListener, AddressError>) -> anyhow::Result<()> {
    let listener = listener?;
    soften_oom_score();
    let node = rootfs::enter_own_mount_namespace().context("make the shim's mount namespace")?;
    // The bundle this started in must stay removable.
    std::env::set_current_dir("/").context("leave the bundle")?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("make the runtime")?;
    let (spawner, mut jobs) = spawner::new();
    // While containerd reads the start action's answer and connects.
    let host = Host::new(Variant::PLAIN).map_err(|failure| anyhow!("{failure:?}"))?;
    let host = Arc::new(host);
    let quit = Arc::new(Notify::new());
    let address = settings.group.address.clone();
    let (server, publisher) = runtime.block_on(async {
        let publisher = Publisher::start(settings.ttrpc, settings.namespace.clone());
        let containerd = oci::Containerd { address: settings.grpc, namespace: settings.namespace };
        let tasks = Tasks::new(containerd, settings.group, spawner, node, host, publisher.clone(), quit.clone());
        let tasks = Arc::new(tasks);
        let watched = tasks.clone();
        tokio::spawn(async move { watched.end_when_forgotten().await });
        let server = listen(listener, Service::new(tasks)).await?;
        anyhow::Ok((server, publisher))
    })?;
    // Each turn ends where async code wants a fork, which happens here, outside of the runtime.
    while let Some(job) = runtime.block_on(async {
        tokio::select! {
            job = jobs.next() => job,
            () = quit.notified() => None,
        }
    }) {
        job();
    }
    runtime.block_on(async {
        publisher.flush().await;
        // Disconnecting drops replies that are still queued, so the connections end with the process.
        tokio::time::sleep(LAST_REPLIES).await;
    });
    tracing::debug!(%address, "the shim leaves");
    // Taken apart by the kernel, at once, with all that they hold.
    std::mem::forget((server, runtime));
    Ok(())
}

async fn listen(listener: UnixListener, service: Service) -> anyhow::Result<Server> {
    listener.set_nonblocking(true).context("prepare the shim's socket")?;
    let listener = tokio::net::UnixListener::from_std(listener).context("prepare the shim's socket")?;
    let service = Arc::new(service);
    let mut services = create_task(service.clone());
    if let Some(same) = create_task(service).remove(TASK_V3) {
        services.insert(TASK_V2.to_owned(), same);
    }
    let mut server = Server::new().add_listener(listener.into()).register_service(services);
    server.start().await.context("start the task service")?;
    Ok(server)
}

/// Lets the kernel choose the shim before containerd, and after everything that was not protected at all.
fn soften_oom_score() {
    const SCORE: &str = "/proc/self/oom_score_adj";
    let inherited = std::fs::read_to_string(SCORE).ok().and_then(|text| text.trim().parse::<i32>().ok());
    if let Some(score) = inherited.filter(|score| *score < 1000) {
        let _ = std::fs::write(SCORE, (score + 1).to_string());
    }
}
