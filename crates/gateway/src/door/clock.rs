//! What time it is on a connection.
//!
//! Everything that a connection's task does in one go happens, for those who measure in seconds, at
//! one time. It is looked up once, when the task begins to run, and not again for each request, each
//! answer and each piece that is read or written.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

/// Shows the time at which it was looked at last.
#[derive(Debug)]
pub(super) struct Clock {
    began: Instant,
    /// Since it began; enough for five centuries.
    nanos: AtomicU64,
}

impl Clock {
    pub(super) fn new() -> Self {
        Self {
            began: Instant::now(),
            nanos: AtomicU64::new(0),
        }
    }

    /// The time of the last look.
    pub(super) fn now(&self) -> Instant {
        self.at(self.stamp())
    }

    /// The same as a number, which costs no more than that to keep.
    pub(super) fn stamp(&self) -> u64 {
        self.nanos.load(Ordering::Relaxed)
    }

    /// The time of a [stamp](Self::stamp).
    pub(super) fn at(&self, stamp: u64) -> Instant {
        self.began + Duration::from_nanos(stamp)
    }

    /// Looks what time it is.
    pub(super) fn look(&self) -> Instant {
        let nanos = u64::try_from(self.began.elapsed().as_nanos()).unwrap_or(u64::MAX);
        // Two tasks may look at once; it never goes back.
        self.nanos.fetch_max(nanos, Ordering::Relaxed);
        self.now()
    }

    /// Does this, and looks whenever it is gone on with.
    pub(super) async fn during<F: Future>(&self, work: F) -> F::Output {
        let mut work = pin!(work);
        poll_fn(|cx| {
            self.look();
            work.as_mut().poll(cx)
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn it_stands_still_between_two_looks() {
        let (clock, moment) = (Clock::new(), Duration::from_millis(5));
        let began = clock.now();
        std::thread::sleep(moment);
        assert_eq!(clock.now(), began);
        assert!(clock.look() >= began + moment);
        clock.during(tokio::time::sleep(moment)).await;
        assert!(clock.now() >= began + moment * 2);
    }
}
