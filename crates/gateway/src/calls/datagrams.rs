//! The datagrams of a session: each is one frame, which may be lost.
//!
//! For what is small and soon out of date. An answer goes as its call came, in a datagram; one that
//! is too large for that goes on a stream. What is no frame is dropped, as the network might have
//! done.

use std::sync::Arc;

use futures::StreamExt as _;
use hostler_operations::protocol::{Envelope, FrameDecoder, StreamId, encode};

use super::conversation::Conversation;
use super::link::Datagrams;
use super::outbox::{Kind, Next, Outbox};

/// What the datagrams together go by; no stream of QUIC's has such a number.
pub(super) const ID: StreamId = StreamId(u64::MAX);

/// Carries datagrams in both directions, until the conversation takes leave.
pub(super) async fn carry(
    conversation: &Arc<Conversation>,
    outbox: &Arc<Outbox>,
    datagrams: Datagrams,
) {
    tokio::select! {
        () = read(conversation, outbox, datagrams) => {}
        () = write(conversation, outbox) => {}
    }
}

async fn read(conversation: &Arc<Conversation>, outbox: &Outbox, mut datagrams: Datagrams) {
    loop {
        outbox.listened().await;
        let Some(datagram) = datagrams.next().await else {
            // What is still to be said is said.
            return std::future::pending().await;
        };
        if let Some(envelope) = only_frame(&datagram)
            && !conversation.came(ID, envelope, None).await
        {
            return;
        }
    }
}

fn only_frame(datagram: &[u8]) -> Option<Envelope> {
    let mut decoder = FrameDecoder::default();
    decoder.push(datagram);
    let envelope = decoder.poll().ok()??;
    (decoder.waiting() == 0).then_some(envelope)
}

async fn write(conversation: &Arc<Conversation>, outbox: &Outbox) {
    let link = conversation.link();
    while let Next::Write(envelopes, taken) = outbox.next().await {
        for envelope in envelopes {
            let frame = encode(&envelope).unwrap_or_default();
            let fits = link
                .datagram_bytes()
                .is_some_and(|most| frame.len() <= most);
            if fits && !frame.is_empty() {
                // Whatever becomes of it: nobody relies on a datagram.
                let _ = link.send_datagram(&frame).await;
            } else if let Ok((_, stream)) = conversation.stream_for_calls().await {
                stream.room().await;
                stream.put(envelope, Kind::Said);
            }
        }
        outbox.written(taken);
    }
}
