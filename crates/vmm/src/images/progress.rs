//! How far imports are, for whoever wants to watch.
//!
//! Those who watch are not waited for: each gets the newest state whenever it looks, and misses
//! what was in between. So neither a slow nor a forgotten watcher costs anything.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use futures::Stream;
use futures::stream::unfold;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use super::Progress;
use crate::name::ItemName;

/// How many imports that are over can still be seen to be so.
const REMEMBERED: usize = 32;

/// How far the making of an image is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ImportProgress {
    /// What the image is to be called.
    pub name: ItemName,
    /// What it is made of.
    pub source: String,
    /// Whether it goes on.
    pub state: ImportState,
    /// How far it is, or was last.
    #[serde(flatten)]
    pub progress: Progress,
    /// Why it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// Whether the making of an image goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ImportState {
    /// It does.
    Running,
    /// The image is there.
    Done,
    /// It has failed or was given up, and nothing is left of it.
    Failed,
}

/// The imports of this host.
#[derive(Debug)]
pub(super) struct Book {
    state: Mutex<State>,
    /// The revision of the newest change.
    changed: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct State {
    revision: u64,
    next: u64,
    imports: BTreeMap<u64, (u64, ImportProgress)>,
}

impl Default for Book {
    fn default() -> Self {
        Self {
            state: Mutex::default(),
            changed: watch::Sender::new(0),
        }
    }
}

impl Book {
    pub(super) fn begin(self: &Arc<Self>, name: ItemName, source: String) -> Ticket {
        let id = self.change(|state| {
            state.next += 1;
            let progress = ImportProgress {
                name,
                source,
                state: ImportState::Running,
                progress: Progress::at(0, 0, "waiting".to_owned()),
                error: None,
            };
            state.imports.insert(state.next, (state.revision, progress));
            state.next
        });
        Ticket {
            book: Arc::clone(self),
            id,
        }
    }

    fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.revision += 1;
        let changed = change(&mut state);
        self.changed.send_replace(state.revision);
        changed
    }

    /// What is new since a revision, oldest first, and the revision that this is.
    fn since(&self, revision: u64) -> (u64, Vec<ImportProgress>) {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let mut new: Vec<_> = state
            .imports
            .values()
            .filter(|(changed, _)| *changed > revision)
            .cloned()
            .collect();
        new.sort_by_key(|(changed, _)| *changed);
        let new = new.into_iter().map(|(_, progress)| progress);
        (state.revision, new.collect())
    }

    /// What runs now, and every change from now on. With a name, the stream ends when an import
    /// of that name is over.
    pub(super) fn watch(
        self: &Arc<Self>,
        name: Option<ItemName>,
    ) -> impl Stream<Item = ImportProgress> + Send + use<> {
        let (revision, mut pending) = self.since(0);
        pending.retain(|progress| progress.state == ImportState::Running);
        let watching = Watching {
            changes: self.changed.subscribe(),
            book: Arc::clone(self),
            name,
            revision,
            pending: pending.into(),
            is_over: false,
        };
        unfold(watching, Watching::next)
    }
}

struct Watching {
    book: Arc<Book>,
    changes: watch::Receiver<u64>,
    name: Option<ItemName>,
    revision: u64,
    pending: std::collections::VecDeque<ImportProgress>,
    is_over: bool,
}

impl Watching {
    async fn next(mut self) -> Option<(ImportProgress, Self)> {
        while !self.is_over {
            while let Some(progress) = self.pending.pop_front() {
                match &self.name {
                    Some(name) if *name != progress.name => continue,
                    Some(_) => self.is_over = progress.state != ImportState::Running,
                    None => {}
                }
                return Some((progress, self));
            }
            let revision = self.revision;
            // The book is ours too, so its changes do not end.
            self.changes.wait_for(|now| *now > revision).await.ok()?;
            let (revision, new) = self.book.since(self.revision);
            self.revision = revision;
            self.pending.extend(new);
        }
        None
    }
}

/// An import that is being watched over. Dropped without a word, it was given up.
#[derive(Debug)]
pub(super) struct Ticket {
    book: Arc<Book>,
    id: u64,
}

impl Ticket {
    pub(super) fn report(&self, progress: &Progress) {
        self.update(|import| import.progress = progress.clone());
    }

    /// It is over, well or not.
    pub(super) fn end(self, error: Option<String>) {
        self.over(error);
    }

    fn over(&self, error: Option<String>) {
        self.update(|import| {
            if import.state != ImportState::Running {
                return;
            }
            import.state = match error {
                Some(_) => ImportState::Failed,
                None => ImportState::Done,
            };
            import.error = error;
        });
    }

    fn update(&self, update: impl FnOnce(&mut ImportProgress)) {
        self.book.change(|state| {
            if let Some((revision, import)) = state.imports.get_mut(&self.id) {
                *revision = state.revision;
                update(import);
            }
        });
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.over(Some("it was given up".to_owned()));
        self.book.change(|state| {
            let is_over = |import: &ImportProgress| import.state != ImportState::Running;
            let over = state
                .imports
                .iter()
                .filter(|(_, (_, import))| is_over(import));
            let over: Vec<u64> = over.map(|(id, _)| *id).collect();
            for id in over.iter().rev().skip(REMEMBERED) {
                state.imports.remove(id);
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use futures::{FutureExt as _, StreamExt as _};

    use super::*;

    fn name(text: &str) -> ItemName {
        text.parse().unwrap()
    }

    #[tokio::test]
    async fn who_watches_one_import_sees_its_end_and_no_other() {
        let book = Arc::new(Book::default());
        let old = book.begin(name("a"), "old".into());
        old.end(None);
        let mut watched = std::pin::pin!(book.watch(Some(name("a"))));
        assert!(
            watched.next().now_or_never().is_none(),
            "an old end was told"
        );
        let (a, b) = (
            book.begin(name("a"), "x".into()),
            book.begin(name("b"), "y".into()),
        );
        assert_eq!(watched.next().await.unwrap().state, ImportState::Running);
        for step in 1..100 {
            a.report(&Progress::at(step, 100, "on".into()));
            b.report(&Progress::at(step, 100, "on".into()));
        }
        // What was in between is not kept for those who are slow.
        assert_eq!(watched.next().await.unwrap().progress.step, 99);
        drop(a);
        let end = watched.next().await.unwrap();
        assert_eq!(
            (end.state, &*end.name.to_string()),
            (ImportState::Failed, "a")
        );
        assert!(watched.next().await.is_none());
    }

    #[tokio::test]
    async fn what_is_over_is_not_remembered_for_ever() {
        let book = Arc::new(Book::default());
        let running = book.begin(name("r"), "r".into());
        for _ in 0..3 * REMEMBERED {
            book.begin(name("a"), "x".into()).end(None);
        }
        assert_eq!(book.since(0).1.len(), REMEMBERED + 1);
        drop(running);
    }
}
