//! Keys that replicas share, in the database: those of the authority and of the people's door.
//!
//! Keys change some times a month, in the middle of a signature, which does not wait for anything
//! else. So this speaks with the database on a thread and a connection of its own, for as long as a
//! disk would take, and gives up after some seconds.

use std::future::Future;
use std::time::Duration;

use hostler_authority::{Revision, SharedState, SharedStateError};
use secrecy::{ExposeSecret, SecretString};
use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{ConnectOptions, Connection};

use crate::config::Database;
use crate::store::{OpenStoreError, StoreError, prepare_server};

const PATIENCE: Duration = Duration::from_secs(5);

/// The keys that replicas share.
pub struct SharedKeys {
    options: PgConnectOptions,
}

impl SharedKeys {
    /// The place for shared keys in this database, whose tables are brought up to date; `None` when
    /// the database is one server's alone, which keeps its keys in its directory.
    ///
    /// # Errors
    /// The database cannot be used.
    pub async fn open(database: &Database) -> Result<Option<Self>, OpenStoreError> {
        match database {
            Database::Sqlite(_) => Ok(None),
            Database::Postgres(url) => {
                let options = prepare_server(url).await?;
                Ok(Some(Self { options }))
            }
        }
    }

    fn ask<T: Send, F>(
        &self,
        ask: impl FnOnce(PgConnection) -> F + Send,
    ) -> Result<T, SharedStateError>
    where
        F: Future<Output = Result<T, sqlx::Error>>,
    {
        let asking = || -> Result<T, SharedStateError> {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build();
            let runtime = runtime.map_err(|error| SharedStateError(error.into()))?;
            let answer = runtime.block_on(async {
                let asking = async { ask(self.options.connect().await?).await };
                tokio::time::timeout(PATIENCE, asking).await
            });
            match answer {
                Ok(answer) => {
                    answer.map_err(|error| SharedStateError(StoreError::from(error).into()))
                }
                Err(late) => Err(SharedStateError(late.into())),
            }
        };
        std::thread::scope(|scope| match scope.spawn(asking).join() {
            Ok(answer) => answer,
            Err(panic) => std::panic::resume_unwind(panic),
        })
    }
}

impl SharedState for SharedKeys {
    fn load(&self, name: &str) -> Result<Option<Revision>, SharedStateError> {
        self.ask(|mut db| async move {
            let row: Option<(i64, String)> =
                sqlx::query_as("SELECT revision, document FROM shared_state WHERE name = $1")
                    .bind(name)
                    .fetch_optional(&mut db)
                    .await?;
            db.close().await?;
            Ok(row.map(|(number, text)| Revision {
                number: number.unsigned_abs(),
                text: text.into(),
            }))
        })
    }

    fn replace(
        &self,
        name: &str,
        over: u64,
        text: &SecretString,
    ) -> Result<bool, SharedStateError> {
        let over = i64::try_from(over).unwrap_or(i64::MAX);
        self.ask(|mut db| async move {
            let done = sqlx::query(
                "INSERT INTO shared_state (name, revision, document)
                 SELECT $1, 1, $3 WHERE $2 = 0
                 ON CONFLICT (name) DO NOTHING",
            );
            let done = match over {
                0 => done,
                _ => sqlx::query(
                    "UPDATE shared_state SET revision = revision + 1, document = $3
                     WHERE name = $1 AND revision = $2",
                ),
            };
            let done = done
                .bind(name)
                .bind(over)
                .bind(text.expose_secret())
                .execute(&mut db)
                .await?;
            db.close().await?;
            Ok(done.rows_affected() == 1)
        })
    }
}
