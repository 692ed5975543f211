//! The streams of an HTTP/2 connection, run by the connection's own task.
//!
//! A task for each would write its answer as soon as it has one, in a packet of its own. Together
//! they are asked first, and what they have answered is written at once. Long work has tasks of its
//! own elsewhere: an operation that waits for something runs in one.

use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use futures::future::{BoxFuture, FutureExt as _};
use futures::stream::{FuturesUnordered, Stream as _};
use hyper::rt::Executor;

/// Where a connection puts its streams.
#[derive(Clone, Default)]
pub(super) struct Streams(Arc<Mutex<Begun>>);

type Begun = Vec<BoxFuture<'static, ()>>;

impl Streams {
    fn begun(&self) -> MutexGuard<'_, Begun> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs them for as long as it is polled. Nothing wakes it for a new one: a connection begins
    /// its streams when it is polled, and this is to be polled after it, in the same task.
    pub(super) fn run(&self) -> Running {
        Running {
            begun: self.clone(),
            starting: Vec::new(),
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
        self.begun().push(stream);
    }
}

/// A future that never ends, and drops the streams with itself.
pub(super) struct Running {
    begun: Streams,
    /// Empty between two polls; it keeps its room.
    starting: Begun,
    streams: FuturesUnordered<BoxFuture<'static, ()>>,
}

impl Drop for Running {
    /// A stream keeps where it was put, for a connection that may be handed over, and with that itself:
    /// those that were begun in the connection's last moment go here or never.
    fn drop(&mut self) {
        let left = std::mem::take(&mut *self.begun.begun());
        drop(left); // What it drops may come back here; not under the lock.
    }
}

impl Future for Running {
    type Output = std::convert::Infallible;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        loop {
            std::mem::swap(&mut *this.begun.begun(), &mut this.starting);
            if this.starting.is_empty() {
                break;
            }
            for mut stream in this.starting.drain(..) {
                // Most are done at once. One that is not is polled again among the others, which
                // wake for themselves.
                if stream.as_mut().poll(cx).is_pending() {
                    this.streams.push(stream);
                }
            }
        }
        while let Poll::Ready(Some(())) = Pin::new(&mut this.streams).poll_next(cx) {}
        // What runs may begin others: a connection that was handed over.
        if !this.begun.begun().is_empty() {
            cx.waker().wake_by_ref();
        }
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_that_nobody_ran_goes_with_the_connection() {
        let streams = Streams::default();
        let running = streams.run();
        let kept = Arc::new(());
        let seen = Arc::downgrade(&kept);
        // As hyper's do, it holds where it was put.
        let held = (streams.clone(), kept);
        streams.execute(async move { drop(held) });
        drop(running);
        assert_eq!(seen.strong_count(), 0);
        drop(streams);
    }
}
