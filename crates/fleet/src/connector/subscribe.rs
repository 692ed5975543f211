//! Subscriptions on a host, relayed: the host's outputs come through one by one, as they are.
//!
//! Whoever drops the stream leaves the host's door too, which ends what was subscribed to there.
//! Nothing is collected on the way: a reader that is slow makes the host slow down, for this
//! stream and for no other.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use futures::stream::{Stream, try_unfold};
use hostler_identity::{ClientError, Streaming};
use hostler_operations::{EventReader, StreamItem};
use http::header::ACCEPT;
use http::{HeaderValue, StatusCode};
use serde_json::Value;
use tokio::sync::OwnedSemaphorePermit;

use super::{Ask, Connector, HostFailure, MAX_ANSWER_BYTES, refused, request, unanswered};
use crate::ids::HostId;
use crate::model::Host;

/// Subscriptions on one host at one time. Its door takes 128 requests on a connection, and one
/// that waits for its turn would look like a host that does not answer.
pub(super) const MAX_STREAMS: usize = 120;

/// A host says every 15 s that a stream lives; one that has missed three of these is gone.
const SILENCE: Duration = Duration::from_secs(50);

/// The largest output of a subscription, as it is written. Hosts cut theirs far smaller.
const MAX_EVENT_BYTES: usize = 1024 * 1024;

const EVENT_STREAM: &str = "text/event-stream";

impl Connector {
    /// Subscribes on a host; the time-out is for the beginning. The stream ends with its first
    /// failure.
    pub(crate) async fn subscribe(
        &self,
        host: &Host,
        ask: Ask<'_>,
    ) -> Result<impl Stream<Item = Result<Value, HostFailure>> + Send + use<>, HostFailure> {
        let id = &host.id;
        let mut request = request(host, &ask)?;
        request
            .headers_mut()
            .insert(ACCEPT, HeaderValue::from_static(EVENT_STREAM));
        let lost = |reason: ClientError| unanswered(id, &ask, reason);
        let ways = self.ways(id).map_err(|e| lost(super::unusable(&e)))?;
        let permit = Arc::clone(&ways.turns).try_acquire_owned();
        let permit = permit.map_err(|_| HostFailure::Crowded(id.clone()))?;
        let answer = ways.streams.stream_within(ask.timeout, request).await;
        let answer = answer.map_err(lost)?;
        let status = answer.status();
        if !is_stream(&answer) {
            let (head, body) = answer.into_parts();
            let body = body.rest(MAX_ANSWER_BYTES, ask.timeout).await;
            let body = body.map_err(lost)?;
            let answer = http::Response::from_parts(head, body);
            let unexpected: Value = super::understand(id, &ask, answer)?;
            return Err(HostFailure::Nonsense {
                host: id.clone(),
                status,
                said: format!("no stream but {:.100}", unexpected.to_string()),
            });
        }
        let relay = Relay {
            host: id.clone(),
            operation: ask.operation.to_owned(),
            answer: answer.into_body(),
            reader: EventReader::new(MAX_EVENT_BYTES),
            ready: VecDeque::new(),
            _turn: permit,
        };
        Ok(try_unfold(relay, |mut relay| async {
            let output = relay.next().await?;
            Ok(output.map(|output| (output, relay)))
        }))
    }
}

fn is_stream(answer: &http::Response<Streaming>) -> bool {
    let kind = answer.headers().get(http::header::CONTENT_TYPE);
    answer.status().is_success() && kind.is_some_and(|kind| kind == EVENT_STREAM)
}

/// One subscription on its way through.
struct Relay {
    host: HostId,
    operation: String,
    answer: Streaming,
    reader: EventReader,
    ready: VecDeque<StreamItem>,
    _turn: OwnedSemaphorePermit,
}

impl Relay {
    async fn next(&mut self) -> Result<Option<Value>, HostFailure> {
        loop {
            match self.ready.pop_front() {
                Some(StreamItem::Output(output)) => return Ok(Some(output)),
                Some(StreamItem::Failed(error)) => {
                    return Err(match refused(error) {
                        Ok(error) => HostFailure::Refused(error),
                        Err(said) => self.nonsense(said),
                    });
                }
                // The reader's kinds may grow; a host that uses what we do not know is newer.
                Some(_) => return Err(self.nonsense("an unknown kind of event".to_owned())),
                None => {}
            }
            let piece = self.answer.next(SILENCE).await.map_err(|reason| {
                let (host, operation) = (&self.host, &self.operation);
                tracing::warn!(%host, operation, %reason, "a host's stream broke off");
                HostFailure::NoAnswer {
                    host: host.clone(),
                    reason: Box::new(reason),
                }
            })?;
            let Some(piece) = piece else {
                return Ok(None);
            };
            match self.reader.push(&piece) {
                Ok(items) => self.ready.extend(items),
                Err(error) => return Err(self.nonsense(error.to_string())),
            }
        }
    }

    fn nonsense(&self, said: String) -> HostFailure {
        let (host, operation) = (&self.host, &self.operation);
        tracing::error!(%host, operation, said, "a host's stream is none");
        HostFailure::Nonsense {
            host: host.clone(),
            status: StatusCode::OK,
            said,
        }
    }
}
