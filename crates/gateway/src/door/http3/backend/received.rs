//! What is read of a stream.

use std::mem::MaybeUninit;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h3::quic::{self, StreamErrorIncoming, StreamId};
use quinn::ReadError;
use tokio::io::ReadBuf;

use super::{id, lost, number};

/// How much is read in one go, in bytes: at first, which does for most requests, and of a stream that
/// had more.
const CHUNK: (usize, usize) = (1 << 10, 16 << 10);

/// How a stream began: bytes that were read of it already, at most a varint.
#[derive(Default)]
pub(in crate::door::http3) struct Beginning {
    bytes: [u8; 8],
    length: usize,
}

impl Beginning {
    /// At most eight bytes.
    pub(in crate::door::http3) fn new(read: &[u8]) -> Self {
        let (mut bytes, length) = ([0; 8], read.len());
        bytes[..length].copy_from_slice(read);
        Self { bytes, length }
    }

    pub(in crate::door::http3) fn as_slice(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

/// The half that the peer writes.
pub(in crate::door::http3) struct Received {
    stream: quinn::RecvStream,
    /// What was read of it before.
    first: Beginning,
    /// Where the next bytes are put, once there was a need for it.
    buffer: Vec<u8>,
}

impl Received {
    pub(in crate::door::http3) fn new(stream: quinn::RecvStream, first: Beginning) -> Self {
        Self {
            stream,
            first,
            buffer: Vec::new(),
        }
    }

    /// How it began, and what is there of the rest.
    fn poll_first(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, ReadError>> {
        let mut room = [const { MaybeUninit::uninit() }; CHUNK.0];
        let mut buffer = ReadBuf::uninit(&mut room);
        let first = std::mem::take(&mut self.first);
        buffer.put_slice(first.as_slice());
        match self.stream.poll_read_buf(cx, &mut buffer) {
            Poll::Pending if buffer.filled().is_empty() => return Poll::Pending,
            Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
            Poll::Pending | Poll::Ready(Ok(())) => {}
        }
        if buffer.remaining() == 0 {
            self.buffer.resize(CHUNK.1, 0);
        }
        let filled = buffer.filled();
        let data = (!filled.is_empty()).then(|| Bytes::copy_from_slice(filled));
        Poll::Ready(Ok(data))
    }
}

impl quic::RecvStream for Received {
    type Buf = Bytes;

    fn poll_data(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Option<Bytes>, StreamErrorIncoming>> {
        if self.buffer.is_empty() {
            return self.poll_first(cx).map_err(read_error);
        }
        let read = ready!(self.stream.poll_read(cx, &mut self.buffer)).map_err(read_error)?;
        let data = (read > 0).then(|| Bytes::copy_from_slice(&self.buffer[..read]));
        Poll::Ready(Ok(data))
    }

    fn stop_sending(&mut self, error_code: u64) {
        // It may be over already.
        let _ = self.stream.stop(number(error_code));
    }

    fn recv_id(&self) -> StreamId {
        id(self.stream.id())
    }
}

fn read_error(error: ReadError) -> StreamErrorIncoming {
    match error {
        ReadError::Reset(code) => StreamErrorIncoming::StreamTerminated {
            error_code: code.into_inner(),
        },
        ReadError::ConnectionLost(error) => lost(error),
        error => StreamErrorIncoming::Unknown(Box::new(error)),
    }
}
