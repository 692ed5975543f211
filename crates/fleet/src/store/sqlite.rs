//! The books as a file: SQLite in write-ahead-log mode, mode 0600.
//!
//! Every change is a transaction that takes the write lock when it begins (`BEGIN IMMEDIATE`), on
//! the one connection that writes; so transactions come one after another in a fair queue, what one
//! read stays true until it commits, and none fails because another was faster. Readers have
//! connections of their own and wait for nobody. `synchronous=FULL`: what was acknowledged survives
//! a power cut.

use std::path::Path;
use std::time::Duration;

use sqlx::pool::PoolConnection;
use sqlx::sqlite::{
    SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous,
};
use sqlx::{ConnectOptions, Sqlite, Transaction};

use super::{ACQUIRE_TIMEOUT, MIGRATIONS, OpenStoreError, StoreError, file};

/// How long a transaction waits for another process (a backup, `sqlite3`) to let go of the file.
const BUSY_TIMEOUT: Duration = Duration::from_secs(10);
/// Takes the write lock at once.
const BEGIN: &str = "BEGIN IMMEDIATE";
const READERS: u32 = 3;
/// A reader that nobody needed for this long is closed, and its memory with it.
const READER_IDLE: Duration = Duration::from_secs(60);
/// Memory for cached pages, in KiB, of each connection.
const CACHE_KIB: u32 = 1024;

/// The audit trail is only added to.
const APPEND_ONLY: &str = "
CREATE TRIGGER IF NOT EXISTS audit_keeps_lines BEFORE DELETE ON audit
BEGIN SELECT RAISE(ABORT, 'the audit trail is only added to'); END;
CREATE TRIGGER IF NOT EXISTS audit_changes_no_line BEFORE UPDATE ON audit
BEGIN SELECT RAISE(ABORT, 'the audit trail is only added to'); END;";

#[derive(Clone)]
pub(super) struct File {
    writer: SqlitePool,
    readers: SqlitePool,
}

impl File {
    /// Opens the file, or makes it, and brings its tables up to date.
    pub(super) async fn open(path: &Path) -> Result<Self, OpenStoreError> {
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
        let name = path.display().to_string();
        let writer = pool(1)
            .idle_timeout(None)
            .connect_with(options.clone())
            .await;
        let writer = writer.map_err(|error| OpenStoreError::Unusable {
            database: name.clone(),
            reason: error.into(),
        })?;
        let migrated = MIGRATIONS.run(&writer).await;
        migrated.map_err(|error| OpenStoreError::migration(name.clone(), error))?;
        let guarded = sqlx::raw_sql(APPEND_ONLY).execute(&writer).await;
        guarded.map_err(|error| OpenStoreError::Unusable {
            database: name,
            reason: error.into(),
        })?;
        let readers = pool(READERS)
            .idle_timeout(READER_IDLE)
            .connect_lazy_with(options.pragma("query_only", "on"));
        Ok(Self { writer, readers })
    }

    pub(super) async fn read(&self) -> Result<PoolConnection<Sqlite>, StoreError> {
        Ok(self.readers.acquire().await?)
    }

    pub(super) async fn note(&self) -> Result<PoolConnection<Sqlite>, StoreError> {
        Ok(self.writer.acquire().await?)
    }

    pub(super) async fn begin(&self) -> Result<Transaction<'static, Sqlite>, StoreError> {
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
    pub(super) async fn close(&self) {
        self.readers.close().await;
        self.writer.close().await;
    }
}
