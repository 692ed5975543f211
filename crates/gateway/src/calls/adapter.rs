//! What a door needs to serve the call protocol.

use std::fmt;
use std::future::Future;
use std::sync::Arc;

use hostler_operations::Registry;
use tokio::sync::Semaphore;

use super::answering::Answering;
use super::caller::Caller;
use super::conversation::{Conversation, Limits};
use super::link::{Link, Streams};
use crate::connection::ConnectionInfo;
use crate::credentials::{Credentials, IdentityProvider};
use crate::limits::{DoorLimits, RequestLimits};

type Greet = Arc<dyn Fn(Caller, ConnectionInfo) + Send + Sync>;

/// Serves the operations of an [`HttpAdapter`](crate::HttpAdapter) over the call protocol too.
#[derive(Clone)]
pub struct CallAdapter {
    registry: Arc<Registry>,
    provider: Arc<dyn IdentityProvider>,
    frames: Arc<Semaphore>,
    limits: RequestLimits,
    greet: Option<Greet>,
}

impl CallAdapter {
    pub(crate) fn new(
        registry: Arc<Registry>,
        provider: Arc<dyn IdentityProvider>,
        limits: RequestLimits,
    ) -> Self {
        let frames = limits.frames_total_bytes.min(Semaphore::MAX_PERMITS);
        Self {
            registry,
            provider,
            frames: Arc::new(Semaphore::new(frames)),
            limits,
            greet: None,
        }
    }

    /// Tells of every conversation that begins, with the means to call whoever is on the other
    /// end. It must not block.
    #[must_use]
    pub fn greeting(
        mut self,
        greet: impl Fn(Caller, ConnectionInfo) + Send + Sync + 'static,
    ) -> Self {
        self.greet = Some(Arc::new(greet));
        self
    }

    /// Carries one conversation to its end, or until `leave` and what is in flight is done.
    pub(crate) async fn converse(
        &self,
        (link, streams): (Link, Streams),
        connection: ConnectionInfo,
        limits: &DoorLimits,
        leave: impl Future<Output = ()>,
    ) {
        let credentials = Credentials {
            peer: connection.peer().cloned(),
            certificate: connection.certificate().cloned(),
            remote: Some(connection.remote()),
            ..Credentials::default()
        };
        let answering = Answering::new(
            Arc::clone(&self.registry),
            Arc::clone(&self.provider),
            credentials,
            Some(connection.local()),
        );
        let limits = Limits {
            calls: limits.calls,
            frame_time: self.limits.body_time,
            write_time: limits.write_time,
            idle_time: limits.idle_time,
        };
        let frames = Arc::clone(&self.frames);
        let conversation = Conversation::new(link, Some(answering), limits, frames);
        if let Some(greet) = &self.greet {
            greet(Caller::new(Arc::clone(&conversation)), connection);
        }
        conversation.carry(streams, leave).await;
    }
}

impl fmt::Debug for CallAdapter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CallAdapter").finish_non_exhaustive()
    }
}
