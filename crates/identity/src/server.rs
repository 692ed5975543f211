//! An axum router over mutual TLS, and the building block for those who have a listener already.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use http::Request;
use hyper::body::Incoming;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, ToSocketAddrs};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, warn};

use crate::authorizer::Authorizer;
use crate::peer::{NoPeerIdentity, PeerIdentity};
use crate::source::Source;
use crate::tls::server_config;

/// A handshake that takes longer is given up, so that silent connections do not pile up.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// A refused peer has this long, and this many bytes, to take notice.
const LINGER: Duration = Duration::from_secs(1);
const LINGER_BYTES: u64 = 64 * 1024;
/// A request's head must be complete within this time.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);
/// What is in flight when the server is told to stop has this long to finish.
const GRACE: Duration = Duration::from_secs(30);
/// A listener that is out of file descriptors waits this long before it accepts again.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves an axum [`Router`] to peers that the authorizer accepts. Handlers take a
/// [`PeerIdentity`] to know their caller.
#[derive(Debug)]
pub struct Server {
    listener: TcpListener,
    acceptor: Acceptor,
}

impl Server {
    /// Listens at `address`; port 0 takes a free one. Serving begins with [`serve`](Self::serve).
    pub async fn bind(
        address: impl ToSocketAddrs,
        source: &Source,
        clients: Authorizer,
    ) -> io::Result<Self> {
        let listener = TcpListener::bind(address).await?;
        Ok(Self {
            listener,
            acceptor: Acceptor::new(server_config(source, clients)),
        })
    }

    /// Where the server listens.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves until `stop` completes; then takes no new connection, lets what is in flight finish
    /// (30 s at most), and returns.
    pub async fn serve(self, app: Router, stop: impl Future<Output = ()>) {
        let (stopping, connections) = (CancellationToken::new(), TaskTracker::new());
        let mut stop = std::pin::pin!(stop);
        loop {
            let tcp = tokio::select! {
                () = &mut stop => break,
                accepted = self.listener.accept() => match accepted {
                    Ok((tcp, _)) => tcp,
                    Err(reason) => {
                        warn!(%reason, "cannot accept a connection");
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                        continue;
                    }
                },
            };
            let (acceptor, app, stopping) = (self.acceptor.clone(), app.clone(), stopping.clone());
            connections.spawn(async move {
                match acceptor.accept(tcp).await {
                    Ok((tls, peer)) => serve_connection(tls, peer, app, stopping).await,
                    Err(reason) => debug!(%reason, "connection not accepted"),
                }
            });
        }
        drop(self.listener);
        stopping.cancel();
        connections.close();
        if tokio::time::timeout(GRACE, connections.wait())
            .await
            .is_err()
        {
            warn!(
                open = connections.len(),
                "stopped with requests still in flight"
            );
        }
    }
}

async fn serve_connection<S>(
    tls: TlsStream<S>,
    peer: PeerIdentity,
    app: Router,
    stopping: CancellationToken,
) where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let router = TowerToHyperService::new(app);
    let service = service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(peer.clone());
        router.call(request)
    });
    let mut http = auto::Builder::new(TokioExecutor::new());
    http.http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT);
    http.http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(HEAD_TIMEOUT);
    let mut connection = std::pin::pin!(http.serve_connection(TokioIo::new(tls), service));
    let outcome = tokio::select! {
        outcome = connection.as_mut() => outcome,
        () = stopping.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(reason) = outcome {
        debug!(%reason, "connection ended early");
    }
}

/// The server's side of the handshake for whoever has a listener of their own: bytes in, a
/// verified peer out. Cheap to clone.
#[derive(Clone)]
pub struct Acceptor {
    tls: TlsAcceptor,
}

/// Why a connection was not accepted.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AcceptError {
    /// The handshake failed: no or a refused certificate, an old TLS version, or no TLS at all.
    #[error("the handshake failed: {0}")]
    Handshake(#[source] io::Error),
    /// The handshake was not finished in time.
    #[error("the handshake was not finished within {} s", HANDSHAKE_TIMEOUT.as_secs())]
    Timeout,
    /// The handshake succeeded without a SPIFFE peer: the configuration is not one of ours.
    #[error("the connection has no peer identity: {0}")]
    NoPeer(#[from] NoPeerIdentity),
}

impl Acceptor {
    /// An acceptor over a configuration from [`server_config`].
    #[must_use]
    pub fn new(config: rustls::ServerConfig) -> Self {
        Self {
            tls: TlsAcceptor::from(Arc::new(config)),
        }
    }

    /// Shakes hands (10 s at most) and names the peer.
    ///
    /// A refused peer gets its alert: closing a socket on which bytes lie unread makes the kernel
    /// send a reset, which can overtake the alert, so what is left is read for a moment first.
    pub async fn accept<S>(&self, stream: S) -> Result<(TlsStream<S>, PeerIdentity), AcceptError>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let handshake = self.tls.accept(stream).into_fallible();
        let tls = match tokio::time::timeout(HANDSHAKE_TIMEOUT, handshake).await {
            Ok(Ok(tls)) => tls,
            Ok(Err((reason, stream))) => {
                let _ = tokio::time::timeout(LINGER, drain(stream)).await;
                return Err(AcceptError::Handshake(reason));
            }
            Err(_) => return Err(AcceptError::Timeout),
        };
        let peer = PeerIdentity::from_server_connection(tls.get_ref().1)?;
        Ok((tls, peer))
    }
}

/// Says that nothing more is coming, and reads until the peer has said so too.
async fn drain(mut stream: impl AsyncRead + AsyncWrite + Unpin) -> io::Result<()> {
    stream.shutdown().await?;
    tokio::io::copy(&mut stream.take(LINGER_BYTES), &mut tokio::io::sink()).await?;
    Ok(())
}

impl std::fmt::Debug for Acceptor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Acceptor").finish_non_exhaustive()
    }
}
