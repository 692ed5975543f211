//! When hosts were last heard of: a sorted set of their ids, scored with the time in milliseconds.

use jiff::Timestamp;

use super::RedisLink;
use crate::ids::HostId;

const PRESENCE: &str = "presence";
/// Since when all heartbeats are in it that are not in the books.
const SINCE: &str = "presence-since";

impl RedisLink {
    /// Notes that these hosts were heard of; whether it did.
    pub(crate) async fn note_heard(&self, hosts: &[&HostId], now: Timestamp) -> bool {
        let now = now.as_millisecond();
        let scored: Vec<(i64, &str)> = hosts.iter().map(|host| (now, host.as_str())).collect();
        let mut note = redis::pipe();
        note.set_nx(self.key(SINCE), now)
            .ignore()
            .zadd_multiple(self.key(PRESENCE), &scored)
            .ignore();
        self.ask::<()>(&note).await.is_some()
    }

    /// When these hosts were last heard of, each as far as it is known here; `None` when Redis is
    /// away.
    pub(crate) async fn last_heard(&self, hosts: &[&HostId]) -> Option<Vec<Option<Timestamp>>> {
        if hosts.is_empty() {
            return Some(Vec::new());
        }
        let ids: Vec<&str> = hosts.iter().map(|host| host.as_str()).collect();
        let mut ask = redis::pipe();
        ask.zscore_multiple(self.key(PRESENCE), &ids);
        let (scores,): (Vec<Option<f64>>,) = self.ask(&ask).await?;
        // Milliseconds of this century are whole numbers in a double (IEEE 754).
        let time = |score: f64| Timestamp::from_millisecond(score as i64).ok();
        Some(
            scores
                .into_iter()
                .map(|score| score.and_then(time))
                .collect(),
        )
    }

    /// Since when nothing was lost here; `None` when Redis is away, or has just lost everything.
    pub(crate) async fn whole_since(&self, now: Timestamp) -> Option<Timestamp> {
        let mut ask = redis::pipe();
        ask.get(self.key(SINCE))
            .set_nx(self.key(SINCE), now.as_millisecond())
            .ignore();
        let (since,): (Option<i64>,) = self.ask(&ask).await?;
        Timestamp::from_millisecond(since?).ok()
    }

    /// Forgets hosts that were not heard of since.
    pub(crate) async fn forget_heard_before(&self, time: Timestamp) {
        let mut forget = redis::pipe();
        let before = format!("({}", time.as_millisecond());
        forget
            .zrembyscore(self.key(PRESENCE), "-inf", before)
            .ignore();
        let _: Option<()> = self.ask(&forget).await;
    }

    /// Forgets everything: the clock was set, and times from before say nothing.
    pub(crate) async fn forget_all_heard(&self) {
        let mut forget = redis::pipe();
        forget
            .del(self.key(PRESENCE))
            .ignore()
            .del(self.key(SINCE))
            .ignore();
        let _: Option<()> = self.ask(&forget).await;
    }
}
