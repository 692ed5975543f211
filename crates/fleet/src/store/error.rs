//! What can go wrong with the database, by what somebody can do about it.

use std::path::{Path, PathBuf};

use sqlx::error::DatabaseError;
use sqlx::migrate::MigrateError;

/// Why a statement or a transaction failed. Nothing of it was stored.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The disk is full.
    #[error("the disk that holds the database is full; free some space on it, then try again")]
    Full,
    /// The file, or the file system that it is on, may not be written.
    #[error("the database cannot be written; check that its file system is mounted read-write")]
    ReadOnly,
    /// The file is not a database, or not a sound one.
    #[error("the database is damaged; stop the server and restore the file from a backup")]
    Damaged(#[source] Box<sqlx::Error>),
    /// Somebody else held the database for too long.
    #[error("the database is busy; another program holds it, or the disk is very slow")]
    Busy(#[source] Box<sqlx::Error>),
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
    #[error("cannot use the database {}: {reason}", path.display())]
    Unusable {
        /// The file.
        path: PathBuf,
        /// Why not.
        reason: StoreError,
    },
    /// A newer version of the program made it.
    #[error("the database {} was made by a newer version; start that version, or restore the \
        backup from before the upgrade", path.display())]
    Newer {
        /// The file.
        path: PathBuf,
    },
    /// Its tables could not be brought up to date.
    #[error("cannot bring the database {} up to date: {reason}", path.display())]
    Migration {
        /// The file.
        path: PathBuf,
        /// Why not.
        reason: Box<MigrateError>,
    },
}

impl StoreError {
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
            let code = extended_code(said.as_ref());
            return match code.map(|code| code & 0xff) {
                Some(FULL) => Self::Full,
                // The shared-memory index of the log could not grow: the same, by another name.
                _ if code == Some(IOERR_SHMSIZE) => Self::Full,
                Some(READONLY) => Self::ReadOnly,
                Some(CORRUPT | NOTADB) => Self::Damaged(Box::new(error)),
                Some(BUSY | LOCKED) => Self::Busy(Box::new(error)),
                _ => Self::Failed(Box::new(error)),
            };
        }
        match error {
            sqlx::Error::PoolTimedOut => Self::Busy(Box::new(error)),
            error @ (sqlx::Error::ColumnDecode { .. } | sqlx::Error::Decode(_)) => {
                Self::unreadable(error)
            }
            error => Self::Failed(Box::new(error)),
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
    pub(super) fn migration(path: &Path, error: MigrateError) -> Self {
        let path = path.to_owned();
        match error {
            MigrateError::VersionMissing(_) | MigrateError::VersionTooNew(..) => {
                Self::Newer { path }
            }
            MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _) => {
                Self::Unusable {
                    path,
                    reason: error.into(),
                }
            }
            reason => Self::Migration {
                path,
                reason: Box::new(reason),
            },
        }
    }
}
