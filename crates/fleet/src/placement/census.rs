//! What placement knows of the hosts: kept in memory, and brought up to date from the books before
//! each look by reading only what has changed. So ten thousand hosts are asked in a millisecond.
//!
//! Whatever decides about a placement (a status, a tag, a reservation) is written in a transaction
//! that marks its host with the next number of a counter ([`touch`](crate::store::census::touch)).
//! Such transactions come one after another, so whoever has seen everything up to a number misses
//! nothing by asking for what is greater; and inside a transaction nobody else changes anything.
//! The memory holds only what was committed: a transaction looks before it writes.

use std::collections::HashMap;

use tokio::sync::{Mutex, MutexGuard};

use super::Candidate;
use crate::ids::HostId;
use crate::store::{Db, StoreError, census, hosts};

/// The hosts, as far as placement is concerned.
#[derive(Default)]
pub(crate) struct Census(Mutex<Known>);

/// What is known, as of the last look.
#[derive(Default)]
pub(crate) struct Known {
    hosts: Vec<Candidate>,
    places: HashMap<HostId, usize>,
    /// The greatest number seen; absent before the first look.
    seen: Option<i64>,
    /// How many deletions there had been.
    deletions: i64,
}

impl Census {
    /// All registered hosts, as they are in the books now.
    pub(crate) async fn look(&self, db: &mut Db) -> Result<MutexGuard<'_, Known>, StoreError> {
        let mut known = self.0.lock().await;
        let deletions = census::deletions(db).await?;
        let changed = census::changed_since(db, known.seen.unwrap_or(-1)).await?;
        for (number, host) in changed {
            known.take(host);
            known.seen = known.seen.max(Some(number));
        }
        if known.deletions != deletions {
            let there = hosts::enrolled(db).await?;
            known.keep_only(&there.into_iter().collect());
            known.deletions = deletions;
        }
        Ok(known)
    }
}

impl Known {
    /// The hosts, in no order.
    pub(crate) fn hosts(&self) -> &[Candidate] {
        &self.hosts
    }

    fn take(&mut self, host: Candidate) {
        match self.places.get(&host.id) {
            Some(place) => self.hosts[*place] = host,
            None => {
                self.places.insert(host.id.clone(), self.hosts.len());
                self.hosts.push(host);
            }
        }
    }

    fn keep_only(&mut self, there: &std::collections::HashSet<HostId>) {
        self.hosts.retain(|host| there.contains(&host.id));
        let places = self.hosts.iter().enumerate();
        self.places = places.map(|(n, host)| (host.id.clone(), n)).collect();
    }
}
