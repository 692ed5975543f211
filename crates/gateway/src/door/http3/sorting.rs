//! Which streams and datagrams of a connection are HTTP/3's, and which a WebTransport session's.
//!
//! A stream says so by how it begins (draft-ietf-webtrans-http3, sections 4.2 and 4.3). Each is
//! looked at by itself, so that one that says nothing holds up no other.

use std::time::Duration;

use bytes::Bytes;
use futures::stream::FuturesUnordered;
use futures::{FutureExt as _, StreamExt as _};
use quinn::{ConnectionError, ReadExactError, RecvStream, SendStream, VarInt};
use tokio::sync::mpsc::UnboundedSender;

use super::backend::{Beginning, Bidi, Received};
use super::sessions::Sessions;
use crate::calls::{SESSION_STREAM, varint};
use crate::within::within;

/// What a session's stream in one direction begins with.
const SESSION_STREAM_ONE_WAY: u64 = 0x54;

/// The code of a stream whose session does not come (WEBTRANSPORT_BUFFERED_STREAM_REJECTED).
const REJECTED: VarInt = VarInt::from_u32(0x3994_bd84);

/// How long a stream may be ahead of the request that opens its session.
const AHEAD: Duration = Duration::from_secs(5);

/// Where the streams go that are HTTP/3's.
pub(super) struct Library {
    pub(super) bidi: UnboundedSender<Bidi>,
    pub(super) uni: UnboundedSender<Received>,
}

/// What a stream is, by how it begins.
enum Kind {
    Http3(Beginning),
    Session(u64),
    /// Nothing comes, or half of something.
    Nothing,
}

/// Sorts until the connection is over. Without sessions everything is HTTP/3's.
pub(super) async fn sort(
    connection: &quinn::Connection,
    library: Library,
    sessions: Option<&Sessions>,
    head_time: Duration,
) {
    let mut bidi = FuturesUnordered::new();
    let mut uni = FuturesUnordered::new();
    loop {
        // A library that takes nothing more is about to say why.
        tokio::select! {
            biased;
            stream = next_unsorted(connection, &library, sessions) => match stream {
                Ok((begun, sessions)) => bidi.push(sort_bidi(begun, &library, sessions, head_time)),
                Err(_) => return,
            },
            stream = connection.accept_uni() => match stream {
                Ok(stream) => uni.push(sort_uni(stream, &library, sessions, head_time)),
                Err(_) => return,
            },
            datagram = connection.read_datagram(), if sessions.is_some() => match datagram {
                Ok(datagram) => if let Some(sessions) = sessions {
                    deliver(datagram, sessions);
                },
                Err(_) => return,
            },
            Some(()) = bidi.next() => {}
            Some(()) = uni.next() => {}
        }
    }
}

/// A stream of which so much was read.
type Begun = (SendStream, RecvStream, Beginning);

/// Hands over the streams that show at once that they are HTTP/3's, up to the first that does not.
async fn next_unsorted<'s>(
    connection: &quinn::Connection,
    library: &Library,
    sessions: Option<&'s Sessions>,
) -> Result<(Begun, &'s Sessions), ConnectionError> {
    loop {
        let (send, mut recv) = connection.accept_bi().await?;
        let first = match sessions {
            Some(_) => first_byte(&mut recv),
            None => Beginning::default(),
        };
        match (sessions, first.as_slice()) {
            (None, _) => {}
            // What a session's stream begins with is longer than a byte.
            (Some(_), [byte]) if varint::length(*byte) == 1 => {}
            (Some(sessions), _) => return Ok(((send, recv, first), sessions)),
        }
        let _ = library.bidi.send((send, Received::new(recv, first)));
    }
}

/// What is there of the first byte.
fn first_byte(recv: &mut RecvStream) -> Beginning {
    let mut byte = [0];
    match recv.read(&mut byte).now_or_never() {
        Some(Ok(Some(_))) => Beginning::new(&byte),
        // What became of the stream, the next read says again.
        _ => Beginning::default(),
    }
}

async fn sort_bidi(
    (mut send, mut recv, first): Begun,
    library: &Library,
    sessions: &Sessions,
    head_time: Duration,
) {
    match kind(&mut recv, first, SESSION_STREAM, head_time).await {
        Kind::Http3(first) => {
            let _ = library.bidi.send((send, Received::new(recv, first)));
        }
        Kind::Session(id) => {
            let session = tokio::time::timeout(AHEAD, sessions.opened(id)).await;
            let stream = match session {
                Ok(streams) => streams.send((send, recv)).map_err(|refused| refused.0),
                Err(_) => Err((send, recv)),
            };
            if let Err((mut send, mut recv)) = stream {
                let _ = (send.reset(REJECTED), recv.stop(REJECTED));
            }
        }
        Kind::Nothing => {
            let _ = (send.reset(REJECTED), recv.stop(REJECTED));
        }
    }
}

async fn sort_uni(
    mut recv: RecvStream,
    library: &Library,
    sessions: Option<&Sessions>,
    head_time: Duration,
) {
    let first = Beginning::default();
    let kind = match sessions {
        Some(_) => kind(&mut recv, first, SESSION_STREAM_ONE_WAY, head_time).await,
        None => Kind::Http3(first),
    };
    match kind {
        Kind::Http3(first) => {
            let _ = library.uni.send(Received::new(recv, first));
        }
        // The call protocol has no use for a stream on which nothing can be answered.
        Kind::Session(_) | Kind::Nothing => {
            let _ = recv.stop(REJECTED);
        }
    }
}

/// Reads on how a stream begins, and no byte more.
async fn kind(
    recv: &mut RecvStream,
    first: Beginning,
    of_a_session: u64,
    head_time: Duration,
) -> Kind {
    let kind = async {
        let (kind, first) = match integer(recv, first).await {
            Ok(read) => read,
            // An empty stream is for the library to judge.
            Err(ReadExactError::FinishedEarly(0)) => return Kind::Http3(Beginning::default()),
            Err(_) => return Kind::Nothing,
        };
        if kind != of_a_session {
            return Kind::Http3(first);
        }
        match integer(recv, Beginning::default()).await {
            Ok((id, _)) => Kind::Session(id),
            Err(_) => Kind::Nothing,
        }
    };
    within(head_time, kind).await.unwrap_or(Kind::Nothing)
}

/// An integer of which at most the first byte was read.
async fn integer(
    recv: &mut RecvStream,
    first: Beginning,
) -> Result<(u64, Beginning), ReadExactError> {
    let mut bytes = [0; 8];
    match first.as_slice() {
        [] => recv.read_exact(&mut bytes[..1]).await?,
        [byte, ..] => bytes[0] = *byte,
    }
    let length = varint::length(bytes[0]);
    recv.read_exact(&mut bytes[1..length]).await?;
    let (value, _) = varint::read(&bytes).unwrap_or_default();
    Ok((value, Beginning::new(&bytes[..length])))
}

/// A datagram begins with a quarter of its session's id (RFC 9297, section 2.1). One for which there
/// is no session or no room is lost.
fn deliver(mut datagram: Bytes, sessions: &Sessions) {
    if let Some((quarter, length)) = varint::read(&datagram) {
        let content = datagram.split_off(length);
        sessions.deliver(quarter.saturating_mul(4), content);
    }
}
