"""A web service: says hello, and what it was asked for."""

from componentize_py_types import Ok
from wit_world import exports
from wit_world.imports.types import (
    Fields,
    IncomingRequest,
    OutgoingBody,
    OutgoingResponse,
    ResponseOutparam,
)


class IncomingHandler(exports.IncomingHandler):
    def handle(self, request: IncomingRequest, response_out: ResponseOutparam) -> None:
        path = request.path_with_query() or "/"
        response = OutgoingResponse(Fields.from_list([("content-type", b"text/plain")]))
        body = response.body()
        ResponseOutparam.set(response_out, Ok(response))
        # The stream belongs to the body, and has to go before it.
        with body.write() as stream:
            stream.blocking_write_and_flush(f"hello from python: {path[:1000]}\n".encode())
        OutgoingBody.finish(body, None)
