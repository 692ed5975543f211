//! Who has left a stream of theirs. The library does not tell before something is written to it, and
//! a stream of events may be silent for long.

use std::collections::HashMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use quinn::{SendStream, StoppedError, VarInt};

type Stopped = Pin<Box<dyn Future<Output = Result<Option<VarInt>, StoppedError>> + Send>>;

/// The streams of a connection that are being answered, by their ids.
#[derive(Clone, Default)]
pub(super) struct Leavers(Arc<Mutex<HashMap<u64, Stopped>>>);

/// Keeps a stream on the list until it is dropped.
pub(super) struct Listed {
    leavers: Leavers,
    id: u64,
}

impl Leavers {
    fn streams(&self) -> MutexGuard<'_, HashMap<u64, Stopped>> {
        // Every change is whole before anything can panic.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn list(&self, stream: &SendStream) -> Listed {
        let id = stream.id().into();
        self.streams().insert(id, Box::pin(stream.stopped()));
        let leavers = self.clone();
        Listed { leavers, id }
    }

    /// Resolves when the peer wants nothing more of this stream (STOP_SENDING, RFC 9000, section
    /// 3.5).
    pub(super) fn left(&self, id: u64) -> impl Future<Output = ()> + Send + use<> {
        let stopped = self.streams().remove(&id);
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

impl Drop for Listed {
    fn drop(&mut self) {
        self.leavers.streams().remove(&self.id);
    }
}
