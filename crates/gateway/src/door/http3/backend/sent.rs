//! What is written to a stream.

use std::pin::Pin;
use std::task::{Context, Poll, Waker, ready};

use bytes::{Buf as _, Bytes};
use futures::future::FutureExt as _;
use h3::error::Code;
use h3::quic::{self, StreamErrorIncoming, StreamId, WriteBuf};
use quinn::WriteError;

use super::{id, lost, number};

/// How much of an answer is held back, in bytes, to be written with what comes after it.
const HELD: usize = 4 << 10;

/// A DATA frame without data (RFC 9114, section 7.2.1).
const NO_DATA: &[u8] = &[0, 0];

/// The half that this end writes.
///
/// The library hands over each frame by itself, and each write costs a lock of the connection. So
/// that an answer that is there is written at once, the stream of an answer may hold back what there
/// is of it: until it is too much, until the answer is finished, or until a frame without data asks
/// for it, which itself is not written.
pub(in crate::door::http3) struct Sent {
    stream: quinn::SendStream,
    /// Whether anything is held back.
    holds: bool,
    held: Vec<u8>,
    /// How much of what was held back is written.
    written: usize,
    /// What comes after it.
    writing: Option<WriteBuf<Bytes>>,
    /// What there is is to be written.
    due: bool,
    /// Whose it is to say how it ends.
    end: End,
}

enum End {
    /// Nobody's: nothing has been said.
    Unsaid,
    /// The library's, which has one answer of its own, that a head is too long, and does not finish it.
    Library,
    /// Ours. What is dropped is not whole.
    Ours,
    /// It was said.
    Said,
}

impl Sent {
    pub(super) fn new(stream: quinn::SendStream, holds: bool) -> Self {
        Self {
            stream,
            holds,
            held: Vec::new(),
            written: 0,
            writing: None,
            due: false,
            end: End::Unsaid,
        }
    }

    fn poll_write_out(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), WriteError>> {
        while self.written < self.held.len() {
            let stream = Pin::new(&mut self.stream);
            self.written += ready!(stream.poll_write(cx, &self.held[self.written..]))?;
        }
        self.held.clear();
        self.written = 0;
        while let Some(data) = self.writing.as_mut().filter(|data| data.has_remaining()) {
            let stream = Pin::new(&mut self.stream);
            let written = ready!(stream.poll_write(cx, data.chunk()))?;
            data.advance(written);
        }
        self.writing = None;
        self.due = false;
        Poll::Ready(Ok(()))
    }
}

impl quic::SendStream<Bytes> for Sent {
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), StreamErrorIncoming>> {
        match self.due {
            true => self.poll_write_out(cx).map_err(write_error),
            false => Poll::Ready(Ok(())),
        }
    }

    fn send_data<T: Into<WriteBuf<Bytes>>>(&mut self, data: T) -> Result<(), StreamErrorIncoming> {
        debug_assert!(!self.due, "the library waits until it is ready");
        let mut data = data.into();
        if matches!(self.end, End::Unsaid) {
            self.end = End::Library;
        }
        if self.holds && data.remaining() == NO_DATA.len() && data.chunk() == NO_DATA {
            self.end = End::Ours;
            self.due = true;
        } else if self.holds && self.held.len() + data.remaining() <= HELD {
            self.held.reserve(data.remaining());
            while data.has_remaining() {
                let piece = data.chunk();
                self.held.extend_from_slice(piece);
                data.advance(piece.len());
            }
        } else {
            self.writing = Some(data);
            self.due = true;
        }
        Ok(())
    }

    fn poll_finish(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), StreamErrorIncoming>> {
        ready!(self.poll_write_out(cx)).map_err(write_error)?;
        self.end = End::Said;
        let finished = self.stream.finish();
        Poll::Ready(finished.map_err(|error| StreamErrorIncoming::Unknown(Box::new(error))))
    }

    fn reset(&mut self, reset_code: u64) {
        self.end = End::Said;
        // It may be over already.
        let _ = self.stream.reset(number(reset_code));
    }

    fn send_id(&self) -> StreamId {
        id(self.stream.id())
    }
}

impl Drop for Sent {
    /// Left to itself, a stream that is dropped is finished: half an answer would pass for a whole one, and
    /// none for an empty one.
    fn drop(&mut self) {
        match self.end {
            End::Library => {
                let _ = self.poll_write_out(&mut Context::from_waker(Waker::noop()));
            }
            // Who has left is told so by the stream itself.
            // Only the streams of answers have to say something.
            End::Unsaid if !self.holds => {}
            End::Unsaid | End::Ours
                if !matches!(self.stream.stopped().now_or_never(), Some(Ok(Some(_)))) =>
            {
                let code = Code::H3_INTERNAL_ERROR.value();
                let _ = self.stream.reset(number(code));
            }
            End::Unsaid | End::Ours | End::Said => {}
        }
    }
}

fn write_error(error: WriteError) -> StreamErrorIncoming {
    match error {
        WriteError::Stopped(code) => StreamErrorIncoming::StreamTerminated {
            error_code: code.into_inner(),
        },
        WriteError::ConnectionLost(error) => lost(error),
        error => StreamErrorIncoming::Unknown(Box::new(error)),
    }
}
