//! Whether this process can do its work, in one word for load balancers.

use std::time::Duration;

use futures::future::BoxFuture;

use crate::within::within;

/// A check that takes longer has failed: a load balancer asks every few seconds.
const PATIENCE: Duration = Duration::from_secs(2);

/// Answers `GET /healthz`. Implemented for closures that return a `bool`.
pub trait Health: Send + Sync + 'static {
    /// Whether requests can be served now; more than two seconds of thought count as no.
    fn is_healthy(&self) -> BoxFuture<'_, bool>;

    /// The same when it is known already: then nothing is boxed and nobody waits. `None`: ask.
    fn is_known(&self) -> Option<bool> {
        None
    }
}

impl<F: Fn() -> bool + Send + Sync + 'static> Health for F {
    fn is_healthy(&self) -> BoxFuture<'_, bool> {
        Box::pin(std::future::ready(self()))
    }

    fn is_known(&self) -> Option<bool> {
        Some(self())
    }
}

pub(crate) async fn check(health: &dyn Health) -> bool {
    match health.is_known() {
        Some(healthy) => healthy,
        None => ask(health).await,
    }
}

/// Boxed here and not where it is awaited; see `Dispatch::reach`.
fn ask(health: &dyn Health) -> BoxFuture<'_, bool> {
    Box::pin(async { within(PATIENCE, health.is_healthy()).await.unwrap_or(false) })
}
