//! The body of an answer, which drives the guest that gives it: a client that goes takes its guest along, and one that does
//! not read holds it up.

use super::instance::{Broken, Instances};
use super::turns::Turn;
use crate::end;
use crate::ticker::Ticked;
use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use http_body_util::Full;
use hyper::{Method, Response, StatusCode, Uri};
use std::fmt::{self, Display};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, Sleep, sleep, timeout};
use wasmtime_wasi_http::p2::body::HyperOutgoingBody;

/// How the guest ended.
pub(super) type Ended = Result<(), Broken>;

pub(super) fn complain(instances: &Instances, name: &Name, broken: &Broken) {
    let reason = end::broken(&broken.error, broken.refused_bytes);
    instances.log(&format!("{name}: {}\n", plan::printable(&reason)));
}

/// What the log calls a request. Written there only where something is to be said of it.
pub(super) struct Name {
    pub(super) method: Method,
    pub(super) uri: Uri,
}

impl Display for Name {
    /// Nothing that a client says may look like anything else.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&plan::printable_line(&format!("{} {}", self.method, self.uri.path())))
    }
}

/// A guest that has given the head of its answer, and runs on.
pub(super) struct Running {
    pub(super) guest: Ticked<Ended>,
    pub(super) name: Name,
    pub(super) instances: Arc<Instances>,
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
    /// Given back with the answer.
    place: Option<Arc<OwnedSemaphorePermit>>,
}

enum Content {
    OfGuest(HyperOutgoingBody),
    Ours(Full<Bytes>),
}

/// An answer of the server's own.
pub(super) fn plain(status: StatusCode, text: &'static str) -> Response<Answer> {
    let body = Content::Ours(Full::new(Bytes::from_static(text.as_bytes())));
    let mut response = Response::new(Answer::new(body, Duration::ZERO));
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
    fn new(body: Content, patience: Duration) -> Answer {
        Answer { body, guest: None, left: None, patience, timer: None, waits: false, turn: None, place: None }
    }

    /// One that a guest gives, which runs on if it is there; `left` is how long it is, if its head says so.
    pub(super) fn of_guest(
        body: HyperOutgoingBody,
        guest: Option<Running>,
        left: Option<u64>,
        patience: Duration,
        place: Arc<OwnedSemaphorePermit>,
    ) -> Answer {
        let mut answer = Answer::new(Content::OfGuest(body), patience);
        (answer.guest, answer.left, answer.place) = (guest, left, Some(place));
        answer
    }

    /// Goes to the client, with the turn that it ends.
    pub(super) fn go(&mut self, turn: Turn) {
        turn.given();
        self.turn = Some(turn);
    }

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
        if let Some(turn) = &self.turn {
            turn.asked();
        }
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
                if let (Some(_), Some(turn)) = (&frame, &self.turn) {
                    turn.given();
                }
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
