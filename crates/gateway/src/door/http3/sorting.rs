//! Which streams and datagrams of a connection are HTTP/3's, and which a WebTransport session's.
//!
//! A stream says so by how it begins (draft-ietf-webtrans-http3, sections 4.2 and 4.3). Each is
//! looked at by itself, so that one that says nothing holds up no other.

use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use quinn::{ReadExactError, RecvStream, SendStream, VarInt};
use tokio::sync::mpsc::UnboundedSender;

use super::backend::{Bidi, Received};
use super::sessions::Sessions;
use crate::calls::{SESSION_STREAM, varint};

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

/// What a stream begins with.
enum Beginning {
    Http3(Bytes),
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
            stream = connection.accept_bi() => match stream {
                Ok(stream) => bidi.push(sort_bidi(stream, &library, sessions, head_time)),
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

async fn sort_bidi(
    (mut send, mut recv): (SendStream, RecvStream),
    library: &Library,
    sessions: Option<&Sessions>,
    head_time: Duration,
) {
    let beginning = match sessions {
        Some(_) => begin(&mut recv, SESSION_STREAM, head_time).await,
        None => Beginning::Http3(Bytes::new()),
    };
    match (beginning, sessions) {
        (Beginning::Http3(first), _) => {
            let _ = library.bidi.send((send, Received::new(recv, first)));
        }
        (Beginning::Session(id), Some(sessions)) => {
            let session = tokio::time::timeout(AHEAD, sessions.opened(id)).await;
            let stream = match session {
                Ok(streams) => streams.send((send, recv)).map_err(|refused| refused.0),
                Err(_) => Err((send, recv)),
            };
            if let Err((mut send, mut recv)) = stream {
                let _ = (send.reset(REJECTED), recv.stop(REJECTED));
            }
        }
        _ => {
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
    let beginning = match sessions {
        Some(_) => begin(&mut recv, SESSION_STREAM_ONE_WAY, head_time).await,
        None => Beginning::Http3(Bytes::new()),
    };
    match beginning {
        Beginning::Http3(first) => {
            let _ = library.uni.send(Received::new(recv, first));
        }
        // The call protocol has no use for a stream on which nothing can be answered.
        Beginning::Session(_) | Beginning::Nothing => {
            let _ = recv.stop(REJECTED);
        }
    }
}

/// Reads how a stream begins, and no byte more.
async fn begin(recv: &mut RecvStream, of_a_session: u64, head_time: Duration) -> Beginning {
    let beginning = async {
        let (kind, first) = match integer(recv).await {
            Ok(read) => read,
            // An empty stream is for the library to judge.
            Err(ReadExactError::FinishedEarly(0)) => return Beginning::Http3(Bytes::new()),
            Err(_) => return Beginning::Nothing,
        };
        if kind != of_a_session {
            return Beginning::Http3(first);
        }
        match integer(recv).await {
            Ok((id, _)) => Beginning::Session(id),
            Err(_) => Beginning::Nothing,
        }
    };
    let begun = tokio::time::timeout(head_time, beginning).await;
    begun.unwrap_or(Beginning::Nothing)
}

async fn integer(recv: &mut RecvStream) -> Result<(u64, Bytes), ReadExactError> {
    let mut bytes = [0; 8];
    recv.read_exact(&mut bytes[..1]).await?;
    let length = varint::length(bytes[0]);
    recv.read_exact(&mut bytes[1..length]).await?;
    let (value, _) = varint::read(&bytes).unwrap_or_default();
    Ok((value, Bytes::copy_from_slice(&bytes[..length])))
}

/// A datagram begins with a quarter of its session's id (RFC 9297, section 2.1). One for which there
/// is no session or no room is lost.
fn deliver(mut datagram: Bytes, sessions: &Sessions) {
    if let Some((quarter, length)) = varint::read(&datagram) {
        let content = datagram.split_off(length);
        sessions.deliver(quarter.saturating_mul(4), content);
    }
}
