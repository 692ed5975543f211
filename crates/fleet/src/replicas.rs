//! Servers on the same books: what each must know of what the others do.
//!
//! What only one may do is a lease's: its holder renews it every two seconds, and when it has died
//! another has it within eight. What a server keeps in memory (who may come through the machines'
//! door, which API keys and users were good a moment ago, the authority's keys) has a revision in the books,
//! at which all look twice a second, and at
//! once when they hear of a change ([`redis_link`](crate::redis_link)). Books in a file are one server's: nothing is to be followed.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::MissedTickBehavior;

use crate::fleet::Fleet;
use crate::key_rotation::TokenKeyError;
use crate::store::{Db, StoreError, hosts, leases, revisions};

/// How often a server looks what others have changed.
const FOLLOW_EVERY: Duration = Duration::from_millis(500);
/// How often the monitor's lease is renewed or tried for.
pub(crate) const TRY_EVERY: Duration = Duration::from_secs(2);
/// How long it holds without being renewed.
const MONITOR_LIFE: Duration = Duration::from_secs(6);
const MONITOR: &str = "monitor";
/// For how long nobody else shows a first admin's key: time to print it and make it good.
const FIRST_KEY_LIFE: Duration = Duration::from_secs(30);
const FIRST_KEY: &str = "first-admin-key";

impl Fleet {
    /// Whether this server keeps watch over the fleet now; on books of its own it always does.
    pub(crate) async fn keeps_watch(&self) -> Result<bool, StoreError> {
        self.take(MONITOR, MONITOR_LIFE).await
    }

    /// Whether this server is the one that shows the first admin's key.
    pub(crate) async fn shows_first_key(&self) -> Result<bool, StoreError> {
        self.take(FIRST_KEY, FIRST_KEY_LIFE).await
    }

    async fn take(&self, name: &str, life: Duration) -> Result<bool, StoreError> {
        if !self.store.is_shared() {
            return Ok(true);
        }
        let mut db = self.store.note().await?;
        leases::take(&mut db, name, &self.replica, life).await
    }

    /// Gives up what only this server does, so that another can begin at once.
    pub(crate) async fn give_up_leases(&self) -> Result<(), StoreError> {
        if !self.store.is_shared() {
            return Ok(());
        }
        let mut db = self.store.note().await?;
        leases::give_up(&mut db, &self.replica).await
    }

    /// Keeps up with what other servers change, for as long as it is polled.
    pub(crate) async fn follow(&self) {
        if !self.store.is_shared() {
            return std::future::pending().await;
        }
        let mut looks = tokio::time::interval(FOLLOW_EVERY);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut known = HashMap::new();
        let mut failing = false;
        let mut hears = self.redis.hears();
        loop {
            tokio::select! {
                _ = looks.tick() => {}
                // The fleet, which it belongs to, is still there.
                _ = hears.changed() => {}
            }
            match self.catch_up(&mut known).await {
                Ok(()) => failing = false,
                Err(error) if failing => tracing::debug!(%error, "still cannot look"),
                Err(error) => {
                    failing = true;
                    tracing::warn!(%error, "cannot look what other replicas have changed");
                }
            }
        }
    }

    async fn catch_up(&self, known: &mut HashMap<String, i64>) -> Result<(), StoreError> {
        let mut db = self.store.read().await?;
        for (topic, revision) in revisions::all(&mut db).await? {
            if known.get(&topic) == Some(&revision) {
                continue;
            }
            match topic.as_str() {
                revisions::HOSTS => self.roll.replace(hosts::enrolled(&mut db).await?),
                revisions::WORKLOADS => self.workloads_changed(),
                revisions::EVENTS => self.store.tell_news(),
                revisions::KEYS => self.known_keys.forget(),
                revisions::USERS => self.known_users.forget(),
                revisions::TOKEN_KEYS if !self.refresh_token_keys(&mut db).await? => continue,
                revisions::AUTHORITY if !self.refresh_authority().await => continue,
                _ => {}
            }
            // Only now: what failed is tried again.
            known.insert(topic, revision);
        }
        Ok(())
    }

    /// Takes over the keys that sign tokens; whether they can be used.
    async fn refresh_token_keys(&self, db: &mut Db) -> Result<bool, StoreError> {
        match self.take_over_token_keys(db).await {
            Ok(()) => Ok(true),
            Err(TokenKeyError::Store(error)) => Err(error),
            Err(TokenKeyError::Unusable(error)) => {
                tracing::error!(%error, "cannot take over the keys that sign tokens");
                Ok(false)
            }
        }
    }

    /// Takes over the authority's keys as another server has made them; whether that went well.
    async fn refresh_authority(&self) -> bool {
        let authority = self.authority.clone();
        match tokio::task::spawn_blocking(move || authority.refresh()).await {
            Ok(Ok(())) => true,
            Ok(Err(error)) => {
                tracing::warn!(%error, "cannot take over the authority's keys");
                false
            }
            Err(error) => {
                tracing::error!(%error, "taking over the authority's keys failed");
                false
            }
        }
    }
}
