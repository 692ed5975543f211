//! Subscriptions: outputs of the control plane as they come.

use std::collections::VecDeque;
use std::time::Duration;

use hostler_operations::{EventReader, StreamItem};
use http::header;
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use serde_json::Value;

use super::{Ask, MAX_ANSWER_BYTES, refusal};
use crate::failure::Failure;

/// The control plane says every 15 s that a stream lives.
const SILENCE: Duration = Duration::from_secs(50);

/// The largest output that is taken.
const MAX_EVENT_BYTES: usize = 16 << 20;

/// The outputs of a subscription. Dropping them leaves it.
pub(crate) struct Events {
    body: Incoming,
    reader: EventReader,
    ready: VecDeque<StreamItem>,
}

impl Ask<'_> {
    /// Subscribes; returns when the stream has begun.
    pub(crate) async fn stream(self) -> Result<Events, Failure> {
        let server = self.api.base.clone();
        let patience = self.patience;
        let beginning = self.begin(Some("text/event-stream"));
        let answer = tokio::time::timeout(patience, beginning).await;
        let answer = answer.map_err(|_| {
            let secs = patience.as_secs();
            Failure::new(format!("{server} did not answer within {secs} s"))
        })??;
        let (head, body) = answer.into_parts();
        let kind = head.headers.get(header::CONTENT_TYPE);
        if !head.status.is_success() {
            let body = Limited::new(body, MAX_ANSWER_BYTES).collect().await;
            let body = body.map(|body| body.to_bytes()).unwrap_or_default();
            return Err(refusal(head.status, &body, true));
        }
        if kind.is_none_or(|kind| kind != "text/event-stream") {
            let problem = "the server answered with something else than a stream; is --server a \
                           control plane?";
            return Err(Failure::new(problem));
        }
        Ok(Events {
            body,
            reader: EventReader::new(MAX_EVENT_BYTES),
            ready: VecDeque::new(),
        })
    }
}

impl Events {
    /// The next output; `None` at the end.
    pub(crate) async fn next(&mut self) -> Result<Option<Value>, Failure> {
        loop {
            match self.ready.pop_front() {
                Some(StreamItem::Output(output)) => return Ok(Some(output)),
                Some(StreamItem::Failed(error)) => return Err(Failure::new(error.message)),
                Some(_) => return Err(Failure::new("the server sent an unknown kind of event")),
                None => {}
            }
            let frame = tokio::time::timeout(SILENCE, self.body.frame()).await;
            let frame = frame.map_err(|_| Failure::new("the server fell silent"))?;
            let Some(frame) = frame else {
                return Ok(None);
            };
            let frame = frame.map_err(|e| Failure::new(format!("the stream broke off: {e}")))?;
            if let Ok(data) = frame.into_data() {
                self.ready.extend(self.reader.push(&data)?);
            }
        }
    }
}
