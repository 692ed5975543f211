//! The books on a PostgreSQL server, shared by any number of replicas.
//!
//! A transaction that may write takes one advisory lock as it begins, so transactions come one
//! after another over all replicas: what one read stays true until it commits, exactly as in the
//! file. Each replica lets one of its own transactions stand in that queue at a time; the others
//! wait in a fair queue in the process, without a connection. Readers wait for nobody, and neither
//! does a statement that is a change by itself (a heartbeat's time).
//!
//! The server is nobody's to configure. What must hold whatever its defaults are is asked for at
//! each connection's start; text is compared bytewise, as in SQLite, whatever its locale.

use std::time::Duration;

use sqlx::pool::PoolConnection;
use sqlx::postgres::{PgConnectOptions, PgConnection, PgPool, PgPoolOptions};
use sqlx::{ConnectOptions, Connection, Postgres, Transaction};

use super::{ACQUIRE_TIMEOUT, MIGRATIONS, OpenStoreError, PostgresUrl, StoreError};

/// The advisory lock of whoever writes. The number is arbitrary; nobody else uses it.
const BEGIN: &str = "BEGIN; SELECT pg_advisory_xact_lock(4848390912774)";
/// The advisory lock of whoever brings the tables up to date.
const LOCK_TABLES: &str = "SELECT pg_advisory_lock(4848390912775)";
/// Connections for statements that are changes by themselves.
const NOTERS: u32 = 2;
/// Connections that only read. With the writer, ten replicas stay below the hundred connections
/// that a server takes by default.
const READERS: u32 = 5;
/// A connection that nobody needed for this long is closed.
const IDLE: Duration = Duration::from_secs(60);
/// A connection that lay idle for longer is asked whether it lives before it is used: a server
/// that was restarted meanwhile has ended it.
const TRUSTED_FOR: Duration = Duration::from_millis(100);
/// How long somebody waits for the writers' lock, and how long a replica that fell silent in a
/// transaction may hold it: the server then ends that transaction.
const PATIENCE: &str = "10s";
/// No statement takes so long.
const STATEMENT_TIMEOUT: &str = "30s";
/// The oldest version that is known to do (`server_version_num`).
const OLDEST: i32 = 140_000;
/// Text in the order of its bytes: what SQLite does, and what pages and ids rely on. Columns are
/// changed once, right after they were made and before anything is in them.
const BYTEWISE: &str = r#"
DO $$
DECLARE wrong RECORD;
BEGIN
    FOR wrong IN
        SELECT c.table_name, c.column_name FROM information_schema.columns c
        JOIN information_schema.tables t USING (table_schema, table_name)
        WHERE c.table_schema = current_schema() AND t.table_type = 'BASE TABLE'
          AND c.data_type = 'text' AND c.collation_name IS DISTINCT FROM 'C'
          AND c.table_name <> '_sqlx_migrations'
    LOOP
        EXECUTE format('ALTER TABLE %I ALTER COLUMN %I TYPE TEXT COLLATE "C"',
                       wrong.table_name, wrong.column_name);
    END LOOP;
END $$"#;

/// The audit trail is only added to.
const APPEND_ONLY: &str = "
CREATE OR REPLACE FUNCTION audit_is_only_added_to() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'the audit trail is only added to';
END $$;
CREATE OR REPLACE TRIGGER audit_is_only_added_to BEFORE UPDATE OR DELETE OR TRUNCATE ON audit
    FOR EACH STATEMENT EXECUTE FUNCTION audit_is_only_added_to();";

/// Heartbeats change rows of hosts in place, without a word to any index, where their pages have
/// room.
const ROOM_IN_PLACE: &str = "ALTER TABLE hosts SET (fillfactor = 70)";

#[derive(Clone)]
pub(super) struct Server {
    writer: PgPool,
    noters: PgPool,
    readers: PgPool,
}

impl Server {
    /// Connects, and brings the tables up to date; of any number of replicas that start at once,
    /// one does so and the others wait for it.
    pub(super) async fn open(url: &PostgresUrl) -> Result<Self, OpenStoreError> {
        let (plain, durable) = prepare(url).await?;
        let options = plain.options([
            ("lock_timeout", PATIENCE),
            ("idle_in_transaction_session_timeout", PATIENCE),
            ("statement_timeout", STATEMENT_TIMEOUT),
            ("default_transaction_isolation", "read committed"),
        ]);
        // What was acknowledged is there after a crash; what is stricter than that is left alone.
        let options = match durable {
            true => options,
            false => options.options([("synchronous_commit", "on")]),
        };
        let pool = |connections| {
            PgPoolOptions::new()
                .max_connections(connections)
                .acquire_timeout(ACQUIRE_TIMEOUT)
                .idle_timeout(IDLE)
                .test_before_acquire(false)
                .before_acquire(|connection, meta| {
                    Box::pin(async move {
                        if meta.idle_for > TRUSTED_FOR {
                            connection.ping().await?;
                        }
                        Ok(true)
                    })
                })
        };
        let read_only = options
            .clone()
            .options([("default_transaction_read_only", "on")]);
        Ok(Self {
            writer: pool(1).connect_lazy_with(options.clone()),
            noters: pool(NOTERS).connect_lazy_with(options),
            readers: pool(READERS).connect_lazy_with(read_only),
        })
    }

    pub(super) async fn read(&self) -> Result<PoolConnection<Postgres>, StoreError> {
        Ok(self.readers.acquire().await?)
    }

    pub(super) async fn note(&self) -> Result<PoolConnection<Postgres>, StoreError> {
        Ok(self.noters.acquire().await?)
    }

    pub(super) async fn begin(&self) -> Result<Transaction<'static, Postgres>, StoreError> {
        match self
            .writer
            .begin_with(BEGIN)
            .await
            .map_err(StoreError::from)
        {
            // Nothing was done yet; a connection that was cut is replaced by a fresh one.
            Err(StoreError::Unavailable(_)) => Ok(self.writer.begin_with(BEGIN).await?),
            begun => begun,
        }
    }

    pub(super) async fn close(&self) {
        self.readers.close().await;
        self.noters.close().await;
        self.writer.close().await;
    }
}

/// Brings the tables up to date. How to connect, and whether commits wait for the disk without
/// being asked to.
pub(super) async fn prepare(url: &PostgresUrl) -> Result<(PgConnectOptions, bool), OpenStoreError> {
    let name = &url.to_string();
    let options: PgConnectOptions = url
        .options()
        .application_name("hostler")
        .disable_statement_logging();
    let refused = |error: sqlx::Error| OpenStoreError::unusable(name, error);
    let connecting = tokio::time::timeout(ACQUIRE_TIMEOUT, options.connect());
    let mut db = connecting
        .await
        .map_err(|_| refused(sqlx::Error::PoolTimedOut))?
        .map_err(refused)?;
    let durable = suits(&mut db, name).await?;
    // Held until the connection ends, which it does here, however that goes.
    sqlx::query(LOCK_TABLES)
        .execute(&mut db)
        .await
        .map_err(refused)?;
    let migrator = PgPoolOptions::new()
        .max_connections(1)
        .acquire_timeout(ACQUIRE_TIMEOUT)
        .connect_lazy_with(options.clone());
    let migrated = MIGRATIONS.run(&migrator).await;
    migrator.close().await;
    migrated.map_err(|error| OpenStoreError::migration(name.to_owned(), error))?;
    for once in [BYTEWISE, APPEND_ONLY, ROOM_IN_PLACE] {
        let done = sqlx::raw_sql(once).execute(&mut db).await;
        done.map_err(refused)?;
    }
    db.close().await.map_err(refused)?;
    Ok((options, durable))
}

/// Whether this server can hold the books at all; and whether its commits wait for the disk.
async fn suits(db: &mut PgConnection, name: &str) -> Result<bool, OpenStoreError> {
    let (version, encoding, synchronous): (String, String, String) = sqlx::query_as(
        "SELECT current_setting('server_version_num'), current_setting('server_encoding'),
                current_setting('synchronous_commit')",
    )
    .fetch_one(&mut *db)
    .await
    .map_err(|error| OpenStoreError::unusable(name, error))?;
    let unsuitable = |reason: String| OpenStoreError::Unsuitable {
        database: name.to_owned(),
        reason,
    };
    if version
        .parse::<i32>()
        .map_or(true, |version| version < OLDEST)
    {
        return Err(unsuitable(format!(
            "its version is {version}; PostgreSQL {} or later is needed",
            OLDEST / 10_000
        )));
    }
    if encoding != "UTF8" {
        return Err(unsuitable(format!(
            "its encoding is {encoding}; make one with: CREATE DATABASE hostler ENCODING 'UTF8' \
             TEMPLATE template0"
        )));
    }
    Ok(synchronous != "off")
}
