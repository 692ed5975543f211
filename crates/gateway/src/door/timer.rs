//! hyper's timer for the pings of an HTTP/2 connection, which it asks twice for each request: what
//! time it is, and whether the next ping is due.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use hyper::rt;
use tokio::time::{Instant, Sleep, sleep_until};

use super::watched::Watch;

/// Goes by the clock of a connection, in whose task it is asked.
pub(super) struct Timer(pub(super) Arc<Watch>);

struct Alarm {
    watch: Arc<Watch>,
    sleep: Pin<Box<Sleep>>,
    /// When it was found to be early. Until the clock is looked at again, it still is.
    early_at: Option<Instant>,
}

impl rt::Timer for Timer {
    fn sleep(&self, duration: Duration) -> Pin<Box<dyn rt::Sleep>> {
        self.sleep_until(self.now() + duration)
    }

    fn sleep_until(&self, deadline: std::time::Instant) -> Pin<Box<dyn rt::Sleep>> {
        Box::pin(Alarm {
            watch: Arc::clone(&self.0),
            sleep: Box::pin(sleep_until(deadline.into())),
            early_at: None,
        })
    }

    fn now(&self) -> std::time::Instant {
        self.0.clock.now().into()
    }

    fn reset(&self, sleep: &mut Pin<Box<dyn rt::Sleep>>, deadline: std::time::Instant) {
        match sleep.as_mut().downcast_mut_pin::<Alarm>() {
            Some(mut alarm) => {
                alarm.sleep.as_mut().reset(deadline.into());
                alarm.early_at = None;
            }
            None => *sleep = self.sleep_until(deadline),
        }
    }
}

impl Future for Alarm {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let now = self.watch.clock.now();
        if self.early_at == Some(now) {
            return Poll::Pending;
        }
        self.early_at = Some(now);
        ready!(self.sleep.as_mut().poll(cx));
        self.early_at = None;
        Poll::Ready(())
    }
}

impl rt::Sleep for Alarm {}
