//! What happens to hosts and VMs, for those who watch.
//!
//! The newest events are kept in memory, where any number of watchers find them: whoever comes
//! first after something has happened reads it from the books, once for all. A watcher that fell
//! behind reads from the books itself, and one that was away for so long that something is no longer
//! there is told so by a gap.

use std::collections::VecDeque;
use std::sync::Arc;

use jiff::Timestamp;
use tokio::sync::Mutex;

use crate::ids::TeamId;
use crate::store::{Store, StoreError, events};
use crate::words::words;

words! {
    /// What kind of thing an event is about.
    pub(crate) enum Kind {
        /// A host.
        Host = "host",
        /// A VM.
        Vm = "vm",
    }
}

words! {
    /// What happened to a thing.
    pub enum Change {
        /// It is new.
        Created = "created",
        /// It is another than it was.
        Updated = "updated",
        /// It is gone. What is told of it is what it was at last.
        Deleted = "deleted",
        /// Nothing that is known: so much has happened since that it is no longer kept. List
        /// everything anew.
        Gap = "gap",
    }
}

/// Something that happened.
#[derive(Debug)]
pub(crate) struct Event {
    pub(crate) seq: i64,
    pub(crate) at: Timestamp,
    pub(crate) kind: Kind,
    pub(crate) change: Change,
    /// Whose the thing is; absent: the platform's.
    pub(crate) team: Option<TeamId>,
    /// The thing, as JSON.
    pub(crate) document: String,
}

/// How many events are kept in memory, and how many are read from the books at a time.
const RECENT: u32 = 1024;

/// The newest events.
#[derive(Default)]
pub(crate) struct Recent(Mutex<Ring>);

#[derive(Default)]
struct Ring {
    events: VecDeque<Arc<Event>>,
    /// The number of the newest event that is known; absent before the first look.
    newest: Option<i64>,
    /// Which news it has followed.
    news: u64,
}

/// What comes after an event.
pub(crate) struct Following {
    /// In their order. After fewer than there are one asks again.
    pub(crate) events: Vec<Arc<Event>>,
    /// Up to which number something is missing before them.
    pub(crate) gap: Option<i64>,
}

impl Recent {
    /// The number of the newest event.
    pub(crate) async fn newest(&self, store: &Store) -> Result<i64, StoreError> {
        let ring = self.0.lock().await;
        Ok(ring.followed(store).await?.newest.unwrap_or(0))
    }

    /// What comes after this number. Nothing, when nothing has happened.
    pub(crate) async fn after(&self, store: &Store, seen: i64) -> Result<Following, StoreError> {
        let ring = self.0.lock().await.followed(store).await?;
        let newest = ring.newest.unwrap_or(0);
        if seen > newest {
            // A number of other books, or of these before they were restored from a backup.
            return Ok(Following {
                events: Vec::new(),
                gap: Some(newest),
            });
        }
        let oldest = ring.events.front().map_or(newest + 1, |event| event.seq);
        if seen + 1 >= oldest {
            let skip = usize::try_from(seen + 1 - oldest).unwrap_or(usize::MAX);
            let events = ring.events.iter().skip(skip).cloned().collect();
            return Ok(Following { events, gap: None });
        }
        drop(ring);
        let mut db = store.read().await?;
        let events = events::after(&mut db, seen, RECENT).await?;
        let first = events.first().map_or(newest + 1, |event| event.seq);
        Ok(Following {
            gap: (first > seen + 1).then_some(first - 1),
            events: events.into_iter().map(Arc::new).collect(),
        })
    }
}

trait Followed: Sized {
    async fn followed(self, store: &Store) -> Result<Self, StoreError>;
}

impl Followed for tokio::sync::MutexGuard<'_, Ring> {
    /// Reads what has happened since the last look, if something may have.
    async fn followed(mut self, store: &Store) -> Result<Self, StoreError> {
        // Before the look: what is committed during it is news again.
        let news = store.news();
        if self.newest.is_some() && self.news == news {
            return Ok(self);
        }
        let mut db = store.read().await?;
        let mut newest = match self.newest {
            Some(newest) => newest,
            None => (events::newest(&mut db).await? - i64::from(RECENT)).max(0),
        };
        loop {
            let more = events::after(&mut db, newest, RECENT).await?;
            let last = more.len() < RECENT as usize;
            for event in more {
                newest = event.seq;
                self.events.push_back(Arc::new(event));
            }
            let extra = self.events.len().saturating_sub(RECENT as usize);
            self.events.drain(..extra);
            if last {
                break;
            }
        }
        self.newest = Some(newest);
        self.news = news;
        Ok(self)
    }
}
