//! Responses: their head, and bodies that are sent as they are made.
//! Invariant: no body is held whole, and a response that was begun is finished, or its failure is returned.

use std::io::{self, Write as _};
use wasip2::http::types::{
    ErrorCode, Fields, HeaderError, IncomingBody, OutgoingBody, OutgoingResponse, ResponseOutparam, Trailers,
};
use wasip2::io::streams::{InputStream, OutputStream, StreamError};

/// How much of a body is asked for at once, bytes.
const CHUNK: u64 = 64 * 1024;

/// What went wrong between the service and its client.
#[derive(Debug)]
pub(crate) enum Failure {
    /// A header that the host refuses.
    Header(HeaderError),
    /// A status, or a body that was taken already.
    Response,
    /// A message without a body to read.
    NoBody,
    /// The stream of a body.
    Stream(io::Error),
    /// The end of a message.
    End(ErrorCode),
}

impl std::fmt::Display for Failure {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Failure::Header(error) => write!(formatter, "header: {error:?}"),
            Failure::Response => write!(formatter, "the response cannot be made"),
            Failure::NoBody => write!(formatter, "the message has no body to read"),
            Failure::Stream(error) => write!(formatter, "body: {error}"),
            Failure::End(code) => write!(formatter, "end of the message: {code:?}"),
        }
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Failure {
        Failure::Stream(error)
    }
}

/// Answers a text.
pub(crate) fn say(out: ResponseOutparam, status: u16, text: &str) -> Result<(), Failure> {
    let fields = Fields::new();
    fields.append("content-type", b"text/plain").map_err(Failure::Header)?;
    stream_to_end(out, status, fields, |body| Ok(body.write_all(text.as_bytes())?))
}

/// Answers what `write` writes.
pub(crate) fn stream(
    out: ResponseOutparam,
    status: u16,
    write: impl FnOnce(&mut OutputStream) -> Result<(), Failure>,
) -> Result<(), Failure> {
    stream_to_end(out, status, Fields::new(), write)
}

/// Answers with a head and what `write` writes.
pub(crate) fn stream_to_end(
    out: ResponseOutparam,
    status: u16,
    fields: Fields,
    write: impl FnOnce(&mut OutputStream) -> Result<(), Failure>,
) -> Result<(), Failure> {
    with_trailers(out, status, fields, |body| write(body).map(|()| None))
}

/// Answers with another message's body, as it comes, and its trailers.
pub(crate) fn pass_on(out: ResponseOutparam, status: u16, fields: Fields, from: IncomingBody) -> Result<(), Failure> {
    with_trailers(out, status, fields, |to| {
        let stream = from.stream().map_err(|()| Failure::NoBody)?;
        copy(&stream, to)?;
        drop(stream);
        trailers(from)
    })
}

/// Copies until the end, each chunk as soon as it is there.
fn copy(from: &InputStream, to: &mut OutputStream) -> Result<(), Failure> {
    loop {
        match from.blocking_read(CHUNK) {
            Ok(chunk) => to.write_all(&chunk).and_then(|()| to.flush())?,
            Err(StreamError::Closed) => return Ok(()),
            Err(StreamError::LastOperationFailed(error)) => {
                return Err(Failure::Stream(io::Error::other(error.to_debug_string())));
            }
        }
    }
}

/// A copy of the trailers after the body, which can be sent on.
fn trailers(body: IncomingBody) -> Result<Option<Trailers>, Failure> {
    let future = IncomingBody::finish(body);
    future.subscribe().block();
    match future.get() {
        Some(Ok(Ok(trailers))) => Ok(trailers.map(|fields| fields.clone())),
        Some(Ok(Err(code))) => Err(Failure::End(code)),
        None | Some(Err(())) => Err(Failure::NoBody),
    }
}

fn with_trailers(
    out: ResponseOutparam,
    status: u16,
    fields: Fields,
    write: impl FnOnce(&mut OutputStream) -> Result<Option<Trailers>, Failure>,
) -> Result<(), Failure> {
    let response = OutgoingResponse::new(fields);
    response.set_status_code(status).map_err(|()| Failure::Response)?;
    let body = response.body().map_err(|()| Failure::Response)?;
    ResponseOutparam::set(out, Ok(response));
    let mut stream = body.write().map_err(|()| Failure::Response)?;
    let trailers = write(&mut stream)?;
    // The stream has a `flush` of its own, which does not wait.
    io::Write::flush(&mut stream)?;
    drop(stream);
    OutgoingBody::finish(body, trailers).map_err(Failure::End)
}
