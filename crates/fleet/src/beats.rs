//! Heartbeats that change nothing but a time, which nearly all are, noted many at a time.
//!
//! Whoever comes while nobody writes, writes: for itself and for all who are waiting. So one
//! heartbeat alone waits for nobody, and the more come at once, the more go into one statement and
//! one commit; what is acknowledged is in the books. Where there is a Redis, the time goes there, and
//! into the books only every [`BOOKED_EVERY`]; what has news is in the books as ever. A heartbeat that has news (another status or
//! address, a VM that is not as the books have it) is handed back, to be a transaction of its own.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::clock;
use crate::ids::HostId;
use crate::model::{HostStatus, VmState};
use crate::reconcile::{self, Known};
use crate::redis_link::RedisLink;
use crate::store::audit::{self, Actor};
use crate::store::{self, Db, Store, StoreError, hosts, vms};

/// A VM that changed less than this ago may be unknown to a report that was under way.
pub(crate) const SETTLED_AFTER: SignedDuration = SignedDuration::from_secs(60);
/// From one write to the next, at least. A fleet that is large enough to notice has many
/// heartbeats in each.
const PACE: Duration = Duration::from_millis(10);
/// How old the time in the books may be of a host whose heartbeats Redis notes.
pub(crate) const BOOKED_EVERY: SignedDuration = SignedDuration::from_secs(120);
/// How many heartbeats go into one statement at most.
const AT_ONCE: usize = 512;

/// How many hosts come back in one transaction.
const RETURNS_AT_ONCE: usize = 64;

/// What a host says.
#[derive(Debug)]
pub(crate) struct Beat {
    /// In which request.
    pub(crate) actor: Actor,
    /// Which host.
    pub(crate) host: HostId,
    /// Where its door is, if it says so; empty when it is reached over a connection of its own.
    pub(crate) address: Option<String>,
    /// The names and states of all VMs on it, if it says so.
    pub(crate) vms: Option<Vec<(String, VmState)>>,
}

/// Those that wait to be noted.
#[derive(Default)]
pub(crate) struct Beats {
    waiting: Mutex<Vec<Waiting>>,
    /// Held by whoever writes: when the last one did.
    pen: tokio::sync::Mutex<Option<Instant>>,
}

struct Waiting {
    beat: Arc<Beat>,
    /// Whether it was noted.
    told: oneshot::Sender<bool>,
}

impl Beats {
    /// Notes that a host was heard of; whether it did. What has news is not noted, and neither is
    /// what could not be together with others: whoever called then makes a transaction of it.
    pub(crate) async fn note(&self, store: &Store, redis: &RedisLink, beat: &Arc<Beat>) -> bool {
        let (told, mut outcome) = oneshot::channel();
        let beat = Arc::clone(beat);
        self.waiting().push(Waiting { beat, told });
        tokio::select! {
            biased;
            noted = &mut outcome => return noted.unwrap_or(false),
            mut last = self.pen.lock() => {
                if let Some(last) = *last {
                    tokio::time::sleep_until(last + PACE).await;
                }
                *last = Some(Instant::now());
                let mut all = std::mem::take(&mut *self.waiting());
                while !all.is_empty() {
                    let rest = all.split_off(all.len().min(AT_ONCE));
                    note_all(store, redis, all).await;
                    all = rest;
                }
            }
        }
        // It was among those just written.
        outcome.await.unwrap_or(false)
    }

    fn waiting(&self) -> MutexGuard<'_, Vec<Waiting>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Brings a host back that was silent; its address as the table has it, when it was.
async fn came_back(db: &mut Db, beat: &Beat, now: Timestamp) -> Result<Option<String>, StoreError> {
    let Some(host) = hosts::get(db, &beat.host).await? else {
        return Ok(None);
    };
    if !host.is_silent() {
        return Ok(None);
    }
    let status = HostStatus::Online;
    hosts::heard_of(db, &host, status, now).await?;
    audit::record(db, &beat.actor, &format!("host.{status}"), &host.id).await?;
    tracing::info!(host = %host.id, from = %host.status, to = %status, "a host changed");
    Ok(Some(host.address.unwrap_or_default()))
}

/// Notes these, and tells each what became of it.
async fn note_all(store: &Store, redis: &RedisLink, all: Vec<Waiting>) {
    let noted = noted(store, redis, &all).await.unwrap_or_else(|error| {
        tracing::debug!(%error, "heartbeats could not be noted together; each tries by itself");
        vec![false; all.len()]
    });
    for (waiting, noted) in all.into_iter().zip(noted) {
        // Whoever left does not want to know.
        let _ = waiting.told.send(noted);
    }
}

/// Which of these had no news and are in the books now. That a host is back is news, but all hosts
/// have it at once when the network of a server was gone for a while; so those come back together.
async fn noted(store: &Store, redis: &RedisLink, all: &[Waiting]) -> Result<Vec<bool>, StoreError> {
    let now = clock::now();
    let ids: Vec<&HostId> = all.iter().map(|waiting| &waiting.beat.host).collect();
    let mut db = store.note().await?;
    // Whom the books do not have gets no further for being noted in Redis.
    let booked = match redis.note_heard(&ids, now).await {
        true => hosts::still_there_booked(&mut db, &ids, now - BOOKED_EVERY, now).await?,
        false => hosts::still_there(&mut db, &ids, now).await?,
    };
    let mut there: HashMap<String, String> = booked.into_iter().collect();
    let others: Vec<&Beat> = all
        .iter()
        .map(|waiting| &*waiting.beat)
        .filter(|beat| !there.contains_key(beat.host.as_str()))
        .collect();
    if !others.is_empty() {
        drop(db);
        for some in others.chunks(RETURNS_AT_ONCE) {
            let mut tx = store.begin().await?;
            for beat in some {
                if let Some(address) = came_back(&mut tx, beat, now).await? {
                    there.insert(beat.host.as_str().to_owned(), address);
                }
            }
            store::commit(tx).await?;
        }
        db = store.note().await?;
    }
    let reporting: Vec<&HostId> = all
        .iter()
        .filter(|waiting| waiting.beat.vms.is_some())
        .map(|waiting| &waiting.beat.host)
        .collect();
    let mut known: HashMap<HostId, Vec<Known>> = HashMap::new();
    if !reporting.is_empty() {
        for (host, vm) in vms::known_on(&mut db, &reporting, now - SETTLED_AFTER).await? {
            known.entry(host).or_default().push(vm);
        }
    }
    let none = Vec::new();
    let noted = all.iter().map(|Waiting { beat, .. }| {
        let Some(address) = there.get(beat.host.as_str()) else {
            return false;
        };
        let moved = beat.address.as_ref().is_some_and(|said| said != address);
        let known = known.get(&beat.host).unwrap_or(&none);
        let news = |reported: &[_]| !reconcile::changes(known, reported).is_empty();
        !moved && !beat.vms.as_deref().is_some_and(news)
    });
    Ok(noted.collect())
}
