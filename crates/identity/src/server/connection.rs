//! HTTP on one connection whose peer is known.

use std::time::Duration;

use axum::Router;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use jiff::{SignedDuration, Timestamp};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;
use tower_layer::Layer;
use tracing::{debug, info};

use crate::peer::{PeerIdentity, WithPeer};
use crate::renewal::wait_until;

/// A request's head must be complete within this time.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);
/// A connection is closed politely so long before one of its certificates expires, or a tenth of
/// what is left of that certificate's life, so that both ends begin anew with newer ones in time.
const BEFORE_EXPIRY: SignedDuration = SignedDuration::from_secs(30);

/// What a connection hears from its server.
pub(super) struct Lifeline {
    stopping: CancellationToken,
    cut: CancellationToken,
}

impl Lifeline {
    pub(super) fn new(stopping: &CancellationToken, cut: &CancellationToken) -> Self {
        Self {
            stopping: stopping.clone(),
            cut: cut.clone(),
        }
    }

    /// Completes when no further request is to be taken, or none is to be finished.
    pub(super) async fn stopping(&self) {
        tokio::select! {
            () = self.stopping.cancelled() => {}
            () = self.cut.cancelled() => {}
        }
    }
}

/// Serves until either end has had enough, and never beyond `until`, when a certificate expires
/// that the connection began with: politely closed before, cut then.
pub(super) async fn serve_connection<S>(
    tls: TlsStream<S>,
    peer: PeerIdentity,
    until: Timestamp,
    app: Router,
    lifeline: Lifeline,
) where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = TowerToHyperService::new(WithPeer::new(peer).layer(app));
    let mut http = auto::Builder::new(TokioExecutor::new());
    http.http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT);
    http.http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(HEAD_TIMEOUT);
    let mut connection = std::pin::pin!(http.serve_connection(TokioIo::new(tls), service));
    let left = until.duration_since(Timestamp::now());
    // One timer for both: first it is time to close, then it is over.
    let mut ending = std::pin::pin!(wait_until(until - BEFORE_EXPIRY.min(left / 10)));
    let (mut closing, mut expiring) = (false, false);
    loop {
        tokio::select! {
            outcome = connection.as_mut() => {
                if let Err(reason) = outcome {
                    debug!(%reason, "connection ended early");
                }
                return;
            }
            () = lifeline.cut.cancelled() => return,
            () = lifeline.stopping.cancelled(), if !closing => {
                closing = true;
                connection.as_mut().graceful_shutdown();
            }
            () = ending.as_mut() => {
                if expiring {
                    info!(%until, "a connection is cut: a certificate expired that it began with");
                    return;
                }
                expiring = true;
                ending.set(wait_until(until));
                if !closing {
                    closing = true;
                    connection.as_mut().graceful_shutdown();
                }
            }
        }
    }
}
