// A service for `wasi:http/proxy` 0.2 that answers one line: a large component, with a JavaScript engine in it.
import { Fields, OutgoingBody, OutgoingResponse, ResponseOutparam } from 'wasi:http/types@0.2.12';

export const incomingHandler = {
  handle(_request, out) {
    const fields = Fields.fromList([['content-type', new TextEncoder().encode('text/plain')]]);
    const response = new OutgoingResponse(fields);
    const body = response.body();
    ResponseOutparam.set(out, { tag: 'ok', val: response });
    const stream = body.write();
    stream.blockingWriteAndFlush(new TextEncoder().encode('hello from javascript\n'));
    stream[Symbol.dispose]();
    OutgoingBody.finish(body, undefined);
  },
};
