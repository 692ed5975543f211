//! An answer that takes a while: an event stream with the progress, and the response at its end.

use std::convert::Infallible;
use std::time::Duration;

use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::unfold;
use hostler_operations::Progress;
use http::StatusCode;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep_until};

use super::Reporting;
use crate::answer;
use crate::sse;

/// How often a client that wants to hear of progress hears that there is some, when the handler
/// itself says nothing.
const TICK: Duration = Duration::from_secs(5);

/// How often what a handler says is passed on at most.
const PACE: Duration = Duration::from_millis(100);

/// Answers with JSON when the response comes soon, and with a stream as soon as there is progress
/// to tell or `patience` is at its end.
pub(super) async fn soon_or_streamed(
    mut answering: BoxFuture<'static, Value>,
    mut reporting: Option<Reporting>,
    patience: Duration,
) -> Response {
    let begun = Instant::now();
    let first = tokio::select! {
        biased;
        response = &mut answering => return answer::json(StatusCode::OK, &response),
        report = next_report(&mut reporting, begun) => Some(report),
        () = tokio::time::sleep(patience) => None,
    };
    let mut events = Events {
        answering: Some(answering),
        reporting,
        begun,
        told: 0.0,
        speaks: false,
        quiet_until: begun,
    };
    let first = first.and_then(|report| events.tell(&report));
    let frames = unfold((first, events), |(ready, mut events)| async move {
        let frame = match ready {
            Some(frame) => frame,
            None => events.next().await?,
        };
        Some((Ok::<_, Infallible>(frame), (None, events)))
    });
    sse::stream(Body::from_stream(frames))
}

struct Events {
    /// Until the response was sent.
    answering: Option<BoxFuture<'static, Value>>,
    reporting: Option<Reporting>,
    begun: Instant,
    /// The last number that was told; the next is greater.
    told: f64,
    /// Whether the handler speaks for itself.
    speaks: bool,
    /// Nothing of the handler's is passed on before this.
    quiet_until: Instant,
}

impl Events {
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            let answering = self.answering.as_mut()?;
            tokio::select! {
                biased;
                response = answering => {
                    self.answering = None;
                    return Some(event(&response));
                }
                report = next_report(&mut self.reporting, self.quiet_until) => {
                    if let Some(frame) = self.tell(&report) {
                        return Some(frame);
                    }
                }
                () = tokio::time::sleep(TICK) => return Some(self.still_here()),
            }
        }
    }

    /// What a handler says of itself. The number increases each time, so what does not is left out.
    fn tell(&mut self, report: &Progress) -> Option<Bytes> {
        #[allow(clippy::cast_precision_loss)]
        let (done, total) = (report.done as f64, report.total.map(|total| total as f64));
        self.speaks = true;
        self.quiet_until = Instant::now() + PACE;
        (done > self.told).then(|| self.notify(done, total, &report.message))?
    }

    /// That time passes, in steps so small that any number of the handler's is greater.
    fn still_here(&mut self) -> Bytes {
        let seconds = self.begun.elapsed().as_secs();
        let message = format!("still at it after {seconds} s");
        let ticking = (!self.speaks).then(|| self.notify(self.told + 0.001, None, &message));
        ticking.flatten().unwrap_or(sse::STILL_HERE)
    }

    fn notify(&mut self, done: f64, total: Option<f64>, message: &str) -> Option<Bytes> {
        let (token, _) = self.reporting.as_ref()?;
        self.told = done;
        let mut params = json!({ "progressToken": token, "progress": done, "message": message });
        if let Some(total) = total {
            params["total"] = json!(total);
        }
        Some(event(&json!({
            "jsonrpc": "2.0", "method": "notifications/progress", "params": params,
        })))
    }
}

/// The next thing that the handler says; never, when nobody asked or it has said everything.
async fn next_report(reporting: &mut Option<Reporting>, not_before: Instant) -> Progress {
    if let Some((_, source)) = reporting {
        sleep_until(not_before).await;
        if let Some(report) = source.next().await {
            return report;
        }
    }
    std::future::pending().await
}

fn event(message: &Value) -> Bytes {
    Bytes::from(format!("event: message\ndata: {message}\n\n"))
}
