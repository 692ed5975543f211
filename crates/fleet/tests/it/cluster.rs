//! The PostgreSQL server of this test program, with one database for each test.

#[path = "postgres.rs"]
mod postgres;

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Connection};

use postgres::Postgres;

/// A power cut is not tried on it, so it need not wait for the disk.
const SETTINGS: [&str; 4] = [
    "fsync=off",
    "full_page_writes=off",
    "max_connections=400",
    "shared_buffers=32MB",
];

pub(crate) struct Cluster(Postgres);

/// The program's cluster.
pub(crate) fn cluster() -> &'static Cluster {
    static CLUSTER: OnceLock<Cluster> = OnceLock::new();
    CLUSTER.get_or_init(Cluster::start)
}

impl Cluster {
    pub(crate) fn start() -> Self {
        Self(Postgres::start(&SETTINGS))
    }

    /// Ends it, as a server is ended that is to be restarted.
    #[allow(dead_code, reason = "tests/it has books in files")]
    pub(crate) fn stop(self) {
        self.0.stop();
    }

    pub(crate) fn url(&self, database: &str) -> String {
        self.0.url(database)
    }

    /// A new empty database; its URL. Text there is sorted as in English unless it is told
    /// otherwise, which is not how ids have to be.
    pub(crate) async fn database(&self) -> String {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("test_{}", NEXT.fetch_add(1, Ordering::Relaxed));
        let mut db = self.connect("postgres").await;
        let version: String = sqlx::query_scalar("SHOW server_version_num")
            .fetch_one(&mut db)
            .await
            .expect("a version");
        let english = match version.parse::<u32>() {
            Ok(150_000..) => "LOCALE_PROVIDER icu ICU_LOCALE 'en-US'",
            _ => "",
        };
        self.execute(
            &mut db,
            &format!("CREATE DATABASE {name} TEMPLATE template0 ENCODING 'UTF8' {english}"),
        )
        .await;
        self.url(&name)
    }

    pub(crate) async fn connect(&self, database: &str) -> PgConnection {
        let begun = Instant::now();
        loop {
            match PgConnection::connect(&self.url(database)).await {
                Ok(db) => return db,
                // It listens a moment before it is ready.
                Err(error) => {
                    assert!(begun.elapsed() < Duration::from_secs(60), "{error}");
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            }
        }
    }

    pub(crate) async fn execute(&self, db: &mut PgConnection, statement: &str) {
        let done = sqlx::raw_sql(AssertSqlSafe(statement)).execute(db).await;
        done.expect(statement);
    }
}
