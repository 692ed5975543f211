//! Where a PostgreSQL server is, and how it is entered: a secret, because a password may be in it.

use std::fmt;
use std::str::FromStr;

use secrecy::{ExposeSecret, SecretString};
use sqlx::postgres::PgConnectOptions;

/// `postgres://USER:PASSWORD@HOST:PORT/DATABASE?sslmode=verify-full`. Shown without the password
/// and without anything behind the `?`.
#[derive(Clone)]
pub struct PostgresUrl {
    url: SecretString,
    shown: String,
}

impl PostgresUrl {
    pub(super) fn options(&self) -> PgConnectOptions {
        let parsed = PgConnectOptions::from_str(self.url.expose_secret());
        parsed.expect("it was parsed before")
    }

    /// The whole, for another connection of this process.
    #[must_use]
    pub fn secret(&self) -> &SecretString {
        &self.url
    }
}

/// A URL that does not say where a PostgreSQL server is. It is not repeated, because a password may
/// be in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "the URL of the PostgreSQL database cannot be read; write \
    postgres://USER:PASSWORD@HOST:PORT/DATABASE, with % escapes for special characters"
)]
pub struct PostgresUrlRefused;

impl FromStr for PostgresUrl {
    type Err = PostgresUrlRefused;

    fn from_str(url: &str) -> Result<Self, PostgresUrlRefused> {
        if !url.starts_with("postgres://") && !url.starts_with("postgresql://") {
            return Err(PostgresUrlRefused);
        }
        let options = PgConnectOptions::from_str(url).map_err(|_| PostgresUrlRefused)?;
        let shown = format!(
            "postgres://{}@{}:{}/{}",
            options.get_username(),
            options.get_host(),
            options.get_port(),
            options.get_database().unwrap_or_default(),
        );
        Ok(Self {
            url: url.into(),
            shown,
        })
    }
}

impl fmt::Display for PostgresUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown)
    }
}

impl fmt::Debug for PostgresUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PostgresUrl({})", self.shown)
    }
}

impl PartialEq for PostgresUrl {
    fn eq(&self, other: &Self) -> bool {
        self.url.expose_secret() == other.url.expose_secret()
    }
}

impl Eq for PostgresUrl {}
