//! HTTP/2 on a stream of bytes (RFC 9113): each request goes to what answers over HTTP/1.1 too.
//!
//! The protocol is the library's; how requests become answers is here. A connection is one task, also
//! for its streams: whatever has come in is taken first, then all of it is asked for its answer, and
//! what is answered is written in one go. Long work has tasks of its own elsewhere: an operation that
//! waits for something runs in one.

mod answering;
mod body;

use std::collections::VecDeque;
use std::future::poll_fn;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::{FuturesUnordered, StreamExt as _};
use h2::server::{Builder, Handshake, SendResponse};
use h2::{Ping, PingPong, RecvStream};
use http::Request;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep_until};

use super::date;
use super::serve::{ConnectionService, Served};
use super::watched::{Watch, WatchedStream};
use crate::limits::DoorLimits;

/// What a peer may send of the bodies on one connection, and on each of its streams, before somebody
/// reads it, in bytes. The protocol's own number, 64 KiB, is slow on a long way.
const WINDOW: u32 = 1 << 20;

/// Streams that the library itself had to reset because of what the peer did; more than these end the
/// connection.
const ERRORS: usize = 1024;

/// So many requests are taken before they are asked for their answers. A peer that begins and resets
/// streams as fast as it can would otherwise have them pile up for as long as there is something to read.
const AT_ONCE: usize = 128;

/// For so many it keeps the room.
const KEPT: usize = 16;

/// How long a connection goes on with what its peer asked before others of its thread have their turn,
/// and after how many requests it is looked how long that was.
const TURN: Duration = Duration::from_millis(5);
const BETWEEN_LOOKS: usize = 4;

type Accepted = (Request<RecvStream>, SendResponse<Bytes>);

/// A connection, to be polled to its end.
pub(super) struct Http2<S> {
    stage: Stage<S>,
    service: ConnectionService,
    /// Taken and not asked yet.
    taken: VecDeque<Accepted>,
    /// The streams that had no whole answer at the first look.
    waiting: FuturesUnordered<BoxFuture<'static, ()>>,
    leaving: bool,
}

enum Stage<S> {
    Handshake(
        Handshake<WatchedStream<S>, Bytes>,
        Option<oneshot::Sender<PingPong>>,
    ),
    Open(h2::server::Connection<WatchedStream<S>, Bytes>),
}

impl<S: AsyncRead + AsyncWrite + Unpin> Http2<S> {
    /// Begins a connection. Beside it is what resolves when its peer no longer [answers](silence).
    pub(super) fn new(
        stream: WatchedStream<S>,
        service: ConnectionService,
        limits: &DoorLimits,
    ) -> (Self, impl Future<Output = ()> + Send + 'static) {
        let handshake = Builder::new()
            .initial_window_size(WINDOW)
            .initial_connection_window_size(WINDOW)
            .max_concurrent_streams(limits.streams)
            .max_pending_accept_reset_streams(limits.reset_streams)
            .max_local_error_reset_streams(Some(ERRORS))
            .max_header_list_size(u32::try_from(limits.head_bytes).unwrap_or(u32::MAX))
            .handshake(stream);
        let (pings, opened) = oneshot::channel();
        let silence = silence(opened, Arc::clone(&service.watch), limits.ping_interval);
        let connection = Self {
            stage: Stage::Handshake(handshake, Some(pings)),
            service,
            taken: VecDeque::new(),
            waiting: FuturesUnordered::new(),
            leaving: false,
        };
        (connection, silence)
    }

    /// Asks for the answers to what was taken, until this turn is over.
    fn answer_taken(&mut self, turn: Instant, cx: &mut Context<'_>) {
        let (date, watch) = (date::now(), &self.service.watch);
        while let Some((request, respond)) = self.taken.pop_front() {
            // A handler that panics ends its stream. The panic hook has logged it.
            let first_look = || answering::begin(&self.service, request, respond, &date, cx);
            if let Ok(Some(waiting)) = catch_unwind(AssertUnwindSafe(first_look)) {
                self.waiting.push(waiting);
            }
            if self.taken.len().is_multiple_of(BETWEEN_LOOKS) && watch.clock.look() > turn {
                break;
            }
        }
        // A connection that was asked much once does not keep the room for it.
        self.taken.shrink_to(KEPT);
        watch.ledger.served(watch.clock.now());
    }
}

/// Asks a peer of which nothing was heard for this long whether it still lives. It has as long again to
/// say something, whatever it is: the answer itself may stand behind much that the peer takes slowly.
async fn silence(opened: oneshot::Receiver<PingPong>, watch: Arc<Watch>, interval: Duration) {
    let Ok(mut pings) = opened.await else {
        return std::future::pending().await;
    };
    loop {
        let heard = watch.heard();
        sleep_until(heard + interval).await;
        if watch.heard() > heard {
            continue;
        }
        let asked = Instant::now();
        let mut pong = pings.send_ping(Ping::opaque()).map(|()| None);
        while let Ok(None) = pong {
            let heard = watch.heard();
            tokio::select! {
                came = poll_fn(|cx| pings.poll_pong(cx)) => pong = came.map(Some),
                () = sleep_until(heard.max(asked) + interval) => if watch.heard() == heard {
                    return;
                },
            }
        }
        if pong.is_err() {
            // The connection has ended, and says so itself.
            return std::future::pending().await;
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Future for Http2<S> {
    type Output = Result<(), h2::Error>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        let connection = loop {
            match &mut this.stage {
                Stage::Open(connection) => break connection,
                Stage::Handshake(handshake, pings) => {
                    if this.leaving {
                        return Poll::Ready(Ok(())); // Nothing was asked.
                    }
                    let mut connection = ready!(Pin::new(handshake).poll(cx))?;
                    if let Some((waiting, pings)) = pings.take().zip(connection.ping_pong()) {
                        // Nobody waits when the connection is not driven any more.
                        let _ = waiting.send(pings);
                    }
                    this.stage = Stage::Open(connection);
                }
            }
        };
        let watch = &this.service.watch;
        let turn = watch.clock.now() + TURN;
        // First those whose answer has come since: it is written with what follows.
        while let Poll::Ready(Some(())) = this.waiting.poll_next_unpin(cx) {
            if watch.clock.look() > turn {
                cx.waker().wake_by_ref();
                break;
            }
        }
        // Taking also reads and writes. An answer that is given between two of them would be written alone.
        while this.taken.len() < AT_ONCE {
            match connection.poll_accept(cx) {
                Poll::Ready(Some(Ok(accepted))) => this.taken.push_back(accepted),
                Poll::Ready(Some(Err(error))) => return Poll::Ready(Err(error)),
                Poll::Ready(None) => return Poll::Ready(Ok(())),
                Poll::Pending => break,
            }
        }
        if this.taken.is_empty() {
            return Poll::Pending;
        }
        this.answer_taken(turn, cx);
        // The answers are written when those connections have had their turn that have something to say
        // too: written at once, each would wake its reader by itself.
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Served for Http2<S> {
    type Error = h2::Error;

    fn leave(mut self: Pin<&mut Self>) {
        self.leaving = true;
        if let Stage::Open(connection) = &mut self.stage {
            connection.graceful_shutdown();
        }
    }
}
