//! What the fleet remembers: in a file of its own (SQLite), or on a PostgreSQL server that several
//! replicas share.
//!
//! A transaction that may write is alone: whatever it reads stays true until it commits, and none
//! fails because another was faster. Readers have connections of their own and wait for nobody.
//! What was acknowledged survives a power cut.
//!
//! The modules hold the statements, one module for each table, as functions on a connection;
//! whoever needs several of them to happen together calls them on one transaction. There is one
//! set of statements, in what SQLite and PostgreSQL share.

pub(crate) mod audit;
pub(crate) mod census;
pub(crate) mod entries;
pub(crate) mod events;
pub(crate) mod fleet_id;
pub(crate) mod hosts;
pub(crate) mod keys;
pub(crate) mod leases;
pub(crate) mod links;
pub(crate) mod members;
pub(crate) mod registration;
pub(crate) mod revisions;
pub(crate) mod signing;
pub(crate) mod teams;
pub(crate) mod users;
pub(crate) mod vms;

mod db;
mod error;
mod file;
mod postgres;
mod sqlite;
mod url;

use std::time::Duration;

use jiff::Timestamp;
use sqlx::migrate::Migrator;
use sqlx::postgres::PgConnectOptions;

use tokio::sync::watch;

use crate::config::Database;

pub use error::{OpenStoreError, StoreError};
pub use url::{PostgresUrl, PostgresUrlRefused};

pub(crate) use db::{Db, ForMany, Tx, query};

/// The tables, as they came to be. Forward only.
static MIGRATIONS: Migrator = sqlx::migrate!();
/// How long a request waits for a connection when all are in use.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(15);

/// The database. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Store {
    kind: Kind,
    /// How often something has happened of which watchers are told.
    news: watch::Sender<u64>,
    /// How often this server has changed something that others keep in memory.
    changes: watch::Sender<u64>,
}

#[derive(Clone)]
enum Kind {
    Sqlite(sqlite::File),
    Postgres(postgres::Server),
}

impl Store {
    /// Opens the database, or makes it, and brings its tables up to date.
    pub(crate) async fn open(database: &Database) -> Result<Self, OpenStoreError> {
        let kind = match database {
            Database::Sqlite(path) => Kind::Sqlite(sqlite::File::open(path).await?),
            Database::Postgres(url) => Kind::Postgres(postgres::Server::open(url).await?),
        };
        Ok(Self {
            kind,
            news: watch::Sender::new(0),
            changes: watch::Sender::new(0),
        })
    }

    /// Whether other replicas may be at the same books.
    pub(crate) fn is_shared(&self) -> bool {
        matches!(self.kind, Kind::Postgres(_))
    }

    /// A connection to read on.
    pub(crate) async fn read(&self) -> Result<Db, StoreError> {
        Ok(match &self.kind {
            Kind::Sqlite(file) => file.read().await?.into(),
            Kind::Postgres(server) => server.read().await?.into(),
        })
    }

    /// A connection for statements each of which is a change by itself, and reads nothing that
    /// has to stay true.
    pub(crate) async fn note(&self) -> Result<Db, StoreError> {
        Ok(match &self.kind {
            Kind::Sqlite(file) => file.note().await?.into(),
            Kind::Postgres(server) => server.note().await?.into(),
        })
    }

    /// Begins a transaction that may write.
    pub(crate) async fn begin(&self) -> Result<Tx, StoreError> {
        let db = match &self.kind {
            Kind::Sqlite(file) => file.begin().await?.into(),
            Kind::Postgres(server) => server.begin().await?.into(),
        };
        Ok(Tx::new(db, self.news.clone(), self.changes.clone()))
    }

    /// How often something has happened of which watchers are told, here or on another server.
    pub(crate) fn news(&self) -> u64 {
        *self.news.borrow()
    }

    /// Changes whenever something has happened.
    pub(crate) fn watch_news(&self) -> watch::Receiver<u64> {
        self.news.subscribe()
    }

    /// Changes whenever this server has changed something that others keep in memory.
    pub(crate) fn watch_changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// Says that something has happened on another server.
    pub(crate) fn tell_news(&self) {
        self.news.send_modify(|count| *count += 1);
    }

    /// Lets go of the database once everything under way has ended.
    pub(crate) async fn close(&self) {
        match &self.kind {
            Kind::Sqlite(file) => file.close().await,
            Kind::Postgres(server) => server.close().await,
        }
    }
}

/// Brings the tables on a server up to date; how to connect to it.
pub(crate) async fn prepare_server(url: &PostgresUrl) -> Result<PgConnectOptions, OpenStoreError> {
    Ok(postgres::prepare(url).await?.0)
}

/// Commits, with the errors of this room.
pub(crate) async fn commit(tx: Tx) -> Result<(), StoreError> {
    tx.commit().await.map_err(StoreError::of_commit)
}

/// A time as the tables have it: milliseconds since 1970.
fn millis(time: Timestamp) -> i64 {
    time.as_millisecond()
}

/// A time out of a table.
fn time(millis: i64) -> Result<Timestamp, StoreError> {
    Timestamp::from_millisecond(millis).map_err(StoreError::unreadable)
}

/// A number as the tables have it. The inputs' schemas keep all of them far below the limit.
fn number(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::TeamId;
    use crate::model::Team;

    fn team(name: &str) -> Team {
        let (id, name) = (TeamId::generate(), name.to_owned());
        Team {
            id,
            name,
            is_byoc: false,
            created_at: Timestamp::UNIX_EPOCH,
        }
    }

    async fn store() -> (Store, tempfile::TempDir) {
        let dir = tempfile::tempdir().expect("a directory");
        let database = Database::Sqlite(dir.path().join("fleet.db"));
        let store = Store::open(&database).await.expect("a store");
        (store, dir)
    }

    /// Writes until the database is as full as it may get; says how that ended.
    async fn fill(store: &Store) -> Result<(), StoreError> {
        let mut tx = store.begin().await.expect("a transaction");
        // The database may not grow any more: SQLite reports it as it does a full disk.
        query("PRAGMA max_page_count = 1")
            .execute(&mut tx)
            .await
            .expect("set");
        let mut filled = Ok(());
        for n in 0..10_000 {
            filled = teams::insert(&mut tx, &team(&format!("{n:0>200}"))).await;
            if filled.is_err() {
                break;
            }
        }
        filled
    }

    #[tokio::test]
    async fn a_full_disk_is_an_error_of_its_own_and_changes_nothing() {
        let (store, _dir) = store().await;
        let filled = fill(&store).await;
        assert!(matches!(filled, Err(StoreError::Full)), "{filled:?}");
        let mut db = store.read().await.expect("a connection");
        assert!(
            teams::list(&mut db, "", 10)
                .await
                .expect("readable")
                .is_empty()
        );
    }

    #[tokio::test]
    async fn once_there_is_space_again_the_books_can_be_written_again() {
        let (store, _dir) = store().await;
        for _ in 0..2 {
            fill(&store).await.expect_err("it is full");
            let mut tx = store.begin().await.expect("the next one begins");
            teams::insert(&mut tx, &team("ours")).await.expect("space");
            // Not committed, so that the name is free the second time.
        }
    }

    #[tokio::test]
    async fn a_second_row_of_the_same_name_is_a_duplicate() {
        let (store, _dir) = store().await;
        let mut tx = store.begin().await.expect("a transaction");
        teams::insert(&mut tx, &team("ours"))
            .await
            .expect("the first");
        let second = teams::insert(&mut tx, &team("ours")).await;
        assert!(matches!(second, Err(StoreError::Duplicate)), "{second:?}");
    }

    #[tokio::test]
    async fn a_transaction_that_is_dropped_never_happened_and_holds_nobody_up() {
        let (store, _dir) = store().await;
        let mut tx = store.begin().await.expect("a transaction");
        teams::insert(&mut tx, &team("ours"))
            .await
            .expect("inserted");
        drop(tx);
        let mut tx = store.begin().await.expect("the next one begins");
        assert!(
            teams::list(&mut tx, "", 10)
                .await
                .expect("readable")
                .is_empty()
        );
    }

    #[tokio::test]
    async fn readers_cannot_write() {
        let (store, _dir) = store().await;
        let mut db = store.read().await.expect("a connection");
        let written = teams::insert(&mut db, &team("ours")).await;
        assert!(matches!(written, Err(StoreError::ReadOnly)), "{written:?}");
    }
}
