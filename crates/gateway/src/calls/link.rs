//! What carries a conversation: a QUIC connection of its own, or a WebTransport session in one that
//! also carries HTTP/3 and other sessions.

use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use futures::stream::{self, BoxStream, StreamExt as _};
use quinn::{Connection, ConnectionError, RecvStream, SendDatagramError, SendStream, VarInt};
use tokio_util::sync::CancellationToken;

use super::varint;

/// Streams that the other end opens.
pub(crate) type Streams = BoxStream<'static, (SendStream, RecvStream)>;

/// Datagrams that the other end sends.
pub(crate) type Datagrams = BoxStream<'static, Bytes>;

/// What a bidirectional stream of a WebTransport session begins with, before the session's id.
pub(crate) const SESSION_STREAM: u64 = 0x41;

/// The code of a stream whose session has ended (WEBTRANSPORT_SESSION_GONE).
const SESSION_GONE: VarInt = VarInt::from_u32(0x170d_7b68);

/// Why a stream or a conversation is ended, as its peer is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reason {
    /// It is over.
    Done = 0,
    /// What came was no frame.
    Malformed = 1,
    /// A frame did not end, or an answer was not taken, in time.
    Slow = 2,
    /// Too many large frames at one time; try again later.
    Busy = 3,
    /// Who is there was not said, or is not true.
    Unproven = 4,
}

/// See the [module](self).
#[derive(Debug)]
pub(crate) struct Link {
    connection: Connection,
    session: Option<Arc<Session>>,
}

/// What both a session's link and the stream that holds the session open know of it.
#[derive(Debug)]
pub(crate) struct Session {
    /// The id of the stream that asked for it.
    id: u64,
    why: OnceLock<Reason>,
    over: CancellationToken,
}

impl Session {
    pub(crate) fn new(id: u64) -> Arc<Self> {
        Arc::new(Self {
            id,
            why: OnceLock::new(),
            over: CancellationToken::new(),
        })
    }

    /// Why this end has closed it.
    pub(crate) fn why(&self) -> Reason {
        self.why.get().copied().unwrap_or(Reason::Done)
    }
}

impl Link {
    /// A connection that carries one conversation and nothing else.
    pub(crate) fn whole(connection: Connection) -> (Self, Streams, Datagrams) {
        let accepting = connection.clone();
        let streams = stream::unfold(accepting, |connection| async {
            let stream = connection.accept_bi().await.ok()?;
            Some((stream, connection))
        });
        let link = Self {
            connection,
            session: None,
        };
        // The contract has datagrams in sessions alone.
        (link, streams.boxed(), stream::pending().boxed())
    }

    /// One of the sessions of a connection.
    pub(crate) fn session(connection: Connection, session: Arc<Session>) -> Self {
        Self {
            connection,
            session: Some(session),
        }
    }

    pub(super) async fn open(&self) -> Result<(SendStream, RecvStream), ConnectionError> {
        let (mut send, recv) = self.connection.open_bi().await?;
        if let Some(session) = &self.session {
            let mut head = Vec::new();
            varint::write(&mut head, SESSION_STREAM);
            varint::write(&mut head, session.id);
            // Whoever resets the stream before that is noticed by whoever writes on it.
            let _ = send.write_all(&head).await;
        }
        Ok((send, recv))
    }

    /// The reason as streams carry it. The streams of sessions share the space of codes with
    /// HTTP/3, where those of an application begin further up and leave some out
    /// (draft-ietf-webtrans-http3, section 4.4).
    pub(super) fn code(&self, reason: Reason) -> VarInt {
        const FIRST: u64 = 0x52e4_a40f_a8db;
        let reason = reason as u32;
        match &self.session {
            None => VarInt::from_u32(reason),
            Some(_) => VarInt::from_u64(FIRST + u64::from(reason) + u64::from(reason) / 0x1e)
                .unwrap_or(VarInt::MAX),
        }
    }

    /// The code of streams that end because there is nothing to carry them any more.
    pub(super) fn gone(&self) -> VarInt {
        match &self.session {
            None => self.code(Reason::Done),
            Some(_) => SESSION_GONE,
        }
    }

    /// The largest datagram that can be sent now, in bytes, when any can.
    pub(super) fn datagram_bytes(&self) -> Option<usize> {
        let session = self.session.as_ref()?;
        let mut head = Vec::new();
        varint::write(&mut head, session.id / 4);
        self.connection.max_datagram_size()?.checked_sub(head.len())
    }

    /// Sends a datagram of the session's, once there is room for it (RFC 9297, section 2.1).
    pub(super) async fn send_datagram(&self, content: &[u8]) -> Result<(), SendDatagramError> {
        let Some(session) = &self.session else {
            return Err(SendDatagramError::Disabled);
        };
        let mut datagram = Vec::with_capacity(content.len() + 8);
        varint::write(&mut datagram, session.id / 4);
        datagram.extend_from_slice(content);
        self.connection.send_datagram_wait(datagram.into()).await
    }

    /// Resolves when there is nothing to carry any more.
    pub(super) async fn closed(&self) {
        let session = async {
            match &self.session {
                Some(session) => session.over.cancelled().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = self.connection.closed() => {}
            () = session => {}
        }
    }

    /// Ends it; the first reason counts.
    pub(super) fn close(&self, reason: Reason) {
        match &self.session {
            None => self.connection.close(self.code(reason), b""),
            Some(session) => {
                let _ = session.why.set(reason);
                session.over.cancel();
            }
        }
    }
}
