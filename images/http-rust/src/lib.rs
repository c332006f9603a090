//! A web service: says hello, and sends the body of a request to `/echo` back as it comes.

use std::io::{self, Write};
use wasip2::exports::http::incoming_handler::Guest;
use wasip2::http::types::{Fields, IncomingRequest, OutgoingBody, OutgoingResponse, ResponseOutparam};

wasip2::http::proxy::export!(Service);

struct Service;

impl Guest for Service {
    fn handle(request: IncomingRequest, out: ResponseOutparam) {
        let response = OutgoingResponse::new(Fields::new());
        let body = response.body().expect("a new response has a body");
        ResponseOutparam::set(out, Ok(response));
        let mut stream = body.write().expect("a new body can be written");
        // A client that goes away is no fault of the service.
        if answer(&request, &mut stream).is_ok() {
            // The stream belongs to the body, and has to go before it.
            drop(stream);
            let _ = OutgoingBody::finish(body, None);
        }
    }
}

fn answer(request: &IncomingRequest, out: &mut impl Write) -> io::Result<()> {
    let path = request.path_with_query().unwrap_or_default();
    if path != "/echo" {
        writeln!(out, "hello from rust: {path}")?;
        return out.flush();
    }
    let body = request.consume().map_err(|()| io::Error::other("the body was taken"))?;
    let mut from = body.stream().map_err(|()| io::Error::other("the stream was taken"))?;
    io::copy(&mut from, out)?;
    out.flush()
}
