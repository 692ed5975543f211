//! What was looked up lately, so that not every request reads the books.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How long what was found is taken for good without another look.
const REMEMBERED_FOR: Duration = Duration::from_secs(5);
/// How many are remembered at most.
const REMEMBERED: usize = 4096;

/// What was found lately, by what it was looked up with. Only what was found is remembered, so that
/// guesses take no room.
pub(crate) struct Known<T>(Mutex<Found<T>>);

struct Found<T> {
    each: HashMap<String, (Instant, T)>,
    /// How often everything was forgotten.
    era: u64,
}

impl<T> Default for Known<T> {
    fn default() -> Self {
        Self(Mutex::new(Found {
            each: HashMap::new(),
            era: 0,
        }))
    }
}

impl<T: Clone> Known<T> {
    fn found(&self) -> MutexGuard<'_, Found<T>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn get(&self, key: &str) -> Option<T> {
        let found = self.found();
        let (since, value) = found.each.get(key)?;
        (since.elapsed() < REMEMBERED_FOR).then(|| value.clone())
    }

    /// To be asked before something is looked up, and told when it is remembered.
    pub(super) fn era(&self) -> u64 {
        self.found().era
    }

    /// Remembers what was looked up in this era. What was read before something was forgotten may
    /// be the very thing, and is not remembered.
    pub(super) fn remember(&self, era: u64, key: String, value: T) {
        let mut found = self.found();
        if found.era != era {
            return;
        }
        if found.each.len() >= REMEMBERED {
            found
                .each
                .retain(|_, (since, _)| since.elapsed() < REMEMBERED_FOR);
        }
        if found.each.len() < REMEMBERED {
            found.each.insert(key, (Instant::now(), value));
        }
    }

    /// Forgets everything, because something is no longer as it was.
    pub(crate) fn forget(&self) {
        let mut found = self.found();
        found.era += 1;
        found.each.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_looked_up_before_it_was_deleted_is_not_remembered() {
        let known = Known::default();
        let before = known.era();
        known.forget();
        known.remember(before, "hash".to_owned(), 1);
        assert_eq!(known.get("hash"), None);
        known.remember(known.era(), "hash".to_owned(), 1);
        assert_eq!(known.get("hash"), Some(1));
        known.forget();
        assert_eq!(known.get("hash"), None);
    }
}
