//! What the fleet remembers: SQLite in write-ahead-log mode, one file of mode 0600.
//!
//! Every change is a transaction that takes the write lock when it begins (`BEGIN IMMEDIATE`), on
//! the one connection that writes; so transactions come one after another in a fair queue, what one
//! read stays true until it commits, and none fails because another was faster. Readers have
//! connections of their own and wait for nobody. `synchronous=FULL`: what was acknowledged survives
//! a power cut.
//!
//! The modules hold the statements, one module for each table, as functions on a connection;
//! whoever needs several of them to happen together calls them on one transaction. The statements
//! are those that SQLite and PostgreSQL share.

pub(crate) mod audit;
pub(crate) mod entries;
pub(crate) mod hosts;
pub(crate) mod keys;
pub(crate) mod registration;
pub(crate) mod signing;
pub(crate) mod teams;
pub(crate) mod vms;

mod error;
mod file;

use std::path::Path;
use std::time::Duration;

use jiff::Timestamp;
use sqlx::pool::PoolConnection;
use sqlx::sqlite::{
    SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous,
};
use sqlx::{ConnectOptions, Sqlite, SqliteConnection, Transaction};

pub use error::{OpenStoreError, StoreError};

/// How long a transaction waits for another process (a backup, `sqlite3`) to let go of the file.
const BUSY_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a request waits for a connection when all are in use.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(15);
/// Takes the write lock at once.
const BEGIN: &str = "BEGIN IMMEDIATE";
const READERS: u32 = 3;
/// A reader that nobody needed for this long is closed, and its memory with it.
const READER_IDLE: Duration = Duration::from_secs(60);
/// Memory for cached pages, in KiB, of each connection.
const CACHE_KIB: u32 = 1024;

/// A connection, inside a transaction or not: what the statements run on.
pub(crate) type Db = SqliteConnection;
/// A transaction. Dropped without a commit, it never happened.
pub(crate) type Tx = Transaction<'static, Sqlite>;

/// The database. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Store {
    writer: SqlitePool,
    readers: SqlitePool,
}

impl Store {
    /// Opens the database, or makes it, and brings its tables up to date.
    pub(crate) async fn open(path: &Path) -> Result<Self, OpenStoreError> {
        file::prepare(path)?;
        let options = SqliteConnectOptions::new()
            .filename(path)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .foreign_keys(true)
            .busy_timeout(BUSY_TIMEOUT)
            .pragma("cache_size", format!("-{CACHE_KIB}"))
            .disable_statement_logging();
        let pool = |connections| {
            SqlitePoolOptions::new()
                .max_connections(connections)
                .acquire_timeout(ACQUIRE_TIMEOUT)
                .test_before_acquire(false)
                .max_lifetime(None)
        };
        let refused = |error: sqlx::Error| OpenStoreError::Unusable {
            path: path.to_owned(),
            reason: StoreError::from(error),
        };
        let writer = pool(1)
            .idle_timeout(None)
            .connect_with(options.clone())
            .await;
        let writer = writer.map_err(refused)?;
        let migrated = sqlx::migrate!().run(&writer).await;
        migrated.map_err(|error| OpenStoreError::migration(path, error))?;
        let readers = pool(READERS)
            .idle_timeout(READER_IDLE)
            .connect_lazy_with(options.pragma("query_only", "on"));
        Ok(Self { writer, readers })
    }

    /// A connection to read on.
    pub(crate) async fn read(&self) -> Result<PoolConnection<Sqlite>, StoreError> {
        Ok(self.readers.acquire().await?)
    }

    /// Begins a transaction that may write.
    pub(crate) async fn begin(&self) -> Result<Tx, StoreError> {
        match self.writer.begin_with(BEGIN).await {
            // A full disk makes SQLite roll back by itself. The driver does not notice: its own
            // rollback then fails, and it holds the transaction for open ever after. So the
            // connection is given up, and a new one takes its place.
            Err(sqlx::Error::InvalidSavePointStatement) => {
                self.writer.acquire().await?.close().await?;
                Ok(self.writer.begin_with(BEGIN).await?)
            }
            begun => Ok(begun?),
        }
    }

    /// Lets go of the file once everything under way has ended.
    pub(crate) async fn close(&self) {
        self.readers.close().await;
        self.writer.close().await;
    }
}

/// Commits, with the errors of this room.
pub(crate) async fn commit(tx: Tx) -> Result<(), StoreError> {
    Ok(tx.commit().await?)
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
        let store = Store::open(&dir.path().join("fleet.db"))
            .await
            .expect("a store");
        (store, dir)
    }

    /// Writes until the database is as full as it may get; says how that ended.
    async fn fill(store: &Store) -> Result<(), StoreError> {
        let mut tx = store.begin().await.expect("a transaction");
        // The database may not grow any more: SQLite reports it as it does a full disk.
        sqlx::query("PRAGMA max_page_count = 1")
            .execute(&mut *tx)
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
