//! Heartbeats that change nothing but a time, which nearly all are, noted many at a time.
//!
//! Whoever comes while nobody writes, writes: for itself and for all who are waiting. So one
//! heartbeat alone waits for nobody, and the more come at once, the more go into one statement and
//! one commit; what is acknowledged is in the books. A heartbeat that has news (another status or
//! address, a VM that is not as the books have it) is handed back, to be a transaction of its own.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::SignedDuration;
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::clock;
use crate::ids::HostId;
use crate::model::VmState;
use crate::reconcile::{self, Known};
use crate::store::{Store, StoreError, hosts, vms};

/// A VM that changed less than this ago may be unknown to a report that was under way.
pub(crate) const SETTLED_AFTER: SignedDuration = SignedDuration::from_secs(60);
/// From one write to the next, at least. A fleet that is large enough to notice has many
/// heartbeats in each.
const PACE: Duration = Duration::from_millis(10);
/// How many heartbeats go into one statement at most.
const AT_ONCE: usize = 512;

/// What a host says.
#[derive(Debug)]
pub(crate) struct Beat {
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
    pub(crate) async fn note(&self, store: &Store, beat: &Arc<Beat>) -> bool {
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
                    note_all(store, all).await;
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

/// Notes these, and tells each what became of it.
async fn note_all(store: &Store, all: Vec<Waiting>) {
    let noted = noted(store, &all).await.unwrap_or_else(|error| {
        tracing::debug!(%error, "heartbeats could not be noted together; each tries by itself");
        vec![false; all.len()]
    });
    for (waiting, noted) in all.into_iter().zip(noted) {
        // Whoever left does not want to know.
        let _ = waiting.told.send(noted);
    }
}

/// Which of these had no news and are in the books now.
async fn noted(store: &Store, all: &[Waiting]) -> Result<Vec<bool>, StoreError> {
    let now = clock::now();
    let ids: Vec<&HostId> = all.iter().map(|waiting| &waiting.beat.host).collect();
    let mut db = store.note().await?;
    let there: HashMap<String, Option<String>> = hosts::still_there(&mut db, &ids, now)
        .await?
        .into_iter()
        .collect();
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
        let moved = beat.address.is_some() && beat.address != *address;
        let known = known.get(&beat.host).unwrap_or(&none);
        let news = |reported: &[_]| !reconcile::changes(known, reported).is_empty();
        !moved && !beat.vms.as_deref().is_some_and(news)
    });
    Ok(noted.collect())
}
