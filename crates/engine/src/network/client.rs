//! Requests of guests to other servers: one client for all instances of a container, which keeps connections for the
//! next request, HTTP/1.1 or 2, with TLS where the address says so.

use super::{LookupError, Network, roots};
use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;
use hyper::Uri;
use hyper::body::Incoming;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client as Pool;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::connect::dns::Name;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use std::error::Error as StdError;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::Duration;
use std::vec;
use tokio::time::{Instant, Sleep, sleep, timeout};
use wasmtime_wasi_http::{Error, RequestOptions, WasiBody, WasiHttpHooks};

/// How long a connection is kept for the next request.
const IDLE: Duration = Duration::from_secs(60);
/// How long a host may take to accept a connection, with its TLS, where the guest says nothing.
const CONNECT: Duration = Duration::from_secs(30);
/// How long a server may take for an answer, and between its pieces, where the guest says nothing.
const PATIENCE: Duration = Duration::from_secs(600);

tokio::task_local! {
    /// How long the host of the request that is sent may take to accept a connection.
    static CONNECT_IN: Duration;
}

type Connections = Pool<InTime<HttpsConnector<HttpConnector<Names>>>, WasiBody>;
type Sent = Result<(http::Response<WasiBody>, Done), Error>;
/// Reports how the exchange ended.
type Done = Box<dyn Future<Output = Result<(), Error>> + Send>;

/// Sends requests.
#[derive(Clone)]
pub(crate) struct Outgoing(Arc<Client>);

struct Client {
    network: Network,
    /// Made for the first request: most guests send none.
    connections: OnceLock<Result<Connections, String>>,
}

impl Outgoing {
    pub(crate) fn new(network: Network) -> Outgoing {
        Outgoing(Arc::new(Client { network, connections: OnceLock::new() }))
    }

    /// The network it sends over.
    pub(crate) fn network(&self) -> &Network {
        &self.0.network
    }
}

impl WasiHttpHooks for Outgoing {
    fn send_request(
        &mut self,
        request: http::Request<WasiBody>,
        options: Option<RequestOptions>,
        _done: Done,
    ) -> Box<dyn Future<Output = Sent> + Send> {
        let client = self.0.clone();
        Box::new(async move {
            let response = client.send(request, options.unwrap_or_default()).await?;
            Ok((response, Box::new(std::future::ready(Ok(()))) as Done))
        })
    }
}

impl Client {
    async fn send(
        &self,
        request: http::Request<WasiBody>,
        options: RequestOptions,
    ) -> Result<http::Response<WasiBody>, Error> {
        let (host, port) = target(request.uri()).ok_or(Error::HttpRequestUriInvalid)?;
        if !self.network.permits_request(&host, port) {
            return Err(Error::HttpRequestDenied);
        }
        let connections = match self.connections.get_or_init(|| connections(&self.network)) {
            Ok(connections) => connections,
            Err(reason) => return Err(Error::InternalError(Some(reason.clone()))),
        };
        let first_byte = options.first_byte_timeout.unwrap_or(PATIENCE);
        let connect = options.connect_timeout.unwrap_or(CONNECT);
        // The pool connects only where it has no connection.
        let sent = CONNECT_IN.scope(connect, connections.request(request));
        let response = timeout(connect.saturating_add(first_byte), sent).await;
        let response = response.map_err(|_| Error::HttpResponseTimeout)?.map_err(|error| reason(&error))?;
        let between = options.between_bytes_timeout.unwrap_or(PATIENCE);
        Ok(response.map(|body| Received { body, between, timer: Box::pin(sleep(between)) }.boxed_unsync()))
    }
}

fn connections(network: &Network) -> Result<Connections, String> {
    let mut connector = HttpConnector::new_with_resolver(Names(network.clone()));
    connector.enforce_http(false);
    connector.set_nodelay(true);
    let config = roots::client_config().map_err(|error| error.to_string())?;
    let connector = HttpsConnectorBuilder::new()
        .with_tls_config(config)
        .https_or_http()
        .enable_http1()
        .enable_http2()
        .wrap_connector(connector);
    let mut builder = Pool::builder(TokioExecutor::new());
    builder.pool_idle_timeout(IDLE).pool_timer(TokioTimer::new()).timer(TokioTimer::new());
    Ok(builder.build(InTime(connector)))
}

/// Connects within the time that the request has for it.
#[derive(Clone)]
struct InTime<C>(C);

impl<C> tower_service::Service<Uri> for InTime<C>
where
    C: tower_service::Service<Uri, Error = Box<dyn StdError + Send + Sync>>,
    C::Future: Send + 'static,
{
    type Response = C::Response;
    type Error = C::Error;
    type Future = Pin<Box<dyn Future<Output = Result<C::Response, C::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), C::Error>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let connected = self.0.call(uri);
        let patience = CONNECT_IN.try_with(|patience| *patience).unwrap_or(CONNECT);
        Box::pin(async move {
            let late = |_| io::Error::from(io::ErrorKind::TimedOut);
            timeout(patience, connected).await.map_err(late)?
        })
    }
}

/// Host and port; the host without brackets, in lower case.
fn target(uri: &Uri) -> Option<(String, u16)> {
    let host = uri.host()?.trim_start_matches('[').trim_end_matches(']').to_ascii_lowercase();
    let host = host.strip_suffix('.').map_or(host.clone(), str::to_owned);
    let default = if uri.scheme_str() == Some("https") { 443 } else { 80 };
    Some((host, uri.port_u16().unwrap_or(default)))
}

/// Looks names up for the pool. Which ones it may is asked before.
#[derive(Clone)]
struct Names(Network);

#[derive(Debug, thiserror::Error)]
#[error("{0:?}")]
struct NoAddress(LookupError);

impl tower_service::Service<Name> for Names {
    type Response = vec::IntoIter<SocketAddr>;
    type Error = NoAddress;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, NoAddress>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), NoAddress>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, name: Name) -> Self::Future {
        let network = self.0.clone();
        Box::pin(async move {
            let addresses = network.resolve(name.as_str()).await.map_err(NoAddress)?;
            Ok(addresses.into_iter().map(|ip| SocketAddr::new(ip, 0)).collect::<Vec<_>>().into_iter())
        })
    }
}

/// The guest's name for what went wrong.
fn reason(error: &(dyn StdError + 'static)) -> Error {
    known(error).unwrap_or_else(|| Error::InternalError(Some(plan::printable_line(&plan::one_line(error)))))
}

/// The innermost of the causes that there is a name for.
fn known(error: &(dyn StdError + 'static)) -> Option<Error> {
    // An error of the system that carries another names that one's source, not itself.
    let carried = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
    let inner = carried.and_then(|inner| known(inner)).or_else(|| error.source().and_then(known));
    inner.or_else(|| named(error))
}

fn named(error: &(dyn StdError + 'static)) -> Option<Error> {
    if let Some(NoAddress(lookup)) = error.downcast_ref() {
        return Some(match lookup {
            LookupError::Refused => Error::HttpRequestDenied,
            LookupError::Unreachable => Error::DnsTimeout,
            LookupError::NoName | LookupError::Unknown => Error::DestinationNotFound,
        });
    }
    if let Some(error) = error.downcast_ref::<rustls::Error>() {
        return Some(match error {
            rustls::Error::InvalidCertificate(_) => Error::TlsCertificateError,
            _ => Error::TlsProtocolError,
        });
    }
    if let Some(error) = error.downcast_ref::<io::Error>() {
        return match error.kind() {
            io::ErrorKind::ConnectionRefused => Some(Error::ConnectionRefused),
            io::ErrorKind::TimedOut => Some(Error::ConnectionTimeout),
            io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => Some(Error::ConnectionTerminated),
            io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => Some(Error::DestinationUnavailable),
            _ => None,
        };
    }
    let error = error.downcast_ref::<hyper::Error>()?;
    if error.is_incomplete_message() {
        return Some(Error::HttpResponseIncomplete);
    }
    error.is_parse().then_some(Error::HttpProtocolError)
}

/// The body of an answer, whose pieces come in time or not at all.
struct Received {
    body: Incoming,
    between: Duration,
    timer: Pin<Box<Sleep>>,
}

impl Body for Received {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        if let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(context) {
            let next = Instant::now() + self.between;
            self.timer.as_mut().reset(next);
            return Poll::Ready(frame.map(|frame| frame.map_err(|error| reason(&error))));
        }
        match self.timer.as_mut().poll(context) {
            Poll::Ready(()) => Poll::Ready(Some(Err(Error::ConnectionReadTimeout))),
            Poll::Pending => Poll::Pending,
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
