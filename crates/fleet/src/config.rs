//! What the fleet must be told.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use hostler_authority::federation::BundleEndpoint;

use crate::redis_link::RedisUrl;
use crate::store::{PostgresUrl, PostgresUrlRefused};

/// What [`Fleet::open`](crate::Fleet::open) must be told.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where the books are kept.
    pub database: Database,
    /// Where hosts reach the machines' door, for example `https://10.0.0.1:8444`. It is told to
    /// each host when it registers.
    pub machines_url: String,
    /// Where other servers on the same books reach the machines' door of this one.
    pub replica_url: String,
    /// A Redis that all servers on the same books have, if any.
    pub redis: Option<RedisUrl>,
    /// Where foreign trust domains publish their bundles. Processes on hosts recognise their
    /// members, if their authorizers name them.
    pub federation: Vec<BundleEndpoint>,
}

/// Where the books are kept; read from a URL, `sqlite:/var/lib/hostler/fleet.db` or
/// `postgres://hostler@db.example/hostler`.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Database {
    /// A file of this process alone.
    Sqlite(PathBuf),
    /// A server that replicas share.
    Postgres(PostgresUrl),
}

/// Why a URL names no database that can be used. It is not repeated: a password may be in it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DatabaseRefused {
    /// It is of another kind.
    #[error(
        "this names no database that this version can use; write sqlite:PATH or \
        postgres://USER:PASSWORD@HOST:PORT/DATABASE"
    )]
    Kind,
    /// It is a PostgreSQL server's, and cannot be read.
    #[error(transparent)]
    Postgres(#[from] PostgresUrlRefused),
}

impl FromStr for Database {
    type Err = DatabaseRefused;

    fn from_str(url: &str) -> Result<Self, DatabaseRefused> {
        if url.starts_with("postgres:") || url.starts_with("postgresql:") {
            return Ok(Self::Postgres(url.parse()?));
        }
        let path = url
            .strip_prefix("sqlite:")
            .map(|rest| rest.strip_prefix("//").unwrap_or(rest));
        match path {
            Some(path) if !path.is_empty() && !path.starts_with(':') && !path.contains('?') => {
                Ok(Self::Sqlite(path.into()))
            }
            _ => Err(DatabaseRefused::Kind),
        }
    }
}

impl fmt::Display for Database {
    /// Without a password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sqlite(path) => write!(f, "{}", path.display()),
            Self::Postgres(url) => write!(f, "{url}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_database_is_named_by_its_url() {
        let sqlite = |path: &str| Ok(Database::Sqlite(path.into()));
        assert_eq!("sqlite:fleet.db".parse(), sqlite("fleet.db"));
        assert_eq!("sqlite:/var/lib/f.db".parse(), sqlite("/var/lib/f.db"));
        assert_eq!("sqlite:///var/lib/f.db".parse(), sqlite("/var/lib/f.db"));
        for bad in ["", "fleet.db", "sqlite:", "sqlite::memory:", "mysql://db"] {
            let refused = bad.parse::<Database>().expect_err(bad);
            assert!(refused.to_string().contains("sqlite:PATH"), "{refused}");
        }
    }

    #[test]
    fn a_password_in_a_url_is_shown_nowhere() {
        let url = "postgres://ada:open-sesame@db.example:5433/books?sslmode=require";
        let database: Database = url.parse().expect("a database");
        assert_eq!(database.to_string(), "postgres://ada@db.example:5433/books");
        let bad = "postgres://ada:open-sesame@db.example:port/books";
        let refused = bad.parse::<Database>().expect_err("no port");
        for shown in [
            format!("{database:?}"),
            format!("{refused:?}"),
            refused.to_string(),
        ] {
            assert!(!shown.contains("sesame"), "{shown}");
        }
    }
}
