//! How often somebody may ask: a stranger by address, and who is known by name.
//!
//! Every request counts against its address before anything else is looked at, and is given back
//! when it turns out to come from somebody who is known; then it counts against them. So whoever
//! guesses tokens or looks for paths is slowed down before a database is asked, and a program of
//! ours that has run wild takes no more than its share. Who has shown a certificate in the handshake
//! is no stranger.
//!
//! A stranger's refusal is the same for every path, as all that strangers are told.

use std::hash::{BuildHasher, RandomState};
use std::net::{IpAddr, SocketAddr};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::response::Response;
use hostler_operations::rate::{Ledger, Rate, network};
use hostler_operations::{CallError, ErrorCode, Identity};
use serde_json::json;

use crate::connection::ConnectionInfo;
use crate::credentials::{AuthError, Credentials, IdentityProvider};
use crate::decoy;
use crate::limits::RequestLimits;

/// How many addresses, and how many callers, are remembered: a MiB of each.
const REMEMBERED: usize = 16_384;

/// What everybody has asked of late, at all doors of an adapter.
pub(crate) struct Rates {
    strangers: Option<Book<IpAddr>>,
    /// By the hash of the subject: two who share one share an allowance.
    callers: Option<Book<u64>>,
    hasher: RandomState,
}

type Book<K> = Mutex<Ledger<K>>;

impl Rates {
    pub(crate) fn new(limits: &RequestLimits) -> Self {
        Self {
            strangers: limits.strangers.map(book),
            callers: limits.callers.map(book),
            hasher: RandomState::new(),
        }
    }

    /// Counts a request from there, about which nothing else is known.
    fn stranger(&self, from: SocketAddr) -> Result<(), Duration> {
        match &self.strangers {
            Some(book) => take(book, network(from.ip())),
            None => Ok(()),
        }
    }

    /// What a stranger is told who comes too often, before it is looked at what they want.
    pub(crate) fn turn_away(&self, connection: Option<&ConnectionInfo>) -> Option<Response> {
        let stranger = connection.filter(|connection| !connection.is_known())?;
        let wait = self.stranger(stranger.remote()).err()?;
        Some(decoy::too_often(whole_secs(wait)))
    }

    /// Counts what came with these credentials, before anything else is looked at. How long to wait,
    /// when it is too much.
    pub(crate) fn count(&self, credentials: &Credentials) -> Result<(), Duration> {
        match credentials.remote {
            Some(from) if !credentials.connection_is_known() => self.stranger(from),
            _ => Ok(()),
        }
    }

    /// Whose these credentials are, of something that was counted.
    pub(crate) async fn resolve(
        &self,
        provider: &dyn IdentityProvider,
        credentials: &Credentials,
    ) -> Result<Option<Identity>, AuthError> {
        let identity = provider.resolve(credentials).await?;
        if let Some(identity) = &identity {
            self.caller(identity, credentials)?;
        }
        Ok(identity)
    }

    /// Counts a request whose caller is known; it was not a stranger's.
    pub(crate) fn caller(
        &self,
        identity: &Identity,
        credentials: &Credentials,
    ) -> Result<(), AuthError> {
        if let (Some(book), Some(from)) = (&self.strangers, credentials.remote)
            && !credentials.connection_is_known()
        {
            let mut ledger = book.lock().unwrap_or_else(PoisonError::into_inner);
            ledger.give_back(&network(from.ip()));
        }
        match &self.callers {
            Some(book) => {
                take(book, self.hasher.hash_one(identity.subject())).map_err(AuthError::TooOften)
            }
            None => Ok(()),
        }
    }
}

/// What is said to who comes too often.
const RATE_LIMITED: ErrorCode = ErrorCode::declared("RATE_LIMITED", 429).retryable();

/// The same as an error of a call.
pub(crate) fn too_often(wait: Duration) -> CallError {
    let secs = whole_secs(wait);
    CallError::new(RATE_LIMITED, format!("too many requests; wait {secs} s"))
        .with_details(json!({ "retry_after_secs": secs }))
}

/// As `Retry-After` counts (RFC 9110, section 10.2.3).
pub(crate) fn whole_secs(wait: Duration) -> u64 {
    wait.as_secs() + u64::from(wait.subsec_nanos() > 0)
}

fn book<K: Eq + std::hash::Hash>(rate: Rate) -> Book<K> {
    Mutex::new(Ledger::new(rate, REMEMBERED))
}

fn take<K: Eq + std::hash::Hash>(book: &Book<K>, key: K) -> Result<(), Duration> {
    let mut ledger = book.lock().unwrap_or_else(PoisonError::into_inner);
    ledger.take(key, Instant::now())
}
