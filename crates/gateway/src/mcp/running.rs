//! The calls under way, by who called and under which id, so that `notifications/cancelled` finds
//! them. In the newest revision a client just leaves; the older ones send this.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use http::HeaderMap;
use serde_json::{Map, Value};
use tokio_util::sync::CancellationToken;

use super::message::Id;
use super::{Caller, SESSION_ID};

/// Whose call: nobody can end another's. Two clients with one token have two sessions.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Key {
    subject: String,
    session: Vec<u8>,
    id: String,
}

impl Key {
    fn new(caller: &Caller, headers: &HeaderMap, id: String) -> Self {
        let session = headers.get(SESSION_ID);
        Self {
            subject: caller.identity.subject().to_owned(),
            session: session.map(|s| s.as_bytes().to_vec()).unwrap_or_default(),
            id,
        }
    }
}

#[derive(Default)]
pub(super) struct Running(Mutex<HashMap<Key, CancellationToken>>);

impl Running {
    fn calls(&self) -> MutexGuard<'_, HashMap<Key, CancellationToken>> {
        // Every change is whole before anything can panic.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Remembers a call until what is returned is dropped. An id that is in use already stays with
    /// the call that had it first; a client must not use one twice.
    pub(super) fn enter(
        self: &Arc<Self>,
        caller: &Caller,
        headers: &HeaderMap,
        id: &Id,
        cancelled: &CancellationToken,
    ) -> Option<Listed> {
        let key = Key::new(caller, headers, id.to_string());
        let mut calls = self.calls();
        if calls.contains_key(&key) {
            return None;
        }
        calls.insert(key.clone(), cancelled.clone());
        drop(calls);
        let running = Arc::clone(self);
        Some(Listed { running, key })
    }

    /// Cancels a call of this caller, if it still runs.
    pub(super) fn cancel(&self, caller: &Caller, headers: &HeaderMap, params: &Map<String, Value>) {
        let Some(id) = params.get("requestId") else {
            return;
        };
        let key = Key::new(caller, headers, id.to_string());
        let cancelled = self.calls().get(&key).cloned();
        if let Some(cancelled) = cancelled {
            cancelled.cancel();
        }
    }
}

/// A call that is on the list.
pub(super) struct Listed {
    running: Arc<Running>,
    key: Key,
}

impl Drop for Listed {
    fn drop(&mut self) {
        self.running.calls().remove(&self.key);
    }
}
