//! A Redis (or Valkey, 6 or later) beside the books, which makes some things faster and decides none.
//!
//! - [`news`]: servers hear at once what others have changed, instead of looking twice a second.
//! - [`tokens`]: of those who race with one registration token, one asks the books.
//! - [`presence`]: most heartbeats are noted there, and every few minutes in the books.
//!
//! Whatever is there may be lost at any moment, and the whole may be away: then everything is as
//! without it, as fast as that is. So nothing is ever true because Redis says so, but that a token
//! was used and a host was heard of, which can refuse and can wait, and cannot let anybody in.

mod news;
mod presence;
mod tokens;
mod url;

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client, FromRedisValue, Pipeline, ProtocolVersion, PushInfo};
use tokio::sync::{Notify, mpsc, watch};

pub(crate) use tokens::Claim;
pub use url::{RedisUrl, RedisUrlRefused};

/// How long anything waits for Redis: less than the books take when they are busy.
const PATIENCE: Duration = Duration::from_millis(250);
/// How long a connection may take to be made.
const CONNECTS_WITHIN: Duration = Duration::from_secs(2);
/// How soon it is tried again to connect.
const AGAIN_AFTER: Duration = Duration::from_secs(1);

/// The way to Redis; without a URL it is always away.
pub(crate) struct RedisLink {
    client: Option<Client>,
    /// What the names of all keys of this fleet begin with.
    prefix: String,
    /// This server's name among those that hear each other.
    replica: String,
    held: Mutex<Option<MultiplexedConnection>>,
    /// Somebody has found the connection broken.
    broken: Notify,
    /// Changes whenever another server says that it has changed something.
    heard: watch::Sender<()>,
}

impl RedisLink {
    /// For the fleet of this name, and this server of it. Nobody is connected before
    /// [`keep`](Self::keep) is polled.
    pub(crate) fn new(url: Option<&RedisUrl>, fleet: &str, replica: &str) -> Self {
        Self {
            client: url.map(RedisUrl::client),
            prefix: format!("hostler:{fleet}:"),
            replica: replica.to_owned(),
            held: Mutex::default(),
            broken: Notify::new(),
            heard: watch::Sender::new(()),
        }
    }

    /// Whether there is one at all.
    pub(crate) fn is_used(&self) -> bool {
        self.client.is_some()
    }

    fn key(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    /// Stays connected for as long as it is polled; tells other servers whenever `changes` does.
    pub(crate) async fn keep(&self, mut changes: watch::Receiver<u64>) {
        let Some(client) = &self.client else {
            return std::future::pending().await;
        };
        let mut failing = false;
        loop {
            match self.connect(client).await {
                Ok(mut pushes) => {
                    failing = false;
                    tracing::info!("connected to Redis");
                    self.listen(&mut pushes, &mut changes).await;
                    *self.held() = None;
                    tracing::warn!("the connection to Redis is lost; the books do without it");
                }
                Err(error) if failing => tracing::debug!(%error, "Redis is still away"),
                Err(error) => {
                    failing = true;
                    tracing::warn!(%error, "Redis cannot be reached; the books do without it");
                }
            }
            tokio::time::sleep(AGAIN_AFTER).await;
        }
    }

    async fn connect(
        &self,
        client: &Client,
    ) -> Result<mpsc::UnboundedReceiver<PushInfo>, redis::RedisError> {
        let (sender, pushes) = mpsc::unbounded_channel();
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(CONNECTS_WITHIN))
            .set_response_timeout(Some(PATIENCE))
            .set_push_sender(sender);
        let mut connection = client
            .get_multiplexed_async_connection_with_config(&config)
            .await?;
        connection.subscribe(self.key(news::CHANNEL)).await?;
        *self.held() = Some(connection);
        // What happened while nobody listened.
        self.heard.send_replace(());
        Ok(pushes)
    }

    fn held(&self) -> std::sync::MutexGuard<'_, Option<MultiplexedConnection>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What Redis answers to these commands; `None` when it is away, or just went away.
    async fn ask<T: FromRedisValue>(&self, commands: &Pipeline) -> Option<T> {
        let mut connection = self.held().clone()?;
        match commands.query_async(&mut connection).await {
            Ok(answer) => Some(answer),
            // What is under one of our names there is not ours; the connection is good.
            Err(error) if error.code().is_some() => {
                tracing::warn!(%error, "Redis refuses; the books do without it");
                None
            }
            Err(error) => {
                tracing::debug!(%error, "Redis did not answer as it should");
                // Whoever comes next does not wait as long for the same.
                *self.held() = None;
                self.broken.notify_one();
                None
            }
        }
    }
}

/// RESP3, in which Redis speaks of its own accord on a connection that also answers.
fn speaks_for_itself(info: redis::ConnectionInfo) -> redis::ConnectionInfo {
    let settings = info.redis_settings().clone();
    info.set_redis_settings(settings.set_protocol(ProtocolVersion::RESP3))
}
