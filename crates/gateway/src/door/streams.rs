//! The streams of an HTTP/2 connection, run by the connection's own task.
//!
//! A task for each would write its answer as soon as it has one, in a packet of its own. Together
//! they are asked first, and what they have answered is written at once. Long work has tasks of its
//! own elsewhere: an operation that waits for something runs in one.

use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use futures::future::{BoxFuture, FutureExt as _};
use futures::stream::{FuturesUnordered, Stream as _};
use hyper::rt::Executor;

/// Where a connection puts its streams.
#[derive(Clone, Default)]
pub(super) struct Streams(Arc<Mutex<Begun>>);

#[derive(Default)]
struct Begun {
    streams: Vec<BoxFuture<'static, ()>>,
    /// Wakes who runs them.
    waker: Option<Waker>,
}

impl Streams {
    fn begun(&self) -> MutexGuard<'_, Begun> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs them for as long as it is polled.
    pub(super) fn run(&self) -> Running {
        Running {
            begun: self.clone(),
            streams: FuturesUnordered::new(),
        }
    }
}

impl<F> Executor<F> for Streams
where
    F: Future<Output: Send> + Send + 'static,
{
    fn execute(&self, stream: F) {
        // A handler that panics ends its stream. The panic hook has logged it.
        let stream = AssertUnwindSafe(stream).catch_unwind().map(drop).boxed();
        let mut begun = self.begun();
        begun.streams.push(stream);
        let waker = begun.waker.take();
        drop(begun);
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

/// A future that never ends, and drops the streams with itself.
pub(super) struct Running {
    begun: Streams,
    streams: FuturesUnordered<BoxFuture<'static, ()>>,
}

impl Future for Running {
    type Output = std::convert::Infallible;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let begun = std::mem::take(&mut self.begun.begun().streams);
        self.streams.extend(begun);
        while let Poll::Ready(Some(())) = Pin::new(&mut self.streams).poll_next(cx) {}
        let mut begun = self.begun.begun();
        begun.waker = Some(cx.waker().clone());
        if !begun.streams.is_empty() {
            cx.waker().wake_by_ref();
        }
        drop(begun);
        Poll::Pending
    }
}
