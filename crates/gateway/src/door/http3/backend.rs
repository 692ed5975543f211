//! The streams of a QUIC connection as the HTTP/3 library wants to have them.
//!
//! The library's own way takes every stream of a connection. Here they are handed to it one by one,
//! after somebody else has looked at how each begins ([`sorting`](super::sorting)).

mod received;
mod sent;

use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use futures::future::BoxFuture;
use h3::error::Code;
use h3::quic::{self, ConnectionErrorIncoming, StreamErrorIncoming, StreamId, WriteBuf};
use quinn::{ConnectionError, VarInt};
use tokio::sync::mpsc::UnboundedReceiver;

use super::accepted::Accepted;
pub(super) use received::{Beginning, Received};
pub(super) use sent::Sent;

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
