//! What a door needs to serve the call protocol.

use std::fmt;
use std::future::Future;
use std::sync::Arc;

use hostler_operations::Registry;
use http::{HeaderMap, HeaderName};

use super::answering::Answering;
use super::budget::FrameBudget;
use super::caller::Caller;
use super::conversation::{Conversation, Limits};
use super::link::{Datagrams, Link, Streams};
use crate::connection::ConnectionInfo;
use crate::credentials::{AuthError, Credentials, IdentityProvider};
use crate::limits::{DoorLimits, RequestLimits};
use crate::rates::Rates;

type Greet = Arc<dyn Fn(Caller, ConnectionInfo) + Send + Sync>;

/// Serves the operations of an [`HttpAdapter`](crate::HttpAdapter) over the call protocol too.
#[derive(Clone)]
pub struct CallAdapter {
    registry: Arc<Registry>,
    provider: Arc<dyn IdentityProvider>,
    frames: FrameBudget,
    credential_headers: Vec<HeaderName>,
    limits: RequestLimits,
    rates: Arc<Rates>,
    greet: Option<Greet>,
}

impl CallAdapter {
    pub(crate) fn new(
        registry: Arc<Registry>,
        provider: Arc<dyn IdentityProvider>,
        credential_headers: Vec<HeaderName>,
        limits: RequestLimits,
        rates: Arc<Rates>,
    ) -> Self {
        Self {
            registry,
            provider,
            frames: FrameBudget::new(limits.frames_total_bytes),
            credential_headers,
            limits,
            rates,
            greet: None,
        }
    }

    /// Tells of every conversation that begins, with the means to call whoever is on the other
    /// end; of a browser's once it has said who is there. It must not block.
    #[must_use]
    pub fn greeting(
        mut self,
        greet: impl Fn(Caller, ConnectionInfo) + Send + Sync + 'static,
    ) -> Self {
        self.greet = Some(Arc::new(greet));
        self
    }

    /// Carries a conversation on a connection of its own to its end, or until `leave` and what is in
    /// flight is done.
    pub(crate) async fn on_a_connection(
        &self,
        connection: quinn::Connection,
        info: ConnectionInfo,
        limits: &DoorLimits,
        leave: impl Future<Output = ()>,
    ) {
        let answering = self.answering(Credentials::of_connection(&info), &info);
        let carried = Link::whole(connection);
        self.converse(carried, answering, info, limits, leave).await;
    }

    /// Carries a conversation in a session, for which these credentials were shown.
    pub(crate) async fn in_a_session(
        &self,
        carried: (Link, Streams, Datagrams),
        shown: Credentials,
        info: ConnectionInfo,
        limits: &DoorLimits,
        leave: impl Future<Output = ()>,
    ) {
        let answering = self.answering(shown, &info).gated();
        self.converse(carried, answering, info, limits, leave).await;
    }

    /// What a request for a session shows, unless it does not hold.
    pub(crate) async fn shown(
        &self,
        headers: &HeaderMap,
        info: &ConnectionInfo,
    ) -> Result<Credentials, AuthError> {
        let shown = Credentials::gather(headers, &self.credential_headers, Some(info))?;
        self.rates.resolve(&*self.provider, &shown).await?;
        Ok(shown)
    }

    fn answering(&self, shown: Credentials, info: &ConnectionInfo) -> Answering {
        let (registry, provider) = (Arc::clone(&self.registry), Arc::clone(&self.provider));
        Answering::new(registry, provider, shown, Some(info.local())).limited(&self.rates)
    }

    async fn converse(
        &self,
        (link, streams, datagrams): (Link, Streams, Datagrams),
        answering: Answering,
        info: ConnectionInfo,
        limits: &DoorLimits,
        leave: impl Future<Output = ()>,
    ) {
        let limits = Limits {
            calls: limits.calls,
            frame_time: self.limits.body_time,
            write_time: limits.write_time,
            idle_time: limits.idle_time,
        };
        let frames = self.frames.clone();
        let conversation = Conversation::new(link, Some(answering), limits, frames);
        let greeting = async {
            conversation.admitted().await;
            if let Some(greet) = &self.greet {
                greet(Caller::new(Arc::clone(&conversation)), info);
            }
            std::future::pending().await
        };
        tokio::select! {
            () = conversation.carry(streams, datagrams, leave) => {}
            () = greeting => {}
        }
    }
}

impl fmt::Debug for CallAdapter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CallAdapter").finish_non_exhaustive()
    }
}
