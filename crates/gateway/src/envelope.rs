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
use http::header::{CONTENT_LENGTH, HeaderMap, HeaderName, HeaderValue, TRANSFER_ENCODING};
use http::{Method, StatusCode};
use tracing::Level;

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
    let connection = request.extensions().get().cloned();
    let envelope = Envelope::new(request.method(), request.headers(), connection);
    let response = match rates.turn_away(envelope.connection()) {
        Some(refusal) => refusal,
        None => next.run(request).await,
    };
    envelope.seal(response, Facts::default())
}

/// One request's, from its beginning to its end. Its line in the access log is written when it is
/// dropped: a request whose client went away has one too.
pub(crate) struct Envelope {
    /// Not looked at when nobody keeps such lines.
    began: Option<Instant>,
    method: Method,
    id: RequestId,
    connection: Option<ConnectionInfo>,
    outcome: Option<(StatusCode, Facts)>,
}

impl Envelope {
    /// Opens it for a request.
    pub(crate) fn new(
        method: &Method,
        headers: &HeaderMap,
        connection: Option<ConnectionInfo>,
    ) -> Self {
        let id = headers
            .get(X_REQUEST_ID)
            .and_then(|value| RequestId::from_caller(value.to_str().ok()?))
            .unwrap_or_else(RequestId::generate);
        let logs = tracing::enabled!(target: "hostler::access", Level::INFO);
        Self {
            began: logs.then(Instant::now),
            method: method.clone(),
            id,
            connection,
            outcome: None,
        }
    }

    /// The request's id.
    pub(crate) fn id(&self) -> &RequestId {
        &self.id
    }

    /// The connection that brought the request.
    pub(crate) fn connection(&self) -> Option<&ConnectionInfo> {
        self.connection.as_ref()
    }

    /// Puts the answer in.
    pub(crate) fn seal(mut self, mut response: Response, facts: Facts) -> Response {
        self.outcome = Some((response.status(), facts));
        // Every sane id is a header's value; see RequestId.
        if let Ok(mut value) = HeaderValue::from_str(self.id.as_str()) {
            // It never comes again, so no table of HTTP/2's shall keep it (RFC 7541, section 7.1.3).
            value.set_sensitive(true);
            response.headers_mut().insert(X_REQUEST_ID, value);
        }
        if self.method == Method::HEAD {
            without_body(response)
        } else {
            response
        }
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

impl Drop for Envelope {
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
            ms = self.began.map(|began| (began.elapsed().as_secs_f64() * 1e4).round() / 10.0),
            request_id = %self.id,
            subject = facts.identity.as_ref().map(Identity::subject),
            door = self.connection.as_ref().map(|c| tracing::field::display(c.local())),
            remote = self.connection.as_ref().map(|c| tracing::field::display(c.remote())),
            "request"
        );
    }
}
