//! One stream of a conversation: what comes is read and told to the end, what waits is written.
//!
//! What goes wrong on a stream ends that stream, with the calls that were made on it.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use hostler_operations::protocol::{Envelope, FrameDecoder, FrameError, StreamId, encode};
use quinn::{ReadError, RecvStream, SendStream, StoppedError, VarInt, WriteError};
use tokio::time::{Instant, timeout, timeout_at};

use super::budget::{Busy, Held};
use super::conversation::Conversation;
use super::link::{Link, Reason};
use super::outbox::{Next, Outbox};

/// The most that is read in one go, in bytes.
const CHUNK: usize = 64 << 10;

/// Who opened a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Opened {
    /// This end.
    Here,
    /// The other one.
    There,
}

/// What ends a stream before its time.
#[derive(Debug, thiserror::Error)]
enum Broken {
    #[error("the other end has ended it")]
    Lost,
    #[error("the connection is gone")]
    Gone,
    #[error("the conversation is over")]
    Over,
    #[error(transparent)]
    Malformed(#[from] FrameError),
    #[error("a frame does not end, or nothing is taken")]
    Slow,
    #[error(transparent)]
    Busy(#[from] Busy),
}

impl From<ReadError> for Broken {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::ConnectionLost(_) => Self::Gone,
            _ => Self::Lost,
        }
    }
}

impl From<WriteError> for Broken {
    fn from(error: WriteError) -> Self {
        match error {
            WriteError::ConnectionLost(_) => Self::Gone,
            _ => Self::Lost,
        }
    }
}

impl From<StoppedError> for Broken {
    fn from(error: StoppedError) -> Self {
        match error {
            StoppedError::ConnectionLost(_) => Self::Gone,
            StoppedError::ZeroRttRejected => Self::Lost,
        }
    }
}

impl Broken {
    fn code(&self, link: &Link) -> VarInt {
        match self {
            Self::Over => link.gone(),
            Self::Lost | Self::Gone => link.code(Reason::Done),
            Self::Malformed(_) => link.code(Reason::Malformed),
            Self::Slow => link.code(Reason::Slow),
            Self::Busy(_) => link.code(Reason::Busy),
        }
    }
}

/// Carries a stream to its end.
pub(super) async fn carry(
    conversation: &Arc<Conversation>,
    id: StreamId,
    outbox: &Arc<Outbox>,
    (mut send, mut recv): (SendStream, RecvStream),
    opened: Opened,
) {
    let carried = {
        let reading = read(conversation, id, outbox, &mut recv, opened);
        let writing = write(conversation, id, outbox, &mut send);
        tokio::select! {
            carried = async { tokio::try_join!(reading, writing) } => carried,
            () = conversation.gone() => Err(Broken::Over),
        }
    };
    if let Err(broken) = carried {
        tracing::debug!(%broken, "a stream of calls broke");
        let code = broken.code(conversation.link());
        // Either half may be over already.
        let _ = send.reset(code);
        let _ = recv.stop(code);
        outbox.lose();
        // With its connection everything is lost, which the calls are told then.
        if !matches!(broken, Broken::Gone | Broken::Over) {
            conversation.stream_lost(id);
        }
    }
    conversation.forget_stream(id);
}

async fn read(
    conversation: &Arc<Conversation>,
    id: StreamId,
    outbox: &Outbox,
    recv: &mut RecvStream,
    opened: Opened,
) -> Result<(), Broken> {
    let limits = conversation.limits();
    let mut decoder = FrameDecoder::default();
    let mut held = Held::of(conversation.frames());
    let mut due = None;
    loop {
        outbox.listened().await;
        let reading = recv.read_chunk(CHUNK, true);
        let chunk = match due {
            Some(due) => timeout_at(due, reading).await.map_err(|_| Broken::Slow)??,
            None => reading.await?,
        };
        let Some(chunk) = chunk else {
            break;
        };
        decoder.push(&chunk.bytes);
        let is_known = conversation.is_known();
        held.cover(decoder.waiting(), is_known)?;
        loop {
            // What it becomes can be much more than what came.
            let weight = match decoder.weigh() {
                Some((weight, behind)) => {
                    held.cover(weight + behind, is_known)?;
                    weight
                }
                None => 0,
            };
            let Some(envelope) = decoder.poll()? else {
                break;
            };
            due = None;
            let part = held.part(weight);
            if !conversation.came(id, envelope, part).await {
                return Err(Broken::Over);
            }
        }
        due = match decoder.waiting() {
            0 => None,
            _ => due.or_else(|| Some(Instant::now() + limits.frame_time)),
        };
    }
    decoder.finish()?;
    if opened == Opened::There {
        outbox.heard_out();
    }
    Ok(())
}

async fn write(
    conversation: &Arc<Conversation>,
    id: StreamId,
    outbox: &Outbox,
    send: &mut SendStream,
) -> Result<(), Broken> {
    let write_time = conversation.limits().write_time;
    let mut stopped = pin!(send.stopped());
    loop {
        let next = tokio::select! {
            // A reader that leaves is noticed though there is nothing to write.
            left = stopped.as_mut() => {
                left?;
                return Err(Broken::Lost);
            }
            next = outbox.next() => next,
        };
        let Next::Write(envelopes, taken) = next else {
            break;
        };
        for envelope in envelopes {
            let bytes = framed(conversation, id, envelope);
            write_all(send, &bytes, write_time).await?;
        }
        outbox.written(taken);
    }
    // It is open: nobody else finishes it.
    let _ = send.finish();
    match timeout(write_time, stopped).await {
        Ok(Ok(None)) => Ok(()),
        Ok(Ok(Some(_))) => Err(Broken::Lost),
        Ok(Err(error)) => Err(error.into()),
        Err(_) => Err(Broken::Slow),
    }
}

/// Writes it, as long as some of it is taken every now and then.
async fn write_all(send: &mut SendStream, mut rest: &[u8], time: Duration) -> Result<(), Broken> {
    while !rest.is_empty() {
        let written = timeout(time, send.write(rest)).await;
        rest = &rest[written.map_err(|_| Broken::Slow)??..];
    }
    Ok(())
}

/// An envelope as bytes, or what is said in its place when it is larger than a frame may be.
fn framed(conversation: &Arc<Conversation>, id: StreamId, envelope: Envelope) -> Vec<u8> {
    encode(&envelope).unwrap_or_else(|_| {
        let instead = conversation.too_large(id, envelope);
        // A refusal is small.
        instead
            .and_then(|error| encode(&error).ok())
            .unwrap_or_default()
    })
}
