//! Subscriptions: answers that come one by one for as long as there are any.

use hostler_operations::{EventReader, StreamItem};
use http_body_util::{BodyExt as _, Limited};
use hyper::body::Incoming;
use serde_json::Value;

use super::{Ask, MAX_ANSWER_BYTES, PATIENCE, refusal};
use crate::failure::{Doing, Failure};

/// An output longer than this is not one of ours.
const MAX_EVENT_BYTES: usize = 1 << 20;

/// The outputs of a subscription.
pub(crate) struct Events {
    body: Incoming,
    reader: EventReader,
    ready: std::collections::VecDeque<StreamItem>,
}

impl Ask<'_> {
    /// Subscribes.
    pub(crate) async fn subscribe(self) -> Result<Events, Failure> {
        let begun = tokio::time::timeout(PATIENCE, self.begin("text/event-stream")).await;
        let answer = begun.map_err(|_| Failure::new("the server does not answer"))??;
        let (head, body) = answer.into_parts();
        if !head.status.is_success() {
            let body = Limited::new(body, MAX_ANSWER_BYTES).collect().await;
            let body = body.map_err(|e| Failure::new(format!("the answer broke off: {e}")))?;
            return Err(refusal(head.status, &body.to_bytes()));
        }
        Ok(Events {
            body,
            reader: EventReader::new(MAX_EVENT_BYTES),
            ready: Default::default(),
        })
    }
}

impl Events {
    /// The next output; `None` when there are no more.
    pub(crate) async fn next(&mut self) -> Result<Option<Value>, Failure> {
        loop {
            match self.ready.pop_front() {
                Some(StreamItem::Output(output)) => return Ok(Some(output)),
                Some(StreamItem::Failed(error)) => return Err(Failure::new(error.message)),
                Some(_) => continue,
                None => {}
            }
            let Some(frame) = self.body.frame().await else {
                return Ok(None);
            };
            let frame = frame.doing(|| "the stream broke off")?;
            if let Ok(bytes) = frame.into_data() {
                let items = self.reader.push(&bytes);
                self.ready
                    .extend(items.doing(|| "the stream is none of ours")?);
            }
        }
    }
}
