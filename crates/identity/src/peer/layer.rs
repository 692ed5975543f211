//! The peer for tower services: one layer that says who it is, one that insists on knowing.

use std::task::{Context, Poll};

use futures::future::{Either, Ready, ready};
use http::{Request, Response, StatusCode};
use tower_layer::Layer;
use tower_service::Service;

use super::{PeerIdentity, REFUSAL};

/// A layer for one connection: every request that passes it carries this peer, as if it had come
/// over a [`Server`](crate::Server). For whoever accepts connections by an
/// [`Acceptor`](crate::Acceptor) of their own.
#[derive(Debug, Clone)]
pub struct WithPeer(PeerIdentity);

impl WithPeer {
    /// The layer for the connection of this peer.
    #[must_use]
    pub fn new(peer: PeerIdentity) -> Self {
        Self(peer)
    }
}

impl<S> Layer<S> for WithPeer {
    type Service = PeerAdded<S>;

    fn layer(&self, inner: S) -> PeerAdded<S> {
        PeerAdded {
            inner,
            peer: self.0.clone(),
        }
    }
}

/// The service of [`WithPeer`].
#[derive(Debug, Clone)]
pub struct PeerAdded<S> {
    inner: S,
    peer: PeerIdentity,
}

impl<S: Service<Request<B>>, B> Service<Request<B>> for PeerAdded<S> {
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: Request<B>) -> S::Future {
        request.extensions_mut().insert(self.peer.clone());
        self.inner.call(request)
    }
}

/// A layer that answers 401 to every request without a peer. Around a router it covers every
/// route, those included whose handlers do not ask who calls.
#[derive(Debug, Clone, Copy, Default)]
pub struct RequirePeer;

impl<S> Layer<S> for RequirePeer {
    type Service = PeerRequired<S>;

    fn layer(&self, inner: S) -> PeerRequired<S> {
        PeerRequired { inner }
    }
}

/// The service of [`RequirePeer`].
#[derive(Debug, Clone)]
pub struct PeerRequired<S> {
    inner: S,
}

impl<S, B, Answer> Service<Request<B>> for PeerRequired<S>
where
    S: Service<Request<B>, Response = Response<Answer>>,
    Answer: From<&'static str>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Either<S::Future, Ready<Result<S::Response, S::Error>>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        if PeerIdentity::of(&request).is_some() {
            return Either::Left(self.inner.call(request));
        }
        let mut refusal = Response::new(Answer::from(REFUSAL));
        *refusal.status_mut() = StatusCode::UNAUTHORIZED;
        Either::Right(ready(Ok(refusal)))
    }
}
