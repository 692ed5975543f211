// The call protocol in a page, as small as it can be: frames over the streams of a session.

const text = new TextEncoder();

export function frame(id, type, payload) {
  const body = text.encode(JSON.stringify({ type, id, payload }));
  const bytes = new Uint8Array(4 + body.length);
  new DataView(bytes.buffer).setUint32(0, body.length);
  bytes.set(body, 4);
  return bytes;
}

export function requested(id, operationId, input, auth_token) {
  return frame(id, "call.requested", { operationId, input, auth_token });
}

// The envelopes of a stream, one after the other.
export async function* envelopes(readable) {
  let waiting = new Uint8Array(0);
  for await (const chunk of readable) {
    const all = new Uint8Array(waiting.length + chunk.length);
    all.set(waiting);
    all.set(chunk, waiting.length);
    waiting = all;
    while (waiting.length >= 4) {
      const length = new DataView(waiting.buffer, waiting.byteOffset).getUint32(0);
      if (waiting.length < 4 + length) break;
      yield JSON.parse(new TextDecoder().decode(waiting.subarray(4, 4 + length)));
      waiting = waiting.slice(4 + length);
    }
  }
}

export async function session(path = "/call") {
  const port = await (await fetch("/port")).text();
  const der = await (await fetch("/certificate")).arrayBuffer();
  const value = await crypto.subtle.digest("SHA-256", der);
  return new WebTransport(`https://127.0.0.1:${port}${path}`, {
    serverCertificateHashes: [{ algorithm: "sha-256", value }],
  });
}

export async function begin(transport, id, operation, input, token) {
  const stream = await transport.createBidirectionalStream();
  const writer = stream.writable.getWriter();
  await writer.write(requested(id, operation, input, token));
  return { writer, answers: envelopes(stream.readable) };
}

// One call on a stream of its own.
export async function call(transport, operation, input, token) {
  const { writer, answers } = await begin(transport, crypto.randomUUID(), operation, input, token);
  const { value } = await answers.next();
  await writer.close();
  return value;
}
