//! The streams of a QUIC connection as the HTTP/3 library wants to have them.
//!
//! The library's own way takes every stream of a connection. Here they are handed to it one by one,
//! after somebody else has looked at how each begins ([`sorting`](super::sorting)).

use std::mem::MaybeUninit;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};

use bytes::{Buf, Bytes};
use futures::future::{BoxFuture, FutureExt as _};
use h3::error::Code;
use h3::quic::{self, ConnectionErrorIncoming, StreamErrorIncoming, StreamId, WriteBuf};
use quinn::{ConnectionError, ReadError, VarInt, WriteError};
use tokio::io::ReadBuf;
use tokio::sync::mpsc::UnboundedReceiver;

use super::accepted::Accepted;

/// How much is read in one go, in bytes: at first, which does for most requests, and of a stream that
/// had more.
const CHUNK: (usize, usize) = (1 << 10, 16 << 10);

/// How much of an answer is held back, in bytes, to be written with what comes after it.
const HELD: usize = 4 << 10;

/// A DATA frame without data (RFC 9114, section 7.2.1).
const NO_DATA: &[u8] = &[0, 0];

/// A stream that the peer opened, whose first bytes were read already.
pub(super) type Bidi = (quinn::SendStream, Received);

/// A connection of which the library sees what it is handed.
pub(super) struct Backend {
    connection: quinn::Connection,
    bidi: UnboundedReceiver<Bidi>,
    uni: UnboundedReceiver<Received>,
    opener: Opener,
    accepted: Accepted,
}

impl Backend {
    pub(super) fn new(
        connection: quinn::Connection,
        bidi: UnboundedReceiver<Bidi>,
        uni: UnboundedReceiver<Received>,
        accepted: Accepted,
    ) -> Self {
        Self {
            opener: Opener::new(connection.clone()),
            connection,
            bidi,
            uni,
            accepted,
        }
    }

    /// Why nothing more is handed over.
    fn ended(&self) -> ConnectionErrorIncoming {
        match self.connection.close_reason() {
            Some(reason) => connection_error(reason),
            None => ConnectionErrorIncoming::InternalError("nobody sorts its streams".to_owned()),
        }
    }
}

impl quic::Connection<Bytes> for Backend {
    type RecvStream = Received;
    type OpenStreams = Opener;

    fn poll_accept_recv(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Received, ConnectionErrorIncoming>> {
        let stream = ready!(self.uni.poll_recv(cx));
        Poll::Ready(stream.ok_or_else(|| self.ended()))
    }

    fn poll_accept_bidi(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Both, ConnectionErrorIncoming>> {
        while let Some((mut send, mut received)) = ready!(self.bidi.poll_recv(cx)) {
            if self.accepted.admit(&send) {
                let sent = Sent::new(send, true);
                return Poll::Ready(Ok(Both { sent, received }));
            }
            let refused = Code::H3_REQUEST_REJECTED.value();
            quic::RecvStream::stop_sending(&mut received, refused);
            let _ = send.reset(number(refused));
        }
        Poll::Ready(Err(self.ended()))
    }

    fn opener(&self) -> Opener {
        Opener::new(self.connection.clone())
    }
}

impl quic::OpenStreams<Bytes> for Backend {
    type BidiStream = Both;
    type SendStream = Sent;

    fn poll_open_bidi(&mut self, cx: &mut Context<'_>) -> Poll<Result<Both, StreamErrorIncoming>> {
        self.opener.poll_open_bidi(cx)
    }

    fn poll_open_send(&mut self, cx: &mut Context<'_>) -> Poll<Result<Sent, StreamErrorIncoming>> {
        self.opener.poll_open_send(cx)
    }

    fn close(&mut self, code: Code, reason: &[u8]) {
        self.opener.close(code, reason);
    }
}

type Opening<S> = Option<BoxFuture<'static, Result<S, ConnectionError>>>;

/// Opens streams.
pub(super) struct Opener {
    connection: quinn::Connection,
    bidi: Opening<(quinn::SendStream, quinn::RecvStream)>,
    uni: Opening<quinn::SendStream>,
}

impl Opener {
    fn new(connection: quinn::Connection) -> Self {
        Self {
            connection,
            bidi: None,
            uni: None,
        }
    }
}

impl quic::OpenStreams<Bytes> for Opener {
    type BidiStream = Both;
    type SendStream = Sent;

    fn poll_open_bidi(&mut self, cx: &mut Context<'_>) -> Poll<Result<Both, StreamErrorIncoming>> {
        let connection = &self.connection;
        let opening = self.bidi.get_or_insert_with(|| {
            let connection = connection.clone();
            Box::pin(async move { connection.open_bi().await })
        });
        let opened = ready!(opening.as_mut().poll(cx));
        self.bidi = None;
        let (send, recv) = opened.map_err(lost)?;
        Poll::Ready(Ok(Both {
            sent: Sent::new(send, false),
            received: Received::new(recv, Beginning::default()),
        }))
    }

    fn poll_open_send(&mut self, cx: &mut Context<'_>) -> Poll<Result<Sent, StreamErrorIncoming>> {
        let connection = &self.connection;
        let opening = self.uni.get_or_insert_with(|| {
            let connection = connection.clone();
            Box::pin(async move { connection.open_uni().await })
        });
        let opened = ready!(opening.as_mut().poll(cx));
        self.uni = None;
        let opened = opened.map(|stream| Sent::new(stream, false));
        Poll::Ready(opened.map_err(lost))
    }

    fn close(&mut self, code: Code, reason: &[u8]) {
        self.connection.close(number(code.value()), reason);
    }
}

/// Both halves of a stream.
pub(super) struct Both {
    sent: Sent,
    received: Received,
}

impl quic::BidiStream<Bytes> for Both {
    type SendStream = Sent;
    type RecvStream = Received;

    fn split(self) -> (Sent, Received) {
        (self.sent, self.received)
    }
}

impl quic::SendStream<Bytes> for Both {
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), StreamErrorIncoming>> {
        self.sent.poll_ready(cx)
    }

    fn send_data<T: Into<WriteBuf<Bytes>>>(&mut self, data: T) -> Result<(), StreamErrorIncoming> {
        self.sent.send_data(data)
    }

    fn poll_finish(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), StreamErrorIncoming>> {
        self.sent.poll_finish(cx)
    }

    fn reset(&mut self, reset_code: u64) {
        self.sent.reset(reset_code);
    }

    fn send_id(&self) -> StreamId {
        self.sent.send_id()
    }
}

impl quic::RecvStream for Both {
    type Buf = Bytes;

    fn poll_data(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Option<Bytes>, StreamErrorIncoming>> {
        self.received.poll_data(cx)
    }

    fn stop_sending(&mut self, error_code: u64) {
        self.received.stop_sending(error_code);
    }

    fn recv_id(&self) -> StreamId {
        self.received.recv_id()
    }
}

/// How a stream began: bytes that were read of it already, at most a varint.
#[derive(Default)]
pub(super) struct Beginning {
    bytes: [u8; 8],
    length: usize,
}

impl Beginning {
    /// At most eight bytes.
    pub(super) fn new(read: &[u8]) -> Self {
        let (mut bytes, length) = ([0; 8], read.len());
        bytes[..length].copy_from_slice(read);
        Self { bytes, length }
    }

    pub(super) fn as_slice(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

/// The half that the peer writes.
pub(super) struct Received {
    stream: quinn::RecvStream,
    /// What was read of it before.
    first: Beginning,
    /// Where the next bytes are put, once there was a need for it.
    buffer: Vec<u8>,
}

impl Received {
    pub(super) fn new(stream: quinn::RecvStream, first: Beginning) -> Self {
        Self {
            stream,
            first,
            buffer: Vec::new(),
        }
    }

    /// How it began, and what is there of the rest.
    fn poll_first(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, ReadError>> {
        let mut room = [const { MaybeUninit::uninit() }; CHUNK.0];
        let mut buffer = ReadBuf::uninit(&mut room);
        let first = std::mem::take(&mut self.first);
        buffer.put_slice(first.as_slice());
        match self.stream.poll_read_buf(cx, &mut buffer) {
            Poll::Pending if buffer.filled().is_empty() => return Poll::Pending,
            Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
            Poll::Pending | Poll::Ready(Ok(())) => {}
        }
        if buffer.remaining() == 0 {
            self.buffer.resize(CHUNK.1, 0);
        }
        let filled = buffer.filled();
        let data = (!filled.is_empty()).then(|| Bytes::copy_from_slice(filled));
        Poll::Ready(Ok(data))
    }
}

impl quic::RecvStream for Received {
    type Buf = Bytes;

    fn poll_data(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Option<Bytes>, StreamErrorIncoming>> {
        if self.buffer.is_empty() {
            return self.poll_first(cx).map_err(read_error);
        }
        let read = ready!(self.stream.poll_read(cx, &mut self.buffer)).map_err(read_error)?;
        let data = (read > 0).then(|| Bytes::copy_from_slice(&self.buffer[..read]));
        Poll::Ready(Ok(data))
    }

    fn stop_sending(&mut self, error_code: u64) {
        // It may be over already.
        let _ = self.stream.stop(number(error_code));
    }

    fn recv_id(&self) -> StreamId {
        id(self.stream.id())
    }
}

/// The half that this end writes.
///
/// The library hands over each frame by itself, and each write costs a lock of the connection. So
/// that an answer that is there is written at once, the stream of an answer may hold back what there
/// is of it: until it is too much, until the answer is finished, or until a frame without data asks
/// for it, which itself is not written.
pub(super) struct Sent {
    stream: quinn::SendStream,
    /// Whether anything is held back.
    holds: bool,
    held: Vec<u8>,
    /// How much of what was held back is written.
    written: usize,
    /// What comes after it.
    writing: Option<WriteBuf<Bytes>>,
    /// What there is is to be written.
    due: bool,
    /// Whose it is to say how it ends.
    end: End,
}

enum End {
    /// The library's, which has one answer of its own, that a head is too long, and does not finish it.
    Library,
    /// Ours. What is dropped is not whole.
    Ours,
    /// It was said.
    Said,
}

impl Sent {
    fn new(stream: quinn::SendStream, holds: bool) -> Self {
        Self {
            stream,
            holds,
            held: Vec::new(),
            written: 0,
            writing: None,
            due: false,
            end: End::Library,
        }
    }

    fn poll_write_out(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), WriteError>> {
        while self.written < self.held.len() {
            let stream = Pin::new(&mut self.stream);
            self.written += ready!(stream.poll_write(cx, &self.held[self.written..]))?;
        }
        self.held.clear();
        self.written = 0;
        while let Some(data) = self.writing.as_mut().filter(|data| data.has_remaining()) {
            let stream = Pin::new(&mut self.stream);
            let written = ready!(stream.poll_write(cx, data.chunk()))?;
            data.advance(written);
        }
        self.writing = None;
        self.due = false;
        Poll::Ready(Ok(()))
    }
}

impl quic::SendStream<Bytes> for Sent {
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), StreamErrorIncoming>> {
        match self.due {
            true => self.poll_write_out(cx).map_err(write_error),
            false => Poll::Ready(Ok(())),
        }
    }

    fn send_data<T: Into<WriteBuf<Bytes>>>(&mut self, data: T) -> Result<(), StreamErrorIncoming> {
        debug_assert!(!self.due, "the library waits until it is ready");
        let mut data = data.into();
        if self.holds && data.remaining() == NO_DATA.len() && data.chunk() == NO_DATA {
            self.end = End::Ours;
            self.due = true;
        } else if self.holds && self.held.len() + data.remaining() <= HELD {
            self.held.reserve(data.remaining());
            while data.has_remaining() {
                let piece = data.chunk();
                self.held.extend_from_slice(piece);
                data.advance(piece.len());
            }
        } else {
            self.writing = Some(data);
            self.due = true;
        }
        Ok(())
    }

    fn poll_finish(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), StreamErrorIncoming>> {
        ready!(self.poll_write_out(cx)).map_err(write_error)?;
        self.end = End::Said;
        let finished = self.stream.finish();
        Poll::Ready(finished.map_err(|error| StreamErrorIncoming::Unknown(Box::new(error))))
    }

    fn reset(&mut self, reset_code: u64) {
        self.end = End::Said;
        // It may be over already.
        let _ = self.stream.reset(number(reset_code));
    }

    fn send_id(&self) -> StreamId {
        id(self.stream.id())
    }
}

impl Drop for Sent {
    /// Left to itself, a stream that is dropped is finished: half an answer would pass for a whole one.
    fn drop(&mut self) {
        match self.end {
            End::Library => {
                let _ = self.poll_write_out(&mut Context::from_waker(Waker::noop()));
            }
            // Who has left is told so by the stream itself.
            End::Ours if !matches!(self.stream.stopped().now_or_never(), Some(Ok(Some(_)))) => {
                let code = Code::H3_INTERNAL_ERROR.value();
                let _ = self.stream.reset(number(code));
            }
            End::Ours | End::Said => {}
        }
    }
}

fn number(code: u64) -> VarInt {
    VarInt::from_u64(code).unwrap_or(VarInt::MAX)
}

fn id(id: quinn::StreamId) -> StreamId {
    // Both are the numbers of RFC 9000, section 2.1.
    u64::from(id).try_into().expect("ids have 62 bits")
}

fn connection_error(error: ConnectionError) -> ConnectionErrorIncoming {
    match error {
        ConnectionError::ApplicationClosed(close) => ConnectionErrorIncoming::ApplicationClose {
            error_code: close.error_code.into(),
        },
        ConnectionError::TimedOut => ConnectionErrorIncoming::Timeout,
        error => ConnectionErrorIncoming::Undefined(Arc::new(error)),
    }
}

fn lost(error: ConnectionError) -> StreamErrorIncoming {
    StreamErrorIncoming::ConnectionErrorIncoming {
        connection_error: connection_error(error),
    }
}

fn read_error(error: ReadError) -> StreamErrorIncoming {
    match error {
        ReadError::Reset(code) => StreamErrorIncoming::StreamTerminated {
            error_code: code.into_inner(),
        },
        ReadError::ConnectionLost(error) => lost(error),
        error => StreamErrorIncoming::Unknown(Box::new(error)),
    }
}

fn write_error(error: WriteError) -> StreamErrorIncoming {
    match error {
        WriteError::Stopped(code) => StreamErrorIncoming::StreamTerminated {
            error_code: code.into_inner(),
        },
        WriteError::ConnectionLost(error) => lost(error),
        error => StreamErrorIncoming::Unknown(Box::new(error)),
    }
}
