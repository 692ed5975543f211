//! Reading a request's body: as JSON, up to a size, within a time, and within what all bodies
//! together may take of the memory.

use std::time::Duration;

use axum::body::Body;
use bytes::{Bytes, BytesMut};
use futures::future::{BoxFuture, FutureExt as _};
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, EXPECT, HeaderMap};
use http::request;
use http_body::{Body as _, Frame};
use http_body_util::BodyExt as _;
use serde_json::Value;

use crate::budget::Budget;
use crate::limits::RequestLimits;
use crate::within::within;

/// After an answer that did not wait for the body, at most this much of the rest is still taken
/// in, in bytes, for at most this long.
pub(crate) const LINGER: (usize, Duration) = (8 << 20, Duration::from_secs(5));

/// The same for those who come too often.
pub(crate) const LINGER_A_LITTLE: (usize, Duration) = (64 << 10, Duration::from_secs(1));

/// Why a body is no input.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BodyError {
    #[error("the body is larger than {limit} bytes; send less")]
    TooLarge { limit: usize },
    #[error("the body must be JSON; send content-type: application/json")]
    MediaType,
    #[error("the body is not JSON: {0}")]
    NotJson(serde_json::Error),
    #[error("the body did not arrive within {} s; send it faster", .limit.as_secs())]
    Late { limit: Duration },
    #[error("too many large requests at once; try again")]
    Busy,
    #[error("the body broke off; send the request again")]
    Broken,
    #[error("a GET takes its input from the query string; leave the body out")]
    Unexpected,
}

/// A body of which some may not have been read yet.
pub(crate) struct Incoming {
    body: Body,
    lingers: bool,
}

impl Incoming {
    pub(crate) fn new(body: Body, head: &request::Parts) -> Self {
        // A client that waits for `100 Continue` has sent nothing yet, and learns enough from the
        // answer that comes instead.
        let lingers = !head.headers.contains_key(EXPECT);
        Self { body, lingers }
    }

    /// Reads all of it as JSON. `None` when there is nothing.
    pub(crate) async fn json(
        &mut self,
        headers: &HeaderMap,
        limits: &RequestLimits,
        budget: &Budget,
    ) -> Result<Option<Value>, BodyError> {
        if self.body.is_end_stream() {
            return Ok(None);
        }
        let is_json = is_json(headers);
        if headers.contains_key(CONTENT_TYPE) && !is_json {
            return Err(BodyError::MediaType);
        }
        match self.in_time(limits.body_bytes, limits, budget).await? {
            bytes if bytes.is_empty() => Ok(None),
            _ if !is_json => Err(BodyError::MediaType),
            bytes => serde_json::from_slice(&bytes)
                .map(Some)
                .map_err(BodyError::NotJson),
        }
    }

    /// Makes sure that there is nothing: a client that sends a body where none is read believes
    /// that it said something.
    pub(crate) async fn nothing(
        &mut self,
        limits: &RequestLimits,
        budget: &Budget,
    ) -> Result<(), BodyError> {
        if self.body.is_end_stream() {
            return Ok(());
        }
        match self.in_time(0, limits, budget).await {
            Err(BodyError::TooLarge { .. }) => Err(BodyError::Unexpected),
            read => read.map(drop),
        }
    }

    /// Reads it all. Boxed here, it costs only those who send something; see `Dispatch::reach`.
    fn in_time<'b>(
        &'b mut self,
        most: usize,
        limits: &RequestLimits,
        budget: &'b Budget,
    ) -> BoxFuture<'b, Result<BytesMut, BodyError>> {
        let limit = limits.body_time;
        Box::pin(async move {
            let read = within(limit, self.read(most, budget)).await;
            read.unwrap_or(Err(BodyError::Late { limit }))
        })
    }

    async fn read(&mut self, limit: usize, budget: &Budget) -> Result<BytesMut, BodyError> {
        let too_large = || BodyError::TooLarge { limit };
        // A body that says beforehand that it is too large need not be sent.
        if self.body.size_hint().lower() > limit as u64 {
            return Err(too_large());
        }
        let mut bytes = BytesMut::new();
        let mut share = budget.share();
        while let Some(frame) = self.body.frame().await {
            let Ok(data) = frame.map_err(|_| BodyError::Broken)?.into_data() else {
                continue;
            };
            if bytes.len() + data.len() > limit {
                return Err(too_large());
            }
            share.grow(data.len()).map_err(|_| BodyError::Busy)?;
            bytes.extend_from_slice(&data);
        }
        Ok(bytes)
    }

    /// Takes in a little of what is left unread, beside the answer. Without this the client's
    /// further bytes are met with a reset, of the connection by the kernel or of the stream by
    /// HTTP/2; it can overtake our answer, or make the client forget it, and the client never
    /// reads why it was refused.
    pub(crate) fn linger(mut self, (most, time): (usize, Duration)) {
        if !self.lingers || self.body.is_end_stream() {
            return;
        }
        let mut taken = 0;
        // HTTP/3 does not know that nothing comes before it has looked.
        match self.body.frame().now_or_never() {
            None => {}
            Some(Some(Ok(frame))) => taken += length(&frame),
            Some(_) => return,
        }
        tokio::spawn(tokio::time::timeout(time, async move {
            while taken <= most
                && let Some(Ok(frame)) = self.body.frame().await
            {
                taken += length(&frame);
            }
        }));
    }
}

/// How long a body is, as the head says.
pub(crate) fn announced(headers: &HeaderMap) -> Option<u64> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

fn length(frame: &Frame<Bytes>) -> usize {
    frame.data_ref().map_or(0, Bytes::len)
}

/// `application/json` or `application/*+json` (RFC 6839 section 3.1), with any parameters.
fn is_json(headers: &HeaderMap) -> bool {
    let essence = headers
        .get(CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .map(|value| {
            value
                .split(';')
                .next()
                .unwrap_or(value)
                .trim()
                .to_ascii_lowercase()
        });
    essence.is_some_and(|essence| {
        essence == "application/json"
            || (essence.starts_with("application/") && essence.ends_with("+json"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    #[test]
    fn json_goes_by_several_names() {
        let named = |value: &'static str| {
            is_json(&HeaderMap::from_iter([(
                CONTENT_TYPE,
                HeaderValue::from_static(value),
            )]))
        };
        for json in [
            "application/json",
            "Application/JSON; charset=utf-8",
            "application/x+json",
        ] {
            assert!(named(json), "{json}");
        }
        for other in [
            "text/json",
            "application/jsonp",
            "application/x-www-form-urlencoded",
            "",
        ] {
            assert!(!named(other), "{other}");
        }
        assert!(!is_json(&HeaderMap::new()));
    }
}
