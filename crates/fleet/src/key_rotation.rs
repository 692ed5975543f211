//! The keys that sign tokens: made at the first start, followed by another every ninety days, and
//! given up when an administrator says so.
//!
//! Hosts get a new host token with each new certificate, twice an hour. So a key that was followed
//! is soon needed by nobody but hosts that are away, and verifies for as long as their tokens live.

use jiff::Timestamp;

use crate::fleet::Fleet;
use crate::secrets::{HOST_TOKEN_LIFE, KEY_LEAD, KEY_LIFE, KeyUnusable, SigningKey};
use crate::store::audit::{self, Actor};
use crate::store::{self, Db, Store, StoreError, signing};

/// Why the keys could not be read, made or changed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TokenKeyError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Unusable(#[from] KeyUnusable),
}

/// The keys of the books, newest first; where there are none, the first is made.
pub(crate) async fn first_or_all(
    store: &Store,
    now: Timestamp,
) -> Result<Vec<SigningKey>, TokenKeyError> {
    let mut tx = store.begin().await?;
    let keys = signing::all(&mut tx).await?;
    if !keys.is_empty() {
        return Ok(keys);
    }
    let key = SigningKey::generate(now)?;
    signing::insert(&mut tx, &key).await?;
    store::commit(tx).await?;
    Ok(vec![key])
}

impl Fleet {
    /// Publishes another key, which signs when all servers know it; those of which nothing can be
    /// alive are removed. With `gives_up`, all others are, with everything that they have signed.
    /// All keys, newest first.
    pub(crate) async fn rotate_token_keys(
        &self,
        actor: &Actor,
        gives_up: bool,
    ) -> Result<Vec<SigningKey>, TokenKeyError> {
        let mut tx = self.store.begin().await?;
        let key = SigningKey::generate(actor.now)?;
        signing::insert(&mut tx, &key).await?;
        let followed_before = match gives_up {
            true => actor.now,
            false => actor.now - HOST_TOKEN_LIFE - KEY_LEAD,
        };
        signing::remove_followed(&mut tx, followed_before).await?;
        let action = match gives_up {
            true => "token-key.give-up",
            false => "token-key.rotate",
        };
        audit::record(&mut tx, actor, action, &key.kid).await?;
        let keys = signing::all(&mut tx).await?;
        store::commit(tx).await?;
        self.tokens.replace(&keys)?;
        tracing::info!(key = key.kid, of = keys.len(), "another key signs tokens");
        Ok(keys)
    }

    /// Lets another key follow one that has signed for long enough.
    pub(crate) async fn tend_token_keys(&self, now: Timestamp) -> Result<(), TokenKeyError> {
        let mut db = self.store.read().await?;
        let keys = signing::all(&mut db).await?;
        drop(db);
        let newest = keys.first().map_or(now, |key| key.created_at);
        if newest + KEY_LIFE <= now {
            self.rotate_token_keys(&Actor::server(now), false).await?;
        }
        Ok(())
    }

    /// Takes over the keys as another server has changed them.
    pub(crate) async fn take_over_token_keys(&self, db: &mut Db) -> Result<(), TokenKeyError> {
        Ok(self.tokens.replace(&signing::all(db).await?)?)
    }
}
