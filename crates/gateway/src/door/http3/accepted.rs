//! Who has left a stream of theirs. The library does not tell before something is written to it, and
//! a stream of events may be silent for long.

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use quinn::{SendStream, StoppedError, VarInt};

type Stopped = Pin<Box<dyn Future<Output = Result<Option<VarInt>, StoppedError>> + Send>>;

/// Whether the peer has left the stream that the library was handed last. What the library makes of a
/// stream does not tell, so it goes beside the library, by way of this.
#[derive(Clone, Default)]
pub(super) struct Leaver(Arc<Mutex<Option<Stopped>>>);

impl Leaver {
    fn last(&self) -> MutexGuard<'_, Option<Stopped>> {
        // Every change is whole before anything can panic.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The library is about to be handed this stream.
    pub(super) fn may_leave(&self, stream: &SendStream) {
        *self.last() = Some(Box::pin(stream.stopped()));
    }

    /// Resolves when the peer wants nothing more of the stream that was handed over last (STOP_SENDING,
    /// RFC 9000, section 3.5).
    pub(super) fn left(&self) -> impl Future<Output = ()> + Send + use<> {
        let stopped = self.last().take();
        async move {
            let left = match stopped {
                Some(stopped) => matches!(stopped.await, Ok(Some(_))),
                None => false,
            };
            if !left {
                std::future::pending().await
            }
        }
    }
}
