//! When hosts were last heard of: a sorted set of their ids, scored with the time in milliseconds.
//!
//! In the same set, because what Redis evicts it evicts whole, stands since when it was whole.

use jiff::Timestamp;

use super::RedisLink;
use crate::ids::HostId;

const PRESENCE: &str = "presence";
/// What the member begins with that says since when all heartbeats are in the set that are not in
/// the books. Its score is infinite, so that no time is too late for it.
const SINCE: &str = "since:";

impl RedisLink {
    /// Notes that these hosts were heard of; whether it did.
    pub(crate) async fn note_heard(&self, hosts: &[&HostId], now: Timestamp) -> bool {
        let now = now.as_millisecond();
        let scored: Vec<(i64, &str)> = hosts.iter().map(|host| (now, host.as_str())).collect();
        let mut note = redis::pipe();
        note.zadd_multiple(self.key(PRESENCE), &scored).ignore();
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
        ask.zrangebyscore(self.key(PRESENCE), "+inf", "+inf");
        let (since,): (Vec<String>,) = self.ask(&ask).await?;
        let since = since.iter().filter_map(|member| member.strip_prefix(SINCE));
        // Two servers may have said it; what was lost, was lost for both.
        if let Some(since) = since.filter_map(|millis| millis.parse().ok()).max() {
            return Timestamp::from_millisecond(since).ok();
        }
        let mut begin = redis::pipe();
        let from_now = format!("{SINCE}{}", now.as_millisecond());
        begin.zadd(self.key(PRESENCE), from_now, "+inf").ignore();
        let _: Option<()> = self.ask(&begin).await;
        None
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
        forget.del(self.key(PRESENCE)).ignore();
        let _: Option<()> = self.ask(&forget).await;
    }
}
