//! Subscriptions over HTTP: server-sent events (WHATWG HTML, section 9.2).
//!
//! Each output is one event, its `id` counting up from 1, its `data` the output as JSON. Where the
//! operation numbers its outputs for good, the `id` is that number, and a client that lost the
//! stream and sends it back as `Last-Event-ID` is told what came after. A comment
//! every fifteen seconds keeps proxies from giving up. The end of the stream closes the answer; a
//! failure comes before it as `event: error`. When the door closes, the stream just ends, and the
//! client connects again elsewhere. A client that leaves drops the stream, which cancels the call.

use std::convert::Infallible;
use std::time::Duration;

use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use futures::stream::{BoxStream, Stream, StreamExt, unfold};
use hostler_operations::{CallError, ErrorObject, StreamItem, write_event};
use http::header::{ACCEPT, CACHE_CONTROL, CONTENT_TYPE, HeaderMap, HeaderValue};
use serde_json::Value;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at};
use tokio_util::sync::CancellationToken;

use crate::answer::Surface;

/// By which header a client says what it has seen (WHATWG HTML, section 9.2.4).
const LAST_EVENT_ID: &str = "last-event-id";

/// How often a silent stream says that it lives.
pub(crate) const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// What it says: a comment, which no reader takes for an event.
pub(crate) const STILL_HERE: Bytes = Bytes::from_static(b": still here\n\n");

/// The media type of an event stream.
pub(crate) const EVENT_STREAM: &str = "text/event-stream";

/// Whether the caller takes an event stream. One that says nothing takes anything (RFC 9110,
/// section 12.5.1).
pub(crate) fn accepts(headers: &HeaderMap) -> bool {
    let mut accepts = headers.get_all(ACCEPT).iter().peekable();
    accepts.peek().is_none()
        || accepts
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(','))
            .filter_map(|range| range.split(';').next())
            .any(|range| [EVENT_STREAM, "text/*", "*/*"].contains(&range.trim()))
}

/// What a client that was here before has seen last. Something that no event ever had as its id
/// says nothing.
pub(crate) fn last_event_id(headers: &HeaderMap) -> Option<u64> {
    headers.get(LAST_EVENT_ID)?.to_str().ok()?.parse().ok()
}

/// Answers with the outputs of a subscription, numbered by this field of theirs if there is one.
pub(crate) fn respond(
    outputs: impl Stream<Item = Result<Value, CallError>> + Send + 'static,
    surface: Surface,
    numbered_by: Option<&'static str>,
    keep_alive: Duration,
    closing: CancellationToken,
) -> Response {
    let mut keep_alive = interval_at(Instant::now() + keep_alive, keep_alive);
    keep_alive.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let events = Events {
        outputs: outputs.boxed(),
        id: 0,
        numbered_by,
        surface,
        keep_alive,
        closing,
    };
    let frames = unfold(events, |mut events| async {
        let frame = events.next().await?;
        Some((Ok::<_, Infallible>(frame), events))
    });
    stream(Body::from_stream(frames))
}

/// An answer that is a stream of events.
pub(crate) fn stream(events: Body) -> Response {
    let mut response = Response::new(events);
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(EVENT_STREAM));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    // nginx buffers answers unless it is told not to.
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    response
}

struct Events {
    outputs: BoxStream<'static, Result<Value, CallError>>,
    id: u64,
    numbered_by: Option<&'static str>,
    surface: Surface,
    keep_alive: Interval,
    closing: CancellationToken,
}

impl Events {
    async fn next(&mut self) -> Option<Bytes> {
        tokio::select! {
            biased;
            () = self.closing.cancelled() => None,
            output = self.outputs.next() => {
                self.keep_alive.reset();
                let output = output?;
                self.id = self.number(&output).unwrap_or(self.id + 1);
                Some(event(self.id, output, self.surface))
            }
            _ = self.keep_alive.tick() => Some(STILL_HERE),
        }
    }
}

impl Events {
    /// The number that an output brings.
    fn number(&self, output: &Result<Value, CallError>) -> Option<u64> {
        output.as_ref().ok()?.get(self.numbered_by?)?.as_u64()
    }
}

/// One event.
fn event(id: u64, output: Result<Value, CallError>, surface: Surface) -> Bytes {
    let item = match output {
        Ok(output) => StreamItem::Output(output),
        Err(error) => {
            let mut told = ErrorObject::from(&error);
            told.code = surface.code(&told.code).into_owned();
            StreamItem::Failed(told)
        }
    };
    Bytes::from(write_event(id, &item))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_accepts_anything_accepts_events() {
        let accepting = |value: &'static str| {
            accepts(&HeaderMap::from_iter([(
                ACCEPT,
                HeaderValue::from_static(value),
            )]))
        };
        assert!(accepts(&HeaderMap::new()));
        assert!(accepting("text/event-stream") && accepting("*/*"));
        assert!(accepting("application/json, text/*;q=0.5"));
        assert!(!accepting("application/json"));
    }

    #[tokio::test]
    async fn a_silent_stream_says_that_it_lives_and_ends_when_the_door_closes() {
        let closing = CancellationToken::new();
        let outputs = futures::stream::pending();
        let response = respond(
            outputs,
            Surface::Operation,
            None,
            Duration::from_millis(5),
            closing.clone(),
        );
        let mut body = response.into_body().into_data_stream();
        let first = body.next().await.expect("a frame").expect("no error");
        assert_eq!(first, ": still here\n\n");
        closing.cancel();
        assert!(body.next().await.is_none());
    }
}
