//! An answer that is read while it is being written.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::body::Incoming;

use super::error::ClientError;

/// The body of an answer, piece by piece. Dropping it ends the exchange: over HTTP/2 the request
/// is reset, over HTTP/1.1 the connection is closed.
#[derive(Debug)]
pub struct Streaming {
    target: String,
    body: Incoming,
}

impl Streaming {
    pub(super) fn new(target: String, body: Incoming) -> Self {
        Self { target, body }
    }

    /// The next piece; `None` at the end. A server that is silent for longer than `silence` is
    /// given up.
    ///
    /// # Errors
    /// When the connection breaks or the server falls silent; there is no more to read then.
    pub async fn next(&mut self, silence: Duration) -> Result<Option<Bytes>, ClientError> {
        loop {
            let frame = tokio::time::timeout(silence, self.body.frame()).await;
            let frame = frame.map_err(|_| ClientError::Timeout {
                target: self.target.clone(),
                after: silence,
            })?;
            let Some(frame) = frame else {
                return Ok(None);
            };
            let frame = frame.map_err(|error| ClientError::Exchange {
                target: self.target.clone(),
                source: Box::new(error),
            })?;
            if let Ok(data) = frame.into_data() {
                return Ok(Some(data));
            }
        }
    }

    /// All of it, up to `limit` bytes: for answers that turned out to be no streams.
    ///
    /// # Errors
    /// As [`Streaming::next`], and when there is more than that.
    pub async fn rest(mut self, limit: usize, silence: Duration) -> Result<Bytes, ClientError> {
        let mut all = BytesMut::new();
        while let Some(piece) = self.next(silence).await? {
            if all.len() + piece.len() > limit {
                return Err(ClientError::TooLarge {
                    target: self.target,
                    limit,
                });
            }
            all.extend_from_slice(&piece);
        }
        Ok(all.freeze())
    }
}
