//! The API itself: requests go to its address alone, with its credential, and what comes back has
//! the credential taken out.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::stream::BoxStream;
use hostler_operations::{CallError, ErrorCode, ErrorSpec, weight};
use http::Response;
use http::header::{HeaderName, HeaderValue};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use rustls::ClientConfig;
use serde_json::Value;
use url::Url;

use super::events::outputs;
use super::failure::failure;
use super::media::{is_events, is_json, is_plain, media_type};
use super::operation::Plan;
use super::redact::Redaction;
use super::request::request;
use super::{ImportError, Secret};
use crate::budget::{Budget, Share};

/// The API does not answer, or not with what can be read.
const UNAVAILABLE: ErrorCode = ErrorCode::declared("UPSTREAM_UNAVAILABLE", 502).retryable();

/// The largest answer, in bytes.
const MAX_ANSWER: usize = 16 << 20;
/// The most memory that an answer may take once it is read, in bytes.
const MAX_WEIGHT: usize = 4 * MAX_ANSWER;
/// The largest answer that is an error, in bytes; of a larger one only the status is told.
const MAX_ERROR: usize = 64 << 10;
/// The most that is read of answers at once, over all calls, in bytes.
const MAX_AT_ONCE: usize = 128 << 20;
/// How long an answer, or the beginning of a stream, may take.
const PATIENCE: Duration = Duration::from_secs(25);

/// An API that is called with a credential of its own.
pub struct Upstream {
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    base: String,
    /// The header that is the credential.
    secret: Option<(HeaderName, HeaderValue)>,
    redaction: Arc<Redaction>,
    budget: Budget,
}

pub(super) fn unavailable_spec() -> ErrorSpec {
    ErrorSpec {
        code: UNAVAILABLE,
        description: "The API behind this does not answer as it should.".to_owned(),
        details: None,
    }
}

pub(super) fn unavailable(what: impl Into<String>) -> CallError {
    CallError::new(UNAVAILABLE, what)
}

impl Upstream {
    pub(super) fn new(tls: ClientConfig, base: &Url, secret: Secret) -> Result<Self, ImportError> {
        if !base.username().is_empty() || base.password().is_some() {
            let why = "a user in it is not sent; give the credential by itself";
            return Err(ImportError::BaseUrl(why.to_owned()));
        }
        let mut base = base.clone();
        base.set_query(None);
        base.set_fragment(None);
        let connector = HttpsConnectorBuilder::new()
            .with_tls_config(tls)
            .https_or_http()
            .enable_http1()
            .enable_http2()
            .build();
        Ok(Self {
            client: Client::builder(TokioExecutor::new()).build(connector),
            base: base.as_str().trim_end_matches('/').to_owned(),
            secret: secret.header,
            redaction: Arc::new(secret.redaction),
            budget: Budget::new(MAX_AT_ONCE),
        })
    }

    /// Where it is. Nothing in it is secret: a user or a password in it is refused, and its query is
    /// not used.
    pub fn base_url(&self) -> &str {
        &self.base
    }

    pub(super) async fn call(&self, plan: &Plan, input: Value) -> Result<Value, CallError> {
        let answering = async {
            let response = self.send(plan, &input).await?;
            let (head, body) = response.into_parts();
            let mut share = self.budget.share();
            let bytes = whole(body, MAX_ANSWER, &mut share).await?;
            let is_json = media_type(&head.headers).is_some_and(is_json);
            self.value(&bytes, is_json)
        };
        soon(answering).await
    }

    pub(super) async fn subscribe(
        &self,
        plan: &Plan,
        input: Value,
    ) -> Result<BoxStream<'static, Result<Value, CallError>>, CallError> {
        let response = soon(self.send(plan, &input)).await?;
        let kind = media_type(response.headers());
        if !kind.is_some_and(is_events) {
            return Err(unavailable(
                "the API behind this answered with no stream of events",
            ));
        }
        let redaction = Arc::clone(&self.redaction);
        Ok(outputs(response.into_body(), redaction))
    }

    /// Sends a request; what is no success is an error.
    async fn send(&self, plan: &Plan, input: &Value) -> Result<Response<Incoming>, CallError> {
        let mut request = request(plan, &self.base, input)?;
        if let Some((name, value)) = &self.secret {
            request.headers_mut().insert(name.clone(), value.clone());
        }
        let response = self.client.request(request).await;
        let response = response.map_err(|error| {
            tracing::warn!(base = self.base, %error, "an attached API is not reached");
            unavailable("the API behind this is not reached; try again")
        })?;
        let status = response.status();
        let is_plain = is_plain(response.headers());
        if status.is_success() {
            return match is_plain {
                true => Ok(response),
                false => Err(unavailable(
                    "the API behind this answered with a content-encoding, which is not read",
                )),
            };
        }
        // Redirects are not followed: the credential is for one address.
        let (head, body) = response.into_parts();
        let mut share = self.budget.share();
        let said = match whole(body, MAX_ERROR, &mut share).await {
            Ok(bytes) if is_plain => {
                self.value(&bytes, media_type(&head.headers).is_some_and(is_json))
            }
            _ => Ok(Value::Null),
        };
        Err(failure(&head, said.unwrap_or(Value::Null)))
    }

    /// What an answer says, as JSON or as text, without the credential.
    fn value(&self, bytes: &[u8], is_json: bool) -> Result<Value, CallError> {
        if bytes.is_empty() {
            return Ok(Value::Null);
        }
        let value = match is_json {
            true => serde_json::from_slice(bytes).map_err(|_| {
                unavailable("what the API behind this answered is not the JSON that it says it is")
            })?,
            false => Value::String(String::from_utf8_lossy(bytes).into_owned()),
        };
        Ok(self.redaction.clean(value))
    }
}

impl fmt::Debug for Upstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Upstream")
            .field("base", &self.base)
            .finish_non_exhaustive()
    }
}

async fn soon<T>(work: impl Future<Output = Result<T, CallError>>) -> Result<T, CallError> {
    let answered = tokio::time::timeout(PATIENCE, work).await;
    answered.unwrap_or_else(|_| Err(unavailable("the API behind this takes too long; try again")))
}

/// All of an answer, if it is no larger than this.
async fn whole(
    mut body: Incoming,
    limit: usize,
    share: &mut Share<'_>,
) -> Result<BytesMut, CallError> {
    let mut bytes = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let frame = frame
            .map_err(|_| unavailable("the API behind this broke its answer off; try again"))?;
        let Ok(data) = frame.into_data() else {
            continue;
        };
        if bytes.len() + data.len() > limit {
            let told = format!("the API behind this answered with more than {limit} bytes");
            return Err(unavailable(told));
        }
        share
            .grow(data.len())
            .map_err(|_| unavailable("too many large answers at once; try again"))?;
        bytes.extend_from_slice(&data);
    }
    match weight(&bytes) > MAX_WEIGHT {
        true => Err(unavailable(
            "the API behind this answered with too many values",
        )),
        false => Ok(bytes),
    }
}
