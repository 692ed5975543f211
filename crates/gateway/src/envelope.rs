//! What surrounds every answer: its request id, its line in the access log, and `HEAD` without a
//! body.
//!
//! The log says which route was taken and not which path: a path or a query string may hold what
//! should not be kept, a template cannot.

use std::sync::Arc;
use std::time::Instant;

use axum::body::{Body, HttpBody as _};
use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::Response;
use hostler_operations::{Identity, RequestId};
use http::header::{CONTENT_LENGTH, HeaderName, HeaderValue, TRANSFER_ENCODING};
use http::{Method, StatusCode};

use crate::connection::ConnectionInfo;
use crate::rates::Rates;
use crate::target::Target;

const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// What the dispatch found out, for the log.
#[derive(Default)]
pub(crate) struct Facts {
    pub(crate) target: Option<Arc<Target>>,
    pub(crate) identity: Option<Identity>,
    /// What was called, when the target alone does not say it.
    pub(crate) operation: Option<String>,
}

/// Does this for routes that are no operations.
pub(crate) async fn wrap(
    State(rates): State<Arc<Rates>>,
    request: Request,
    next: Next,
) -> Response {
    let answer = async |request, _| (next.run(request).await, Facts::default());
    around(&rates, request, answer).await
}

/// Does this for one request and its answer, unless a stranger comes too often.
pub(crate) async fn around(
    rates: &Rates,
    request: Request,
    answer: impl AsyncFnOnce(Request, RequestId) -> (Response, Facts),
) -> Response {
    let id = request
        .headers()
        .get(X_REQUEST_ID)
        .and_then(|value| RequestId::from_caller(value.to_str().ok()?))
        .unwrap_or_else(RequestId::generate);
    let mut line = Line {
        began: Instant::now(),
        method: request.method().clone(),
        id,
        connection: request.extensions().get().cloned(),
        outcome: None,
    };
    let (mut response, facts) = match rates.turn_away(line.connection.as_ref()) {
        Some(refusal) => (refusal, Facts::default()),
        None => answer(request, line.id.clone()).await,
    };
    line.outcome = Some((response.status(), facts));
    // Every sane id is a header's value; see RequestId.
    if let Ok(mut value) = HeaderValue::from_str(line.id.as_str()) {
        // It never comes again, so no table of HTTP/2's shall keep it (RFC 7541, section 7.1.3).
        value.set_sensitive(true);
        response.headers_mut().insert(X_REQUEST_ID, value);
    }
    if line.method == Method::HEAD {
        without_body(response)
    } else {
        response
    }
}

/// Leaves the headers as they would be for `GET`, the length among them (RFC 9110, section 9.3.2).
fn without_body(response: Response) -> Response {
    let (mut head, body) = response.into_parts();
    if let Some(length) = body.size_hint().exact()
        && !head.headers.contains_key(TRANSFER_ENCODING)
    {
        head.headers
            .entry(CONTENT_LENGTH)
            .or_insert(HeaderValue::from(length));
    }
    Response::from_parts(head, Body::empty())
}

/// One line of the access log, written when it is dropped: a request whose client went away has
/// one too.
struct Line {
    began: Instant,
    method: Method,
    id: RequestId,
    connection: Option<ConnectionInfo>,
    outcome: Option<(StatusCode, Facts)>,
}

impl Drop for Line {
    fn drop(&mut self) {
        let (status, facts) = match self.outcome.take() {
            Some((status, facts)) => (Some(status.as_u16()), facts),
            None => (None, Facts::default()),
        };
        tracing::info!(
            target: "hostler::access",
            method = %self.method,
            route = facts.target.as_deref().map_or("-", Target::template),
            operation = facts
                .operation
                .as_deref()
                .or_else(|| facts.target.as_deref().and_then(Target::operation)),
            status,
            gone = status.is_none().then_some(true),
            ms = (self.began.elapsed().as_secs_f64() * 1e4).round() / 10.0,
            request_id = %self.id,
            subject = facts.identity.as_ref().map(Identity::subject),
            door = self.connection.as_ref().map(|c| tracing::field::display(c.local())),
            remote = self.connection.as_ref().map(|c| tracing::field::display(c.remote())),
            "request"
        );
    }
}
