//! The streams of a QUIC connection as the HTTP/3 library wants to have them.
//!
//! The library's own way takes every stream of a connection. Here they are handed to it one by one,
//! after somebody else has looked at how each begins ([`sorting`](super::sorting)).

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use futures::future::BoxFuture;
use h3::error::Code;
use h3::quic::{self, ConnectionErrorIncoming, StreamErrorIncoming, StreamId, WriteBuf};
use quinn::{ConnectionError, ReadError, VarInt, WriteError};
use tokio::sync::mpsc::UnboundedReceiver;

use super::leaving::{Leavers, Listed};

/// How much is read in one go, in bytes: at first, which does for most requests, and of a stream that
/// had more.
const CHUNK: (usize, usize) = (1 << 10, 16 << 10);

/// A stream that the peer opened, whose first bytes were read already.
pub(super) type Bidi = (quinn::SendStream, Received);

/// A connection of which the library sees what it is handed.
pub(super) struct Backend {
    connection: quinn::Connection,
    bidi: UnboundedReceiver<Bidi>,
    uni: UnboundedReceiver<Received>,
    opener: Opener,
    leavers: Leavers,
}

impl Backend {
    pub(super) fn new(
        connection: quinn::Connection,
        bidi: UnboundedReceiver<Bidi>,
        uni: UnboundedReceiver<Received>,
        leavers: Leavers,
    ) -> Self {
        Self {
            opener: Opener::new(connection.clone()),
            connection,
            bidi,
            uni,
            leavers,
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
        let stream = ready!(self.bidi.poll_recv(cx));
        Poll::Ready(match stream {
            Some((send, received)) => {
                let listed = self.leavers.list(&send);
                let sent = Sent {
                    _listed: Some(listed),
                    ..Sent::new(send)
                };
                Ok(Both { sent, received })
            }
            None => Err(self.ended()),
        })
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
            sent: Sent::new(send),
            received: Received::new(recv, Bytes::new()),
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
        Poll::Ready(opened.map(Sent::new).map_err(lost))
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

/// The half that the peer writes.
pub(super) struct Received {
    stream: quinn::RecvStream,
    /// What was read of it before.
    first: Bytes,
    /// Where the next bytes are put, once there was a need for it.
    buffer: Vec<u8>,
}

impl Received {
    pub(super) fn new(stream: quinn::RecvStream, first: Bytes) -> Self {
        Self {
            stream,
            first,
            buffer: Vec::new(),
        }
    }
}

impl quic::RecvStream for Received {
    type Buf = Bytes;

    fn poll_data(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Option<Bytes>, StreamErrorIncoming>> {
        let first = std::mem::take(&mut self.first);
        if !first.is_empty() {
            return Poll::Ready(Ok(Some(first)));
        }
        if self.buffer.is_empty() {
            self.buffer.resize(CHUNK.0, 0);
        }
        let read = ready!(self.stream.poll_read(cx, &mut self.buffer)).map_err(read_error)?;
        let data = (read > 0).then(|| Bytes::copy_from_slice(&self.buffer[..read]));
        if read == self.buffer.len() {
            self.buffer.resize(CHUNK.1, 0);
        }
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
pub(super) struct Sent {
    stream: quinn::SendStream,
    writing: Option<WriteBuf<Bytes>>,
    /// Streams that the peer opened are asked whether it still listens.
    _listed: Option<Listed>,
}

impl Sent {
    fn new(stream: quinn::SendStream) -> Self {
        Self {
            stream,
            writing: None,
            _listed: None,
        }
    }
}

impl quic::SendStream<Bytes> for Sent {
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), StreamErrorIncoming>> {
        while let Some(data) = self.writing.as_mut().filter(|data| data.has_remaining()) {
            let stream = Pin::new(&mut self.stream);
            let written = ready!(stream.poll_write(cx, data.chunk())).map_err(write_error)?;
            data.advance(written);
        }
        self.writing = None;
        Poll::Ready(Ok(()))
    }

    fn send_data<T: Into<WriteBuf<Bytes>>>(&mut self, data: T) -> Result<(), StreamErrorIncoming> {
        debug_assert!(
            self.writing.is_none(),
            "the library waits until it is ready"
        );
        self.writing = Some(data.into());
        Ok(())
    }

    fn poll_finish(&mut self, _: &mut Context<'_>) -> Poll<Result<(), StreamErrorIncoming>> {
        let finished = self.stream.finish();
        Poll::Ready(finished.map_err(|error| StreamErrorIncoming::Unknown(Box::new(error))))
    }

    fn reset(&mut self, reset_code: u64) {
        // It may be over already.
        let _ = self.stream.reset(number(reset_code));
    }

    fn send_id(&self) -> StreamId {
        id(self.stream.id())
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
