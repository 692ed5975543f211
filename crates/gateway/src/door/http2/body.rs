//! The body of a request of HTTP/2.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::{Reason, RecvStream};
use http::header::{CONTENT_LENGTH, HeaderMap};
use http_body::{Frame, SizeHint};

/// A request's body as it comes in. The library sees to it that it is as long as it said it would be.
pub(super) struct ReceivedBody {
    stream: RecvStream,
    announced: Option<u64>,
    received: u64,
    ended: bool,
}

impl ReceivedBody {
    pub(super) fn new(stream: RecvStream, headers: &HeaderMap) -> Self {
        let announced = headers
            .get(CONTENT_LENGTH)
            .and_then(|length| length.to_str().ok()?.parse().ok());
        Self {
            stream,
            announced,
            received: 0,
            ended: false,
        }
    }

    /// What a piece that has come, or broke, comes to.
    fn ends(&mut self, error: h2::Error) -> Option<Result<Frame<Bytes>, h2::Error>> {
        self.ended = true;
        // A peer that needs nothing more of its request sent says so in this way.
        (error.reason() != Some(Reason::NO_ERROR)).then_some(Err(error))
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
            Some(Err(error)) => Poll::Ready(self.ends(error)),
            None => match ready!(self.stream.poll_trailers(cx)) {
                Ok(trailers) => {
                    self.ended = true;
                    Poll::Ready(trailers.map(|trailers| Ok(Frame::trailers(trailers))))
                }
                Err(error) => Poll::Ready(self.ends(error)),
            },
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
