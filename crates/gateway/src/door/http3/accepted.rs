//! What the library is handed of the peer's streams, and what it does not tell of them: that the peer
//! has left one, before something is written to it (and a stream of events may be silent for long);
//! and which requests are the last ones when leave is taken.

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use quinn::{SendStream, StoppedError, VarInt};

type Stopped = Pin<Box<dyn Future<Output = Result<Option<VarInt>, StoppedError>> + Send>>;

/// From the id of a request to that of the next (RFC 9000, section 2.1).
const STEP: u64 = 4;

/// The requests of a connection, beside the library.
#[derive(Clone, Default)]
pub(super) struct Accepted(Arc<Mutex<Log>>);

#[derive(Default)]
struct Log {
    last: Option<u64>,
    /// The lowest id above all.
    end: u64,
    /// Nothing is accepted from the end on.
    is_closed: bool,
    /// Of the last one.
    stopped: Option<Stopped>,
}

impl Accepted {
    fn log(&self) -> MutexGuard<'_, Log> {
        // Every change is whole before anything can panic.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the library may have this stream, which it is to be handed now.
    pub(super) fn admit(&self, stream: &SendStream) -> bool {
        let mut log = self.log();
        let admitted = log.admit(stream.id().into());
        if admitted {
            log.stopped = Some(Box::pin(stream.stopped()));
        }
        admitted
    }

    /// Resolves when the stream that was handed over last is over: the peer wants nothing more of it
    /// (STOP_SENDING, RFC 9000, section 3.5), has all of what was finished, or is gone.
    pub(super) fn over(&self) -> impl Future<Output = ()> + Send + use<> {
        let stopped = self.log().stopped.take();
        async move {
            match stopped {
                Some(stopped) => drop(stopped.await),
                None => std::future::pending().await,
            }
        }
    }

    /// Accepts nothing that is later than what was. How many requests there are from the last one on to
    /// the first that is not accepted, as the library wants to know it for its GOAWAY: that says from
    /// which one on none is processed (RFC 9114, section 5.2), and streams may come out of their order.
    pub(super) fn close(&self) -> usize {
        self.log().close()
    }
}

impl Log {
    fn admit(&mut self, id: u64) -> bool {
        if self.is_closed && id >= self.end {
            return false;
        }
        self.last = Some(id);
        self.end = self.end.max(id + STEP);
        true
    }

    fn close(&mut self) -> usize {
        self.is_closed = true;
        let beyond = self.last.map_or(0, |last| (self.end - last) / STEP);
        usize::try_from(beyond).unwrap_or(usize::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_accepted_is_not_announced_as_left_undone() {
        let mut log = Log::default();
        assert_eq!(log.close(), 0, "from the first one on");
        assert!(!log.admit(0));

        let mut log = Log::default();
        assert!(log.admit(0));
        assert_eq!(log.close(), 1, "the one after the last");
        assert!(!log.admit(4));

        let mut log = Log::default();
        for id in [0, 12, 4] {
            assert!(log.admit(id));
        }
        assert_eq!(log.close(), 3, "4, 8 and 12 are processed");
        assert!(
            log.admit(8),
            "it was late, and nobody was told that it is refused"
        );
        assert!(!log.admit(16));
    }
}
