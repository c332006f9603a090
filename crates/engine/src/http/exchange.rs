//! One request and the head of its answer. The guest runs in the same task as the connection it answers on.

use super::Phase;
use super::answer::{Answer, Ended, Name, Running, complain, plain};
use super::ask::Head;
use super::instance::{Broken, Instances};
use super::turns::Turn;
use hyper::body::Incoming;
use hyper::header::{CONNECTION, CONTENT_LENGTH, HOST, HeaderValue, RETRY_AFTER};
use hyper::http::uri::Authority;
use hyper::{Method, Request, Response, StatusCode, Version};
use plan::Http;
use std::convert::Infallible;
use std::num::NonZeroU32;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot, watch};
use tokio::time::sleep;
use wasmtime_wasi_http::p2::body::HyperOutgoingBody;

/// When a client that was refused may come again, seconds.
const RETRY_AFTER_SECONDS: HeaderValue = HeaderValue::from_static("1");

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
        response.body_mut().go(turn);
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
                response.map(|body| Answer::of_guest(body, guest, left, self.patience, place))
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

/// How long the body is to be, bytes; `None` if only its end says so.
fn length(method: &Method, response: &Response<HyperOutgoingBody>) -> Option<u64> {
    let bodiless = [StatusCode::NO_CONTENT, StatusCode::NOT_MODIFIED];
    if *method == Method::HEAD || bodiless.contains(&response.status()) {
        return Some(0);
    }
    response.headers().get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}
