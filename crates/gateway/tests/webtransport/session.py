"""Sessions for calls, by aioquic: calls, is called, sends datagrams, asks for pages beside it."""

import asyncio
import json
import ssl
import sys

from aioquic.asyncio.client import connect
from aioquic.asyncio.protocol import QuicConnectionProtocol
from aioquic.h3.connection import H3_ALPN, FrameType, H3Connection
from aioquic.h3.events import (
    DataReceived,
    DatagramReceived,
    HeadersReceived,
    WebTransportStreamDataReceived,
)
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.events import StreamReset

AUTHORITY = b"localhost"


def frame(id, type, payload):
    body = json.dumps({"type": type, "id": id, "payload": payload}).encode()
    return len(body).to_bytes(4, "big") + body


def requested(id, operation, input, token=None):
    payload = {"operationId": operation, "input": input}
    if token:
        payload["auth_token"] = token
    return frame(id, "call.requested", payload)


class Client(QuicConnectionProtocol):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.http = H3Connection(self._quic, enable_webtransport=True)
        self.queues = {}

    def queue(self, key):
        return self.queues.setdefault(key, asyncio.Queue())

    def quic_event_received(self, event):
        if isinstance(event, StreamReset):
            self.queue(event.stream_id).put_nowait(("reset", event.error_code))
        for event in self.http.handle_event(event):
            if isinstance(event, HeadersReceived):
                self.queue(event.stream_id).put_nowait(("headers", dict(event.headers)))
            elif isinstance(event, DataReceived):
                self.queue(event.stream_id).put_nowait(("data", event.data))
            elif isinstance(event, DatagramReceived):
                self.queue(("datagrams", event.stream_id)).put_nowait(event.data)
            elif isinstance(event, WebTransportStreamDataReceived):
                # Streams that the server opens are odd in their second bit's lower neighbour.
                if event.stream_id % 4 == 1 and event.stream_id not in self.queues:
                    self.queue("opened").put_nowait(event.stream_id)
                self.queue(event.stream_id).put_nowait(("data", event.data))

    async def request(self, method, path, headers=(), end=True):
        stream = self._quic.get_next_available_stream_id()
        pseudo = [
            (b":method", method),
            (b":scheme", b"https"),
            (b":authority", AUTHORITY),
            (b":path", path),
        ]
        self.http.send_headers(stream, pseudo + list(headers), end_stream=end)
        self.transmit()
        kind, answer = await self.queue(stream).get()
        assert kind == "headers", (path, kind, answer)
        return stream, int(answer[b":status"])

    async def session(self, path=b"/call", token=None):
        headers = [(b":protocol", b"webtransport")]
        if token:
            headers.append((b"authorization", b"Bearer " + token))
        return await self.request(b"CONNECT", path, headers, end=False)

    def open(self, session):
        stream = self.http.create_webtransport_stream(session)
        # aioquic takes what comes on a stream that it opened itself for a request's answer, unless
        # it is told.
        with self.http._get_or_create_stream(stream) as known:
            known.frame_type = FrameType.WEBTRANSPORT_STREAM
            known.session_id = session
        return stream

    def say(self, stream, bytes, end=False):
        self._quic.send_stream_data(stream, bytes, end_stream=end)
        self.transmit()

    async def envelope(self, stream):
        waiting = b""
        while len(waiting) < 4 or len(waiting) < 4 + int.from_bytes(waiting[:4], "big"):
            kind, data = await self.queue(stream).get()
            assert kind == "data", (kind, data)
            waiting += data
        length = int.from_bytes(waiting[:4], "big")
        rest = waiting[4 + length :]
        if rest:
            queue = self.queues[stream] = asyncio.Queue()
            queue.put_nowait(("data", rest))
        return json.loads(waiting[4 : 4 + length])

    async def call(self, session, operation, input, token=None):
        stream = self.open(session)
        self.say(stream, requested("1", operation, input, token))
        return (await self.envelope(stream))["payload"]


async def healthy(client):
    _, status = await client.request(b"GET", b"/healthz")
    assert status == 200, status


async def run(port):
    configuration = QuicConfiguration(
        is_client=True,
        alpn_protocols=H3_ALPN,
        verify_mode=ssl.CERT_NONE,
        max_datagram_frame_size=65536,
        server_name="localhost",
    )
    async with connect(
        "127.0.0.1", port, configuration=configuration, create_protocol=Client
    ) as client:
        await healthy(client)
        first, status = await client.session(token=b"writer")
        assert status == 200, status

        # Called by the server, on a stream that it opens.
        opened = await client.queue("opened").get()
        request = await client.envelope(opened)
        assert request["payload"] == {"operationId": "/page/title", "input": {"n": 1}}, request
        client.say(opened, frame(request["id"], "call.responded", {"output": "aioquic"}))

        who = await client.call(first, "/rooms/who", {})
        assert who["output"]["subject"] == "writer", who
        await healthy(client)
        second, status = await client.session()
        assert status == 200, status
        weighed = await client.call(second, "/rooms/weigh", {"text": "abc"}, "reader")
        assert weighed == {"output": 3}, weighed

        stream = client.open(first)
        client.say(stream, requested("watch", "/books/watch", {"count": 3}))
        seen = [await client.envelope(stream) for _ in range(4)]
        outputs = [envelope["payload"].get("output", envelope["type"]) for envelope in seen]
        assert outputs == [1, 2, 3, "call.completed"], outputs

        client.http.send_datagram(first, requested("d", "/rooms/weigh", {"text": "abcd"}))
        client.transmit()
        datagram = await client.queue(("datagrams", first)).get()
        assert json.loads(datagram[4:])["payload"] == {"output": 4}, datagram

        for path, token, expected in [(b"/elsewhere", None, 404), (b"/call", b"stolen", 401)]:
            _, status = await client.session(path, token)
            assert status == expected, (path, status)

        # The first session ends like a tab: its stream ends, and the connection goes on.
        nap = client.open(first)
        client.say(nap, requested("nap", "/rooms/nap", {}))
        who = await client.call(first, "/rooms/who", {})
        assert who["output"]["subject"] == "writer", who
        client.http.send_data(first, b"", end_stream=True)
        client.transmit()
        kind, code = await client.queue(nap).get()
        assert (kind, code) == ("reset", 0x170D7B68), (kind, code)
        who = await client.call(second, "/rooms/who", {})
        assert who["output"]["subject"] == "reader", who
        await healthy(client)
    print("all is well")


asyncio.run(asyncio.wait_for(run(int(sys.argv[1])), 50))
