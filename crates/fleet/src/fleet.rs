//! The fleet's front desk: opens the books and holds what the operations work with.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use hostler_authority::federation::{Federated, FederationError};
use hostler_authority::workload_api::Issuer;
use hostler_authority::{Authority, Bundles};
use hostler_identity::Source;
use jiff::Timestamp;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::attempts::Attempts;
use crate::beats::Beats;
use crate::clock;
use crate::config::Config;
use crate::connector::Connector;
use crate::events::{Following, Recent};
use crate::identify::{Known, Standing};
use crate::ids::{HostId, KeyId};
use crate::key_rotation::{self, TokenKeyError};
use crate::model::ApiKeyInfo;
use crate::monitor;
use crate::passwords::Passwords;
use crate::placement::census::Census;
use crate::redis_link::RedisLink;
use crate::roll::Roll;
use crate::scopes::KeyScope;
use crate::secrets::{ApiKey, KeyUnusable, Tokens};
use crate::signed_for::SignedFor;
use crate::store::audit::{self, Actor};
use crate::store::{self, Db, OpenStoreError, Store, StoreError, fleet_id, hosts, keys, users};

/// The fleet. All operations work on one of these.
pub struct Fleet {
    pub(crate) store: Store,
    pub(crate) authority: Authority,
    pub(crate) connector: Connector,
    pub(crate) tokens: Tokens,
    pub(crate) known_keys: Known<ApiKeyInfo>,
    pub(crate) known_users: Known<Standing>,
    pub(crate) passwords: Passwords,
    /// How often this server was asked to log somebody in.
    pub(crate) attempts: Attempts,
    pub(crate) beats: Beats,
    pub(crate) census: Census,
    recent: Arc<Recent>,
    pub(crate) machines_url: String,
    pub(crate) healthy: AtomicBool,
    pub(crate) roll: Roll,
    pub(crate) signed_for: SignedFor,
    /// The bundles that processes on hosts get: our own, and those of federated domains.
    pub(crate) bundles: watch::Receiver<Bundles>,
    /// Changes with the entries, and with what decides on which hosts they hold.
    pub(crate) workload_changes: watch::Sender<()>,
    /// What this server is called among those on the same books, until it ends.
    pub(crate) replica: String,
    pub(crate) redis: RedisLink,
    /// Cancelled when the server stops: nobody is kept waiting for news any more.
    pub(crate) closing: CancellationToken,
}

/// Why the fleet could not be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The database cannot be used.
    #[error(transparent)]
    Database(#[from] OpenStoreError),
    /// The database was opened and then failed.
    #[error("cannot use the database {database}: {reason}")]
    Store {
        /// Which; without a password.
        database: String,
        /// Why.
        reason: StoreError,
    },
    /// A signing key in the database cannot be used.
    #[error("{0}; restore the database from a backup")]
    SigningKey(#[from] KeyUnusable),
    /// The bundle endpoints cannot be followed together.
    #[error(transparent)]
    Federation(#[from] FederationError),
}

impl Fleet {
    /// Opens the books, or begins new ones.
    ///
    /// `source` is this replica's own identity, `spiffe://DOMAIN/control-plane/...`, by which hosts
    /// know it. Where the books hold no API key at all, and no user who may do everything, a key
    /// with every right is made and returned: show it to whoever started the server, because nobody can see it again, and then
    /// [admit](Self::admit_first_key) it.
    ///
    /// # Errors
    /// [`OpenError`], which names the file and says what to do.
    pub async fn open(
        config: Config,
        authority: Authority,
        source: Source,
    ) -> Result<(Arc<Self>, Option<ApiKey>), OpenError> {
        let store = Store::open(&config.database).await?;
        let now = clock::now();
        let failed = |reason| OpenError::Store {
            database: config.database.to_string(),
            reason,
        };
        chain_old_lines(&store).await.map_err(failed)?;
        let token_keys = key_rotation::first_or_all(&store, now).await;
        let tokens = Tokens::new(&token_keys.map_err(|error| match error {
            TokenKeyError::Store(reason) => failed(reason),
            TokenKeyError::Unusable(reason) => reason.into(),
        })?)?;
        let (no_key, fleet_id) = begin(&store, now).await.map_err(failed)?;
        let replica = uuid::Uuid::now_v7().to_string();
        let redis = RedisLink::new(config.redis.as_ref(), &fleet_id, &replica);
        let roll = Roll::new(enrolled(&store).await.map_err(failed)?);
        // Without endpoints there is nothing to follow.
        let bundles = match config.federation {
            none if none.is_empty() => authority.watch_bundles(),
            endpoints => Federated::new(authority.clone(), endpoints)?.bundles(),
        };
        let trust_domain = authority.trust_domain().clone();
        let connector = Connector::new(source, trust_domain, store.clone(), config.replica_url);
        let fleet = Self {
            store,
            authority,
            connector,
            tokens,
            known_keys: Known::default(),
            known_users: Known::default(),
            passwords: Passwords::new(),
            attempts: Attempts::new(),
            beats: Beats::default(),
            census: Census::default(),
            recent: Arc::default(),
            machines_url: config.machines_url,
            healthy: AtomicBool::new(true),
            roll,
            signed_for: SignedFor::default(),
            bundles,
            workload_changes: watch::Sender::new(()),
            replica,
            redis,
            closing: CancellationToken::new(),
        };
        let shows_key = no_key && fleet.shows_first_key().await.map_err(failed)?;
        Ok((Arc::new(fleet), shows_key.then(ApiKey::generate)))
    }

    /// Makes the key of the first start good, once it has been shown: a key that nobody saw would
    /// lock everybody out for ever.
    pub async fn admit_first_key(&self, key: &ApiKey) -> Result<(), StoreError> {
        enter_first_key(&self.store, key, clock::now()).await
    }

    /// Whether the books could be read and written when the monitor last looked.
    pub fn healthy(&self) -> bool {
        self.healthy.load(Ordering::Relaxed)
    }

    /// Tells hosts that something about their workloads may be different.
    pub(crate) fn workloads_changed(&self) {
        self.workload_changes.send_replace(());
    }

    /// For somebody who watches what happens.
    pub(crate) fn watch(&self) -> Watch {
        Watch {
            store: self.store.clone(),
            recent: Arc::clone(&self.recent),
            news: self.store.watch_news(),
            closing: self.closing.clone(),
        }
    }

    /// Waits for what is under way in the books and closes them. Later operations fail.
    pub async fn close(&self) {
        self.healthy.store(false, Ordering::Relaxed);
        self.closing.cancel();
        if let Err(error) = self.give_up_leases().await {
            tracing::debug!(%error, "the leases of this replica end by themselves");
        }
        self.store.close().await;
    }
}

/// What somebody needs who watches what happens.
pub(crate) struct Watch {
    store: Store,
    recent: Arc<Recent>,
    news: watch::Receiver<u64>,
    closing: CancellationToken,
}

impl Watch {
    /// The number of the newest event.
    pub(crate) async fn newest(&self) -> Result<i64, StoreError> {
        self.recent.newest(&self.store).await
    }

    /// What comes after this event, nothing if nothing has happened.
    pub(crate) async fn after(&self, seen: i64) -> Result<Following, StoreError> {
        self.recent.after(&self.store, seen).await
    }

    /// From here on, something that happens ends [`wait`](Self::wait).
    pub(crate) fn mark(&mut self) {
        self.news.mark_unchanged();
    }

    /// Waits until something has happened; `false` when the server stops instead.
    pub(crate) async fn wait(&mut self) -> bool {
        tokio::select! {
            () = self.closing.cancelled() => false,
            changed = self.news.changed() => changed.is_ok(),
        }
    }
}

/// The hosts that have registered.
async fn enrolled(store: &Store) -> Result<Vec<HostId>, StoreError> {
    let mut db = store.read().await?;
    hosts::enrolled(&mut db).await
}

/// What a start does to the books before anybody asks: what the last run left half done comes to
/// light. Whether nobody could come in yet, and what the books are called.
async fn begin(store: &Store, now: Timestamp) -> Result<(bool, String), StoreError> {
    let mut tx = store.begin().await?;
    // On shared books a creation may be another replica's, which is still at it.
    let abandoned = match store.is_shared() {
        true => now - monitor::ABANDONED_AFTER,
        false => now,
    };
    monitor::surface_abandoned(&mut tx, abandoned, now).await?;
    let first = nobody_may_enter(&mut tx).await?;
    let id = fleet_id::get(&mut tx).await?;
    store::commit(tx).await?;
    Ok((first, id))
}

/// Whether there is no key at all, and no user who could make one of any kind.
async fn nobody_may_enter(db: &mut Db) -> Result<bool, StoreError> {
    Ok(!keys::any(db).await? && !users::any_admin(db).await?)
}

/// Puts the audit lines of older versions into the chain.
async fn chain_old_lines(store: &Store) -> Result<(), StoreError> {
    loop {
        let mut tx = store.begin().await?;
        let more = audit::chain_old_lines(&mut tx).await?;
        store::commit(tx).await?;
        if !more {
            return Ok(());
        }
    }
}

/// Enters the first admin's key, where nobody may enter otherwise.
async fn enter_first_key(store: &Store, key: &ApiKey, now: Timestamp) -> Result<(), StoreError> {
    let mut tx = store.begin().await?;
    if !nobody_may_enter(&mut tx).await? {
        return Ok(());
    }
    let actor = Actor::server(now);
    let info = ApiKeyInfo {
        id: KeyId::generate(),
        name: "first admin".to_owned(),
        scopes: vec![KeyScope::Admin],
        team_id: None,
        user_id: None,
        created_by: actor.subject.clone(),
        created_at: now,
        expires_at: None,
        last_used_at: None,
    };
    keys::insert(&mut tx, &info, &key.hash()).await?;
    audit::record(&mut tx, &actor, "api-key.create", &info.id).await?;
    store::commit(tx).await
}
