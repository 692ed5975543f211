//! The body of a request of HTTP/3.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, Bytes};
use h3::error::StreamError;
use http::HeaderMap;
use http_body::{Frame, SizeHint};

use super::Receiver;
use crate::body::announced;

/// A request's body as it comes in. It is as long as it said it would be, or it is broken.
pub(super) struct ReceivedBody {
    receiver: Receiver,
    announced: Option<u64>,
    received: u64,
    ended: bool,
}

#[derive(Debug, thiserror::Error)]
pub(super) enum ReceivedError {
    #[error(transparent)]
    Stream(#[from] StreamError),
    #[error("the body is not as long as its content-length says")]
    Length,
}

impl ReceivedBody {
    pub(super) fn new(receiver: Receiver, headers: &HeaderMap) -> Self {
        Self {
            receiver,
            announced: announced(headers),
            received: 0,
            ended: false,
        }
    }
}

impl http_body::Body for ReceivedBody {
    type Data = Bytes;
    type Error = ReceivedError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, ReceivedError>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        let data = match ready!(self.receiver.poll_recv_data(cx)) {
            Ok(data) => data.map(|mut data| data.copy_to_bytes(data.remaining())),
            Err(error) => {
                self.ended = true;
                return Poll::Ready(Some(Err(error.into())));
            }
        };
        self.ended = data.is_none();
        self.received += data.as_ref().map_or(0, |data| data.len() as u64);
        let fits = |announced| match self.ended {
            true => self.received == announced,
            false => self.received <= announced,
        };
        if !self.announced.is_none_or(fits) {
            self.ended = true;
            return Poll::Ready(Some(Err(ReceivedError::Length)));
        }
        Poll::Ready(data.map(|data| Ok(Frame::data(data))))
    }

    fn is_end_stream(&self) -> bool {
        self.ended
    }

    fn size_hint(&self) -> SizeHint {
        let mut hint = SizeHint::new();
        if let Some(announced) = self.announced {
            hint.set_lower(announced.saturating_sub(self.received));
        }
        hint
    }
}
