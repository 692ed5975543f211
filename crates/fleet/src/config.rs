//! What the fleet must be told.

use std::path::PathBuf;
use std::str::FromStr;

use hostler_authority::federation::BundleEndpoint;

/// What [`Fleet::open`](crate::Fleet::open) must be told.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where the books are kept.
    pub database: Database,
    /// Where hosts reach the machines' door, for example `https://10.0.0.1:8444`. It is told to
    /// each host when it registers.
    pub machines_url: String,
    /// Where foreign trust domains publish their bundles. Processes on hosts recognise their
    /// members, if their authorizers name them.
    pub federation: Vec<BundleEndpoint>,
}

/// Where the books are kept; read from a URL, `sqlite:/var/lib/hostler/fleet.db`.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Database {
    /// A file of this process alone.
    Sqlite(PathBuf),
}

/// Why a URL names no database that can be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} names no database that this version can use; write sqlite:PATH")]
pub struct DatabaseRefused(String);

impl FromStr for Database {
    type Err = DatabaseRefused;

    fn from_str(url: &str) -> Result<Self, DatabaseRefused> {
        let path = url
            .strip_prefix("sqlite:")
            .map(|rest| rest.strip_prefix("//").unwrap_or(rest));
        match path {
            Some(path) if !path.is_empty() && !path.starts_with(':') && !path.contains('?') => {
                Ok(Self::Sqlite(path.into()))
            }
            _ => Err(DatabaseRefused(url.to_owned())),
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
        for bad in [
            "",
            "fleet.db",
            "sqlite:",
            "sqlite::memory:",
            "postgres://db/hostler",
        ] {
            let refused = bad.parse::<Database>().expect_err(bad);
            assert!(refused.to_string().contains("sqlite:PATH"), "{refused}");
        }
    }
}
