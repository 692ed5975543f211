//! What carries a conversation: the streams of a QUIC connection.

use futures::stream::{self, BoxStream, StreamExt as _};
use quinn::{Connection, ConnectionError, RecvStream, SendStream, VarInt};

/// Streams that the other end opens.
pub(crate) type Streams = BoxStream<'static, (SendStream, RecvStream)>;

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
}

/// A QUIC connection, as a conversation sees it.
#[derive(Debug)]
pub(crate) struct Link {
    connection: Connection,
}

impl Link {
    /// A connection that carries one conversation and nothing else.
    pub(crate) fn whole(connection: Connection) -> (Self, Streams) {
        let accepting = connection.clone();
        let streams = stream::unfold(accepting, |connection| async {
            let stream = connection.accept_bi().await.ok()?;
            Some((stream, connection))
        });
        (Self { connection }, streams.boxed())
    }

    pub(crate) async fn open(&self) -> Result<(SendStream, RecvStream), ConnectionError> {
        self.connection.open_bi().await
    }

    /// The reason as streams carry it.
    pub(crate) fn code(&self, reason: Reason) -> VarInt {
        VarInt::from_u32(reason as u32)
    }

    /// Resolves when there is nothing to carry any more.
    pub(crate) async fn closed(&self) {
        self.connection.closed().await;
    }

    /// Ends it.
    pub(crate) fn close(&self, reason: Reason) {
        self.connection.close(self.code(reason), b"");
    }
}
