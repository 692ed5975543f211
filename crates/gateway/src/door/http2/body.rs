//! The body of a request of HTTP/2.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::RecvStream;
use http::HeaderMap;
use http_body::{Frame, SizeHint};

use crate::body::announced;

/// A request's body as it comes in. The library sees to it that one that ends is as long as it said it
/// would be; one that is reset before is broken, whatever the reason.
pub(super) struct ReceivedBody {
    stream: RecvStream,
    announced: Option<u64>,
    received: u64,
    ended: bool,
}

impl ReceivedBody {
    pub(super) fn new(stream: RecvStream, headers: &HeaderMap) -> Self {
        Self {
            stream,
            announced: announced(headers),
            received: 0,
            ended: false,
        }
    }
}

impl http_body::Body for ReceivedBody {
    type Data = Bytes;
    type Error = h2::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, h2::Error>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        match ready!(self.stream.poll_data(cx)) {
            Some(Ok(data)) => {
                // Who asked for this piece has room for the next one. A stream that has ended needs none.
                let _ = self.stream.flow_control().release_capacity(data.len());
                self.received += data.len() as u64;
                Poll::Ready(Some(Ok(Frame::data(data))))
            }
            Some(Err(error)) => {
                self.ended = true;
                Poll::Ready(Some(Err(error)))
            }
            None => {
                let trailers = ready!(self.stream.poll_trailers(cx));
                self.ended = true;
                Poll::Ready(trailers.transpose().map(|frame| frame.map(Frame::trailers)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.ended || self.stream.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let left = |announced: u64| SizeHint::with_exact(announced.saturating_sub(self.received));
        self.announced.map_or_else(SizeHint::new, left)
    }
}
