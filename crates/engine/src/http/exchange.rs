//! One request and its answer. The guest runs in the same task as the connection it answers on: a client that goes takes
//! its guest along, and one that does not read holds it up.

use super::Phase;
use super::ask::Head;
use super::instance::{Broken, Instances};
use super::timed::Turn;
use crate::end;
use crate::ticker::Ticked;
use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{CONNECTION, CONTENT_LENGTH, HOST, HeaderValue, RETRY_AFTER};
use hyper::http::uri::Authority;
use hyper::{Method, Request, Response, StatusCode, Uri, Version};
use plan::Http;
use std::convert::Infallible;
use std::fmt::{self, Display};
use std::num::NonZeroU32;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot, watch};
use tokio::time::{Instant, Sleep, sleep, timeout};
use wasmtime_wasi_http::p2::body::HyperOutgoingBody;

/// When a client that was refused may come again, seconds.
const RETRY_AFTER_SECONDS: HeaderValue = HeaderValue::from_static("1");

/// How the guest ended.
type Ended = Result<(), Broken>;

/// Answers requests.
pub(super) struct Exchanges {
    instances: Arc<Instances>,
    places: Arc<Semaphore>,
    most: NonZeroU32,
    patience: Duration,
    phases: watch::Receiver<Phase>,
}

impl Exchanges {
    pub(super) fn new(instances: Instances, settings: &Http, phases: watch::Receiver<Phase>) -> Exchanges {
        let places = usize::try_from(settings.max_concurrency.get()).unwrap_or(Semaphore::MAX_PERMITS);
        Exchanges {
            instances: Arc::new(instances),
            places: Arc::new(Semaphore::new(places)),
            most: settings.max_concurrency,
            patience: settings.request_timeout,
            phases,
        }
    }

    /// How long a guest, and its client, are waited for.
    pub(super) fn patience(&self) -> Duration {
        self.patience
    }

    /// Waits until no guest runs any more.
    pub(super) async fn ended(&self) {
        let _ = self.places.acquire_many(self.most.get()).await;
    }

    /// Has a guest answer. `turn` lasts as long as the answer.
    pub(super) async fn answer(&self, request: Request<Incoming>, turn: Turn) -> Result<Response<Answer>, Infallible> {
        let version = request.version();
        let mut response = match self.places.clone().try_acquire_owned() {
            Ok(place) => self.ask(request, place).await,
            Err(_) => {
                let mut response = plain(StatusCode::SERVICE_UNAVAILABLE, "too many requests at a time\n");
                response.headers_mut().insert(RETRY_AFTER, RETRY_AFTER_SECONDS);
                response
            }
        };
        if version < Version::HTTP_2 && *self.phases.borrow() > Phase::Open {
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        response.body_mut().turn = Some(turn);
        Ok(response)
    }

    async fn ask(&self, mut request: Request<Incoming>, place: OwnedSemaphorePermit) -> Response<Answer> {
        // Kept until the guest has ended and the client has its answer, which may not come from the guest at the end.
        let place = Arc::new(place);
        let method = request.method().clone();
        let name = Name { method: method.clone(), uri: request.uri().clone() };
        let mut enough = pin!(sleep(self.patience));
        if let Err(reason) = addressed(&mut request) {
            return plain(StatusCode::BAD_REQUEST, reason);
        }
        let (tell, head) = oneshot::channel();
        let mut guest = self.instances.ticker.during(run(self.instances.clone(), request, tell, place.clone()));
        let mut head = head;
        let waited = tokio::select! {
            biased;
            head = &mut head => Waited::Head(head.ok()),
            ended = &mut guest => Waited::Ended(ended),
            () = &mut enough => Waited::Enough,
        };
        let too_long = || {
            self.instances.log(&format!(
                "{name}: no answer in {:?}: raise http.request-timeout, or see what the guest waits for\n",
                self.patience
            ));
            plain(StatusCode::GATEWAY_TIMEOUT, "the guest took too long\n")
        };
        let (head, ended) = match waited {
            Waited::Head(Some(head)) => (Some(head), None),
            // Dropped by the guest, which goes on, or by its end.
            Waited::Head(None) => (None, None),
            Waited::Ended(ended) => (head.try_recv().ok(), Some(ended)),
            Waited::Enough => return too_long(),
        };
        match (head, ended) {
            (Some(Ok(response)), ended) => {
                if let Some(Err(error)) = &ended {
                    self.complain(&name, error);
                }
                let instances = self.instances.clone();
                let guest = if ended.is_some() { None } else { Some(Running { guest, name, instances }) };
                let left = length(&method, &response);
                response.map(|body| Answer {
                    body: Content::OfGuest(body),
                    guest,
                    left,
                    patience: self.patience,
                    timer: None,
                    waits: false,
                    turn: None,
                    _place: Some(place),
                })
            }
            (Some(Err(code)), _) => {
                self.instances.log(&format!("{name}: the guest answered with an error: {code}\n"));
                plain(StatusCode::BAD_GATEWAY, "the guest answered with an error\n")
            }
            (None, Some(Ok(()))) => {
                self.instances.log(&format!("{name}: the guest returned without an answer\n"));
                plain(StatusCode::INTERNAL_SERVER_ERROR, "the guest gave no answer\n")
            }
            (None, Some(Err(error))) => {
                self.complain(&name, &error);
                plain(StatusCode::INTERNAL_SERVER_ERROR, "the guest failed\n")
            }
            (None, None) => {
                // It gave up the right to answer: how it ends says why.
                tokio::select! {
                    biased;
                    ended = guest => match ended {
                        Err(error) => self.complain(&name, &error),
                        Ok(()) => self.instances.log(&format!("{name}: the guest gave up its answer\n")),
                    },
                    () = enough => return too_long(),
                }
                plain(StatusCode::INTERNAL_SERVER_ERROR, "the guest gave no answer\n")
            }
        }
    }

    fn complain(&self, name: &Name, error: &Broken) {
        complain(&self.instances, name, error);
    }
}

fn complain(instances: &Instances, name: &Name, broken: &Broken) {
    let reason = end::broken(&broken.error, broken.refused_bytes);
    instances.log(&format!("{name}: {}\n", plan::printable(&reason)));
}

/// What the log calls a request. Written there only where something is to be said of it.
struct Name {
    method: Method,
    uri: Uri,
}

impl Display for Name {
    /// Nothing that a client says may look like anything else.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&plan::printable_line(&format!("{} {}", self.method, self.uri.path())))
    }
}

/// What came first.
enum Waited {
    Head(Option<Head>),
    Ended(Ended),
    Enough,
}

/// Refuses what is no request to a server, before a guest is taken for it.
fn addressed(request: &mut Request<Incoming>) -> Result<(), &'static str> {
    if *request.method() == Method::CONNECT {
        return Err("CONNECT is for proxies\n");
    }
    if request.uri().authority().is_some() {
        return Ok(());
    }
    match request.headers().get(HOST) {
        Some(host) => match Authority::try_from(host.as_bytes()) {
            Ok(_) => Ok(()),
            Err(_) => Err("the request's host is none\n"),
        },
        None if request.version() > Version::HTTP_10 => Err("the request has no host\n"),
        None => {
            // HTTP/1.0 knows of none, and health checks speak it still.
            request.headers_mut().insert(HOST, HeaderValue::from_static("localhost"));
            Ok(())
        }
    }
}

async fn run(
    instances: Arc<Instances>,
    request: Request<Incoming>,
    tell: oneshot::Sender<Head>,
    _place: Arc<OwnedSemaphorePermit>,
) -> Ended {
    let mut instance = instances.take().await?;
    match instance.answer(request, tell).await {
        Ok(()) => {
            instances.give_back(instance);
            Ok(())
        }
        Err(error) => Err(Broken { error, refused_bytes: instance.refusal.limit_bytes() }),
    }
}

/// A guest that has given the head of its answer, and runs on.
struct Running {
    guest: Ticked<Ended>,
    name: Name,
    instances: Arc<Instances>,
}

/// How long the body is to be, bytes; `None` if only its end says so.
fn length(method: &Method, response: &Response<HyperOutgoingBody>) -> Option<u64> {
    let bodiless = [StatusCode::NO_CONTENT, StatusCode::NOT_MODIFIED];
    if *method == Method::HEAD || bodiless.contains(&response.status()) {
        return Some(0);
    }
    response.headers().get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// The body of an answer. Reading it drives the guest.
pub(super) struct Answer {
    body: Content,
    guest: Option<Running>,
    /// What the client has not been given yet, bytes; `None` if only the end of the body says so.
    left: Option<u64>,
    patience: Duration,
    timer: Option<Pin<Box<Sleep>>>,
    /// Whether the timer counts for what is waited for now.
    waits: bool,
    turn: Option<Turn>,
    _place: Option<Arc<OwnedSemaphorePermit>>,
}

enum Content {
    OfGuest(HyperOutgoingBody),
    Ours(Full<Bytes>),
}

fn plain(status: StatusCode, text: &'static str) -> Response<Answer> {
    let body = Content::Ours(Full::new(Bytes::from_static(text.as_bytes())));
    let answer = Answer {
        body,
        guest: None,
        left: None,
        patience: Duration::ZERO,
        timer: None,
        waits: false,
        turn: None,
        _place: None,
    };
    let mut response = Response::new(answer);
    *response.status_mut() = status;
    response
}

/// Why a body ends before its end.
#[derive(Debug, thiserror::Error)]
pub(super) enum BodyError {
    #[error("the guest failed")]
    Guest,
    #[error("the guest took too long")]
    TooSlow,
    #[error("the guest broke off: {0}")]
    Broken(String),
}

impl Answer {
    fn poll_guest(&mut self, context: &mut Context<'_>) -> Result<(), BodyError> {
        let Some(running) = &mut self.guest else { return Ok(()) };
        let Poll::Ready(ended) = Pin::new(&mut running.guest).poll(context) else { return Ok(()) };
        let ended = ended.map_err(|error| {
            complain(&running.instances, &running.name, &error);
            BodyError::Guest
        });
        self.guest = None;
        ended
    }

    fn poll_timer(&mut self, context: &mut Context<'_>) -> Result<(), BodyError> {
        let patience = self.patience;
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep(patience)));
        if !self.waits {
            // From now on: the guest rests while the client reads what came before.
            timer.as_mut().reset(Instant::now() + patience);
            self.waits = true;
        }
        let Poll::Ready(()) = timer.as_mut().poll(context) else { return Ok(()) };
        if let Some(Running { name, instances, .. }) = self.guest.take() {
            instances.log(&format!(
                "{name}: nothing more of the answer in {patience:?}: raise http.request-timeout, or see what the guest \
                 waits for\n"
            ));
        }
        Err(BodyError::TooSlow)
    }

    fn note(&mut self, frame: Option<&Result<Frame<Bytes>, wasmtime_wasi_http::Error>>) {
        self.waits = false;
        let data = frame.and_then(|frame| frame.as_ref().ok()?.data_ref());
        match (data, &mut self.left) {
            (Some(data), Some(left)) => *left = left.saturating_sub(data.len() as u64),
            (Some(_), None) => {}
            // Trailers and the end.
            (None, left) => *left = Some(0),
        }
    }
}

/// A client that has its whole answer, or has gone. What the guest does after its answer it may finish; one whose client
/// has gone before ends here.
impl Drop for Answer {
    fn drop(&mut self) {
        if self.left != Some(0) {
            return;
        }
        if let Some(Running { guest, name, instances }) = self.guest.take() {
            let patience = self.patience;
            tokio::spawn(async move {
                if let Ok(Err(error)) = timeout(patience, guest).await {
                    complain(&instances, &name, &error);
                }
            });
        }
    }
}

impl Body for Answer {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if let Err(error) = self.poll_guest(context) {
            return Poll::Ready(Some(Err(error)));
        }
        let frame = match &mut self.body {
            Content::Ours(body) => {
                return Pin::new(body).poll_frame(context).map_err(|never| match never {});
            }
            Content::OfGuest(body) => Pin::new(body).poll_frame(context),
        };
        match frame {
            Poll::Ready(frame) => {
                self.note(frame.as_ref());
                Poll::Ready(frame.map(|frame| frame.map_err(|error| BodyError::Broken(format!("{error:?}")))))
            }
            Poll::Pending => match self.poll_timer(context) {
                Ok(()) => Poll::Pending,
                Err(error) => Poll::Ready(Some(Err(error))),
            },
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.body {
            Content::Ours(body) => body.is_end_stream(),
            Content::OfGuest(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.body {
            Content::Ours(body) => body.size_hint(),
            Content::OfGuest(body) => body.size_hint(),
        }
    }
}
