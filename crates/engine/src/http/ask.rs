//! Hands a request to an instance, by the version of its world, and its answer's head to whoever waits for it.

use super::instance::Instance;
use crate::grant::State;
use crate::p3::last_task;
use hyper::body::Incoming;
use hyper::header::HOST;
use hyper::{Request, Response, Uri};
use tokio::sync::oneshot;
use wasmtime::Store;
use wasmtime_wasi_http::handler::Proxy;
use wasmtime_wasi_http::p2::bindings::http::types::{ErrorCode, Scheme};
use wasmtime_wasi_http::p2::body::HyperOutgoingBody;
use wasmtime_wasi_http::p3::bindings::Service;
use wasmtime_wasi_http::{WasiHttpView, p3};

/// What the guest gives as the head of its answer; the name of its error, if it has none.
pub(super) type Head = Result<Response<HyperOutgoingBody>, String>;

impl Instance {
    /// Runs the guest until it has no more to do for this request.
    pub(super) async fn answer(
        &mut self,
        request: Request<Incoming>,
        tell: oneshot::Sender<Head>,
    ) -> wasmtime::Result<()> {
        match &self.proxy {
            Proxy::P2(proxy) => {
                let mut view = self.store.data_mut().http();
                let request = view.new_incoming_request(Scheme::Http, request)?;
                let out = view.new_response_outparam_from_callback(move |head: Result<_, ErrorCode>| {
                    let _ = tell.send(head.map_err(|code| format!("{code:?}")));
                })?;
                proxy.wasi_http_incoming_handler().call_handle(&mut self.store, request, out).await
            }
            Proxy::P3(service) => answer_asynchronously(&mut self.store, service, request, tell).await,
        }
    }
}

async fn answer_asynchronously(
    store: &mut Store<State>,
    service: &Service,
    mut request: Request<Incoming>,
    tell: oneshot::Sender<Head>,
) -> wasmtime::Result<()> {
    *request.uri_mut() = absolute(&request)?;
    let (request, sent) = p3::Request::from_http(store.data_mut().http().hooks, request);
    let run = store.run_concurrent(async |accessor| {
        let head = match service.handle(accessor, request).await? {
            Ok(response) => {
                accessor.with(|store| response.into_http(store, sent)).map_err(|error| format!("{error:?}"))
            }
            Err(code) => Err(format!("{code:?}")),
        };
        let _ = tell.send(head);
        // They write the body of the answer.
        last_task(accessor).await;
        Ok(())
    });
    run.await?
}

/// The address of a request, of which a client that speaks HTTP/1.1 sends the path alone.
fn absolute<T>(request: &Request<T>) -> wasmtime::Result<Uri> {
    let mut parts = request.uri().clone().into_parts();
    if parts.authority.is_none() {
        let host = request.headers().get(HOST).map_or(&b""[..], |host| host.as_bytes());
        parts.authority = Some(host.try_into()?);
    }
    parts.scheme = Some(hyper::http::uri::Scheme::HTTP);
    Ok(Uri::from_parts(parts)?)
}
