//! HTTP on one connection whose peer is known.

use std::time::Duration;

use axum::Router;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;
use tower_layer::Layer;
use tracing::debug;

use crate::peer::{PeerIdentity, WithPeer};

/// A request's head must be complete within this time.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);

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

pub(super) async fn serve_connection<S>(
    tls: TlsStream<S>,
    peer: PeerIdentity,
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
    let mut asked_to_stop = false;
    loop {
        tokio::select! {
            outcome = connection.as_mut() => {
                if let Err(reason) = outcome {
                    debug!(%reason, "connection ended early");
                }
                return;
            }
            () = lifeline.cut.cancelled() => return,
            () = lifeline.stopping.cancelled(), if !asked_to_stop => {
                asked_to_stop = true;
                connection.as_mut().graceful_shutdown();
            }
        }
    }
}
