//! Whether this process can do its work, in one word for load balancers.

use std::time::Duration;

use futures::future::BoxFuture;

/// A check that takes longer has failed: a load balancer asks every few seconds.
const PATIENCE: Duration = Duration::from_secs(2);

/// Answers `GET /healthz`. Implemented for closures that return a `bool`.
pub trait Health: Send + Sync + 'static {
    /// Whether requests can be served now; more than two seconds of thought count as no.
    fn is_healthy(&self) -> BoxFuture<'_, bool>;
}

impl<F: Fn() -> bool + Send + Sync + 'static> Health for F {
    fn is_healthy(&self) -> BoxFuture<'_, bool> {
        Box::pin(std::future::ready(self()))
    }
}

pub(crate) async fn check(health: &dyn Health) -> bool {
    tokio::time::timeout(PATIENCE, health.is_healthy())
        .await
        .unwrap_or(false)
}
