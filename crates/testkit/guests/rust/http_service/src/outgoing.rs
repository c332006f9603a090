//! Requests that the service makes itself.

use crate::answer::{Failure, pass_on, say};
use wasip2::http::outgoing_handler;
use wasip2::http::types::{ErrorCode, Fields, IncomingResponse, OutgoingRequest, ResponseOutparam, Scheme};

/// Answers what `url` answers: status, type and body; 502 and the code if nothing does.
pub(crate) fn fetch(out: ResponseOutparam, url: &str) -> Result<(), Failure> {
    let response = match get(url) {
        Ok(response) => response,
        Err(code) => return say(out, 502, &format!("{code:?}\n")),
    };
    let fields = Fields::new();
    for value in response.headers().get("content-type") {
        fields.append("content-type", &value).map_err(Failure::Header)?;
    }
    let body = response.consume().map_err(|()| Failure::NoBody)?;
    pass_on(out, response.status(), fields, body)
}

fn get(url: &str) -> Result<IncomingResponse, ErrorCode> {
    let invalid = |()| ErrorCode::HttpRequestUriInvalid;
    let (scheme, rest) = url.split_once("://").ok_or(ErrorCode::HttpRequestUriInvalid)?;
    let scheme = match scheme {
        "http" => Scheme::Http,
        "https" => Scheme::Https,
        other => Scheme::Other(other.to_owned()),
    };
    let (authority, path) = rest.find('/').map_or((rest, "/"), |slash| rest.split_at(slash));
    let request = OutgoingRequest::new(Fields::new());
    request.set_scheme(Some(&scheme)).map_err(invalid)?;
    request.set_authority(Some(authority)).map_err(invalid)?;
    request.set_path_with_query(Some(path)).map_err(invalid)?;
    let future = outgoing_handler::handle(request, None)?;
    future.subscribe().block();
    future.get().and_then(Result::ok).unwrap_or(Err(ErrorCode::InternalError(None)))
}
