//! A component that answers requests: an http server in the container, and a fresh instance for each request. It knows
//! nothing of how the component came here.

use crate::{State, without_files};
use containerd_shim_wasm::sandbox::context::RuntimeContext;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::oneshot;
use wasmtime::Store;
use wasmtime::component::InstancePre;
use wasmtime::error::Context;
use wasmtime_wasi_http::WasiHttpView;
use wasmtime_wasi_http::io::TokioIo;
use wasmtime_wasi_http::p2::bindings::ProxyPre;
use wasmtime_wasi_http::p2::bindings::http::types::Scheme;
use wasmtime_wasi_http::p2::body::HyperOutgoingBody;

/// Names the address, as in the shims that are made of this library.
const ADDRESS: &str = "WASMTIME_HTTP_PROXY_SOCKET_ADDR=";
const DEFAULT_ADDRESS: &str = "0.0.0.0:8080";
/// Connections that nobody has accepted yet.
const BACKLOG: u32 = 1024;

struct Service {
    proxy: ProxyPre<State>,
    args: Vec<String>,
    envs: Vec<String>,
}

/// Answers until the container is killed.
pub(crate) async fn serve(instance: InstancePre<State>, context: &impl RuntimeContext) -> wasmtime::Result<i32> {
    let listener = listener(context.envs())?;
    let proxy = ProxyPre::new(instance)?;
    let service = Arc::new(Service { proxy, args: context.args().to_vec(), envs: context.envs().to_vec() });
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let service = service.clone();
        // Errors of a connection are those of its client.
        tokio::spawn(http1::Builder::new().serve_connection(
            TokioIo::new(stream),
            service_fn(move |request| {
                let service = service.clone();
                async move { service.answer(request).await }
            }),
        ));
    }
}

fn listener(envs: &[String]) -> wasmtime::Result<TcpListener> {
    let address = envs.iter().find_map(|variable| variable.strip_prefix(ADDRESS)).unwrap_or(DEFAULT_ADDRESS);
    let address = address.parse::<SocketAddr>().with_context(|| format!("{ADDRESS}{address}"))?;
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_reuseaddr(true)?;
    socket.bind(address).with_context(|| format!("bind {address}"))?;
    Ok(socket.listen(BACKLOG)?)
}

impl Service {
    async fn answer(&self, request: Request<Incoming>) -> wasmtime::Result<Response<HyperOutgoingBody>> {
        // No files: to open the root for each request would take more than the request.
        let state = State::new(&mut without_files(&self.args, &self.envs));
        let mut store = Store::new(self.proxy.engine(), state);
        let (sender, receiver) = oneshot::channel();
        let request = store.data_mut().http().new_incoming_request(Scheme::Http, request)?;
        let out = store.data_mut().http().new_response_outparam(sender)?;
        let proxy = self.proxy.clone();
        // A task of its own, which goes on when the head of the answer is there.
        let task = tokio::spawn(async move {
            let proxy = proxy.instantiate_async(&mut store).await?;
            proxy.wasi_http_incoming_handler().call_handle(store, request, out).await
        });
        match receiver.await {
            Ok(answer) => Ok(answer?),
            Err(_) => {
                task.await??;
                wasmtime::bail!("the guest returned without an answer")
            }
        }
    }
}
