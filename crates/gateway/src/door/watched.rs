//! The socket and the answers' bodies, telling the ledger what happens to them.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};

use axum::body::Body;
use bytes::Bytes;
use http_body::{Frame, SizeHint};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

use super::clock::Clock;
use super::ledger::{Ledger, Patience};

/// A connection's ledger, and the clock by which it is kept. Whatever tells it something runs
/// [`during`](Clock::during) that clock.
pub(super) struct Watch {
    pub(super) ledger: Ledger,
    pub(super) clock: Clock,
    /// The [stamp](Clock::stamp) of the last bytes that came in.
    heard: AtomicU64,
}

impl Watch {
    pub(super) fn new(patience: Patience) -> Arc<Self> {
        let clock = Clock::new();
        let ledger = Ledger::new(patience, clock.now());
        Arc::new(Self {
            ledger,
            clock,
            heard: AtomicU64::new(0),
        })
    }

    /// When bytes came in last.
    pub(super) fn heard(&self) -> Instant {
        self.clock.at(self.heard.load(Ordering::Relaxed))
    }
}

/// A stream that tells when bytes come in and when it takes no more.
pub(super) struct WatchedStream<S> {
    stream: S,
    watch: Arc<Watch>,
}

impl<S> WatchedStream<S> {
    pub(super) fn new(stream: S, watch: Arc<Watch>) -> Self {
        Self { stream, watch }
    }

    fn told<T>(&self, written: Poll<T>) -> Poll<T> {
        let Watch { ledger, clock, .. } = &*self.watch;
        ledger.stuck(written.is_pending(), || clock.now());
        written
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for WatchedStream<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buffer);
        if buffer.filled().len() > before {
            let Watch {
                ledger,
                clock,
                heard,
            } = &*self.watch;
            heard.store(clock.stamp(), Ordering::Relaxed);
            ledger.read(clock.now());
        }
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for WatchedStream<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.told(written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, bytes);
        self.told(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(cx);
        self.told(flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let shut = Pin::new(&mut self.stream).poll_shutdown(cx);
        self.told(shut)
    }
}

/// One request under way; dropping it says that it is done.
pub(super) struct Exchange {
    watch: Arc<Watch>,
    request: u64,
}

impl Exchange {
    pub(super) fn begin(watch: &Arc<Watch>) -> Self {
        Self {
            watch: Arc::clone(watch),
            request: watch.ledger.begin(),
        }
    }

    /// Begins one whose answer is there already.
    pub(super) fn answered(watch: Arc<Watch>) -> Self {
        let Watch { ledger, clock, .. } = &*watch;
        let request = ledger.begin_to_write(clock.now());
        Self { watch, request }
    }

    /// Its answer begins, or another piece of its stream was asked for.
    pub(super) fn write(&self) {
        let Watch { ledger, clock, .. } = &*self.watch;
        ledger.write(self.request, clock.now());
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        let Watch { ledger, clock, .. } = &*self.watch;
        ledger.end(self.request, clock.now());
    }
}

/// An answer's body, handed out in pieces. Whoever sends it keeps it until the peer has room for the last
/// one: until then the answer counts as being written.
///
/// A stream without a known end may take as long as it likes, as long as it is asked for its next
/// piece.
pub(super) struct WatchedBody {
    body: Body,
    /// What is left of a piece that was too large.
    rest: Bytes,
    /// `None` while nobody waits for the answer to be taken.
    exchange: Option<Exchange>,
    is_stream: bool,
}

/// The largest piece, in bytes: one write to a socket, one window of HTTP/2.
pub(super) const PIECE_BYTES: usize = 64 << 10;

impl WatchedBody {
    /// Of an exchange whose answer is being [written](Exchange::write).
    pub(super) fn new(body: Body, exchange: impl Into<Option<Exchange>>, is_stream: bool) -> Self {
        Self {
            body,
            rest: Bytes::new(),
            exchange: exchange.into(),
            is_stream,
        }
    }

    /// It is not sent with the first look: from now on it is being written.
    pub(super) fn is_written(&mut self, watch: &Arc<Watch>) {
        let answered = || Exchange::answered(Arc::clone(watch));
        self.exchange.get_or_insert_with(answered);
    }

    fn piece(&mut self, mut data: Bytes) -> Frame<Bytes> {
        let piece = data.split_to(PIECE_BYTES.min(data.len()));
        self.rest = data;
        Frame::data(piece)
    }
}

impl http_body::Body for WatchedBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        if self.is_stream
            && let Some(exchange) = &self.exchange
        {
            exchange.write();
        }
        let rest = std::mem::take(&mut self.rest);
        if !rest.is_empty() {
            return Poll::Ready(Some(Ok(self.piece(rest))));
        }
        let frame = match ready!(Pin::new(&mut self.body).poll_frame(cx)) {
            Some(Ok(frame)) => frame,
            end => return Poll::Ready(end),
        };
        let frame = frame
            .into_data()
            .map_or_else(|trailers| trailers, |data| self.piece(data));
        Poll::Ready(Some(Ok(frame)))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let mut hint = self.body.size_hint();
        let rest = self.rest.len() as u64;
        if let Some(upper) = hint.upper() {
            hint.set_upper(upper + rest);
        }
        hint.set_lower(hint.lower() + rest);
        hint
    }
}
