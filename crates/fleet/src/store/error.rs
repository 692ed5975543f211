//! What can go wrong with the database, by what somebody can do about it. Errors are sorted by the
//! database's code, never by its text.

use std::path::PathBuf;

use sqlx::error::DatabaseError;
use sqlx::migrate::MigrateError;
use sqlx::postgres::PgDatabaseError;

/// Why a statement or a transaction failed. Nothing of it was stored.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The disk is full.
    #[error("the disk that holds the database is full; free some space on it, then try again")]
    Full,
    /// The file, or the file system that it is on, may not be written; or the server is a standby.
    #[error(
        "the database cannot be written; check that its file system is mounted read-write, or \
        that the server is no standby"
    )]
    ReadOnly,
    /// The file is not a database, or not a sound one.
    #[error("the database is damaged; stop the server and restore it from a backup")]
    Damaged(#[source] Box<sqlx::Error>),
    /// Somebody else held the database for too long.
    #[error("the database is busy; another program holds it, or the disk is very slow")]
    Busy(#[source] Box<sqlx::Error>),
    /// The server cannot be reached, or has ended the connection before anything was committed.
    #[error("the database cannot be reached: {0}")]
    Unavailable(#[source] Box<sqlx::Error>),
    /// The server ended the connection over a commit, so a change may have been stored or not.
    #[error("the database was lost while a change was committed, which may be stored or not: {0}")]
    Uncertain(#[source] Box<sqlx::Error>),
    /// Our role may not do this.
    #[error("the database's role lacks a right: {0}; give it the rights on the schema")]
    Denied(#[source] Box<sqlx::Error>),
    /// There is such a row already.
    #[error("there is such a row already")]
    Duplicate,
    /// A row holds what this version cannot read.
    #[error("a row of the database cannot be read: {0}")]
    Unreadable(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// Anything else.
    #[error("the database failed: {0}")]
    Failed(#[source] Box<sqlx::Error>),
}

/// Why the database cannot be used at all.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenStoreError {
    /// Its directory or file cannot be made.
    #[error("cannot make {}: {reason}; choose another data directory or correct its permissions",
        path.display())]
    Make {
        /// What could not be made.
        path: PathBuf,
        /// What the operating system said.
        reason: std::io::Error,
    },
    /// It cannot be opened.
    #[error("cannot use the database {database}: {reason}")]
    Unusable {
        /// Which; without a password.
        database: String,
        /// Why not.
        reason: StoreError,
    },
    /// It is of a kind that cannot be used.
    #[error("cannot use the database {database}: {reason}")]
    Unsuitable {
        /// Which; without a password.
        database: String,
        /// Why not, and what would do.
        reason: String,
    },
    /// A newer version of the program made it.
    #[error(
        "the database {database} was made by a newer version; start that version, or restore \
        the backup from before the upgrade"
    )]
    Newer {
        /// Which; without a password.
        database: String,
    },
    /// Its tables could not be brought up to date.
    #[error("cannot bring the database {database} up to date: {reason}")]
    Migration {
        /// Which; without a password.
        database: String,
        /// Why not.
        reason: Box<MigrateError>,
    },
}

impl StoreError {
    /// Whether it passes by itself, and nothing was changed: whoever tries again does right.
    pub(crate) fn passes(&self) -> bool {
        matches!(self, Self::Unavailable(_) | Self::Busy(_))
    }

    /// The same failure, of a commit.
    pub(super) fn of_commit(self) -> Self {
        match self {
            Self::Unavailable(error) => Self::Uncertain(error),
            other => other,
        }
    }

    pub(super) fn unreadable(reason: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self::Unreadable(reason.into())
    }
}

impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> Self {
        if let sqlx::Error::Database(said) = &error {
            if said.is_unique_violation() {
                return Self::Duplicate;
            }
            return match said.try_downcast_ref::<PgDatabaseError>() {
                Some(said) => Self::of_postgres(said.code().to_owned(), error),
                None => Self::of_sqlite(extended_code(said.as_ref()), error),
            };
        }
        match error {
            sqlx::Error::PoolTimedOut => Self::Busy(Box::new(error)),
            error @ (sqlx::Error::Io(_)
            | sqlx::Error::Tls(_)
            | sqlx::Error::Protocol(_)
            | sqlx::Error::BeginFailed
            | sqlx::Error::WorkerCrashed) => Self::Unavailable(Box::new(error)),
            error @ (sqlx::Error::ColumnDecode { .. } | sqlx::Error::Decode(_)) => {
                Self::unreadable(error)
            }
            error => Self::Failed(Box::new(error)),
        }
    }
}

impl StoreError {
    fn of_sqlite(code: Option<u32>, error: sqlx::Error) -> Self {
        match code.map(|code| code & 0xff) {
            Some(FULL) => Self::Full,
            // The shared-memory index of the log could not grow: the same, by another name.
            _ if code == Some(IOERR_SHMSIZE) => Self::Full,
            Some(READONLY) => Self::ReadOnly,
            Some(CORRUPT | NOTADB) => Self::Damaged(Box::new(error)),
            Some(BUSY | LOCKED) => Self::Busy(Box::new(error)),
            _ => Self::Failed(Box::new(error)),
        }
    }

    /// By SQLSTATE, <https://www.postgresql.org/docs/current/errcodes-appendix.html>.
    fn of_postgres(code: String, error: sqlx::Error) -> Self {
        match code.as_str() {
            "53100" => Self::Full,
            "25006" => Self::ReadOnly,
            "42501" => Self::Denied(Box::new(error)),
            "XX001" | "XX002" => Self::Damaged(Box::new(error)),
            // A lock or a statement took too long, or this one gave way to another.
            "55P03" | "57014" | "40P01" | "40001" => Self::Busy(Box::new(error)),
            // It ends, was ended, starts, or takes no more connections; or it ended a transaction
            // of ours that stood still for too long.
            "57P01" | "57P02" | "57P03" | "57P05" | "53300" | "25P03" => {
                Self::Unavailable(Box::new(error))
            }
            code if code.starts_with("08") => Self::Unavailable(Box::new(error)),
            _ => Self::Failed(Box::new(error)),
        }
    }
}

// SQLite's primary result codes, <https://sqlite.org/rescode.html>; an extended code holds its
// primary one in the low eight bits.
const BUSY: u32 = 5;
const LOCKED: u32 = 6;
const READONLY: u32 = 8;
const CORRUPT: u32 = 11;
const FULL: u32 = 13;
const NOTADB: u32 = 26;
const IOERR_SHMSIZE: u32 = 10 | 19 << 8;

fn extended_code(error: &dyn DatabaseError) -> Option<u32> {
    error.code()?.parse().ok()
}

impl OpenStoreError {
    pub(super) fn unusable(database: &str, error: sqlx::Error) -> Self {
        Self::Unusable {
            database: database.to_owned(),
            reason: error.into(),
        }
    }

    pub(super) fn migration(database: String, error: MigrateError) -> Self {
        match error {
            MigrateError::VersionMissing(_) | MigrateError::VersionTooNew(..) => {
                Self::Newer { database }
            }
            MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _) => {
                Self::Unusable {
                    database,
                    reason: error.into(),
                }
            }
            reason => Self::Migration {
                database,
                reason: Box::new(reason),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_of_a_commit_it_is_uncertain_whether_it_was_stored() {
        let lost = || StoreError::from(sqlx::Error::WorkerCrashed);
        assert!(lost().passes());
        let commit = lost().of_commit();
        assert!(matches!(commit, StoreError::Uncertain(_)) && !commit.passes());
    }
}
