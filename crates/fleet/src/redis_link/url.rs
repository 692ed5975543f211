//! Where a Redis is, and how it is entered: a secret, because a password may be in it.

use std::fmt;
use std::str::FromStr;

use redis::{Client, ConnectionInfo, IntoConnectionInfo};

use super::speaks_for_itself;

/// `redis://USER:PASSWORD@HOST:PORT/DB`, `rediss://` with TLS, `redis+unix:///PATH`. Shown without
/// the password.
#[derive(Clone)]
pub struct RedisUrl {
    info: ConnectionInfo,
    client: Client,
}

/// A URL that does not say where a Redis is. It is not repeated, because a password may be in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "the URL of Redis cannot be read; write redis://USER:PASSWORD@HOST:PORT/DB, rediss:// for TLS, \
    or redis+unix:///PATH, with % escapes for special characters"
)]
pub struct RedisUrlRefused;

impl RedisUrl {
    pub(super) fn client(&self) -> Client {
        self.client.clone()
    }
}

impl FromStr for RedisUrl {
    type Err = RedisUrlRefused;

    fn from_str(url: &str) -> Result<Self, RedisUrlRefused> {
        let info = url.into_connection_info().map_err(|_| RedisUrlRefused)?;
        let info = speaks_for_itself(info);
        let client = Client::open(info.clone()).map_err(|_| RedisUrlRefused)?;
        Ok(Self { info, client })
    }
}

impl fmt::Display for RedisUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.info.addr())
    }
}

impl fmt::Debug for RedisUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RedisUrl({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_shown_without_its_password_and_refused_without_being_repeated() {
        let url: RedisUrl = "redis://ada:se%20cret@redis.example:6380/2"
            .parse()
            .expect("a URL");
        let shown = format!("{url} {url:?}");
        assert!(shown.contains("redis.example:6380"), "{shown}");
        assert!(!shown.contains("cret"), "{shown}");
        for good in [
            "redis://127.0.0.1",
            "rediss://r.example",
            "redis+unix:///run/redis.sock",
        ] {
            assert!(good.parse::<RedisUrl>().is_ok(), "{good}");
        }
        for bad in [
            "",
            "localhost",
            "http://secret@h",
            "redis://:secret@h:port/",
            "redis://h/secret",
        ] {
            let refused = bad.parse::<RedisUrl>().expect_err(bad).to_string();
            assert!(!refused.contains("secret"), "{refused}");
        }
    }
}
