//! Waiting for something, up to a limit, where it is most often there already.

use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use futures::poll;

/// What this comes to, or `None` when it takes longer. What needs no waiting costs no timer and no
/// look at the clock.
pub(crate) async fn within<T>(limit: Duration, work: impl Future<Output = T>) -> Option<T> {
    let mut work = pin!(work);
    if let Poll::Ready(done) = poll!(work.as_mut()) {
        return Some(done);
    }
    tokio::time::timeout(limit, work).await.ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_there_is_taken_and_what_takes_too_long_is_not() {
        let moment = Duration::from_millis(10);
        assert_eq!(within(Duration::ZERO, async { 1 }).await, Some(1));
        let later = async { tokio::time::sleep(moment).await };
        assert_eq!(within(Duration::from_secs(60), later).await, Some(()));
        let never = std::future::pending::<()>();
        assert_eq!(within(moment, never).await, None);
    }
}
