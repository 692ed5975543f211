//! How far a call has come: its handler says so, and whoever brought the call in may pass it on.
//!
//! Only the newest word counts. A handler that reports a thousand times between two looks costs
//! nothing but the last report, and one whose caller does not ask reports into nothing.

use tokio::sync::watch;

/// One word of a handler about how far it has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Progress {
    /// What is done, in units of the handler's choice.
    pub done: u64,
    /// What there is to do, in the same units, when that is known.
    pub total: Option<u64>,
    /// What is happening, in words for a person.
    pub message: String,
}

/// Where a call's progress goes; see [`Request::progress`](crate::Request::progress).
#[derive(Clone, Debug)]
pub struct ProgressSink(watch::Sender<Option<Progress>>);

/// Where a call's progress comes out.
#[derive(Debug)]
pub struct ProgressSource(watch::Receiver<Option<Progress>>);

/// A sink for one call, and its other end.
pub fn progress() -> (ProgressSink, ProgressSource) {
    let (sink, source) = watch::channel(None);
    (ProgressSink(sink), ProgressSource(source))
}

impl ProgressSink {
    pub(crate) fn report(&self, progress: Progress) {
        self.0.send_replace(Some(progress));
    }
}

impl ProgressSource {
    /// The newest report that was not yet seen. `None` when no more can come.
    pub async fn next(&mut self) -> Option<Progress> {
        self.0.changed().await.ok()?;
        self.0.borrow_and_update().clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_the_newest_word_is_kept_and_the_end_of_the_call_ends_it() {
        let (sink, mut source) = progress();
        let report = |done| {
            sink.report(Progress {
                done,
                total: Some(3),
                message: "fetching".to_owned(),
            });
        };
        report(1);
        report(2);
        assert_eq!(source.next().await.map(|p| p.done), Some(2));
        report(3);
        drop(sink);
        assert_eq!(source.next().await.map(|p| p.done), Some(3));
        assert_eq!(source.next().await, None);
    }
}
