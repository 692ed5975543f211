//! An axum router over mutual TLS, and the building block for those who have a listener already.

mod accept;
mod connection;
mod health;

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use axum::Router;
use tokio::net::{TcpListener, TcpStream, ToSocketAddrs};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{Instrument, debug, info, info_span, warn};

use crate::authorizer::Authorizer;
use crate::source::Source;
use crate::tls::{PeerRefused, server_config};
pub use accept::{AcceptError, Acceptor};
use connection::{Lifeline, serve_connection};
pub use health::HealthListener;

/// What is in flight when the server is told to stop has this long to finish.
const GRACE: Duration = Duration::from_secs(30);
/// A listener that is out of file descriptors waits this long before it accepts again.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves an axum [`Router`] to peers that the authorizer accepts. Handlers take a
/// [`PeerIdentity`](crate::PeerIdentity) to know their caller.
///
/// No connection outlives a certificate that it began with, the peer's or our own. Thirty seconds
/// before (a tenth of what is left, where that is less) it is closed politely, as HTTP/1.1 and
/// HTTP/2 have it: what is in flight may finish, and the next request comes over a new handshake.
/// What is still open when the certificate expires is cut.
///
/// [`serve`](Self::serve) runs in the caller's task until it is told to stop;
/// [`start`](Self::start) runs in the background.
#[derive(Debug)]
pub struct Server {
    listener: TcpListener,
    acceptor: Acceptor,
    source: Source,
    health: Option<HealthListener>,
    grace: Duration,
}

impl Server {
    /// Listens at `address`; port 0 takes a free one. Connections are accepted from when
    /// [`serve`](Self::serve) or [`start`](Self::start) is called.
    pub async fn bind(
        address: impl ToSocketAddrs,
        source: &Source,
        clients: Authorizer,
    ) -> io::Result<Self> {
        let listener = TcpListener::bind(address).await?;
        Ok(Self {
            listener,
            acceptor: Acceptor::new(server_config(source, clients)),
            source: source.clone(),
            health: None,
            grace: GRACE,
        })
    }

    /// Also listens at `address` for plain HTTP and answers `GET /healthz`, nothing else, for
    /// probes that have no identity: 200 `ok` while there is an identity to serve with, 503 when
    /// there is none (expired, withdrawn) or the server is stopping. It says nothing about why,
    /// since anybody may ask.
    pub async fn with_health(mut self, address: impl ToSocketAddrs) -> io::Result<Self> {
        self.health = Some(HealthListener::bind(address).await?);
        Ok(self)
    }

    /// Sets how long requests in flight may take once the server is told to stop (default 30 s);
    /// what is open then is cut.
    #[must_use]
    pub fn with_grace(mut self, grace: Duration) -> Self {
        self.grace = grace;
        self
    }

    /// Where the server listens.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Where the health listener listens; `None` without one.
    pub fn health_addr(&self) -> io::Result<Option<SocketAddr>> {
        self.health
            .as_ref()
            .map(HealthListener::local_addr)
            .transpose()
    }

    /// Serves in a task of its own. Must be called within a tokio runtime.
    pub fn start(self, app: Router) -> io::Result<RunningServer> {
        let (address, health_address) = (self.local_addr()?, self.health_addr()?);
        let (stop, stopped) = oneshot::channel::<()>();
        let serving = self.serve(app, async { drop(stopped.await) });
        Ok(RunningServer {
            address,
            health_address,
            stop: Some(stop),
            task: tokio::spawn(serving),
        })
    }

    /// Serves until `stop` completes; then takes no new connection, lets what is in flight finish
    /// (30 s at most), and returns. Dropping the future cuts every connection at once.
    pub async fn serve(self, app: Router, stop: impl Future<Output = ()>) {
        // Gets the routes ready once; a router that has not been given its state does it again for
        // each request.
        let app = app.with_state(());
        let (stopping, cut) = (CancellationToken::new(), CancellationToken::new());
        let _cut_when_this_ends = cut.clone().drop_guard();
        let connections = TaskTracker::new();
        if let Some(health) = self.health {
            let (source, stopping) = (self.source.clone(), stopping.clone());
            let well = move || !stopping.is_cancelled() && source.svid().is_ok();
            tokio::spawn(health.serve(well, cut.clone()));
        }
        let mut stop = std::pin::pin!(stop);
        loop {
            let (tcp, from) = tokio::select! {
                () = &mut stop => break,
                accepted = self.listener.accept() => match accepted {
                    Ok(accepted) => accepted,
                    Err(reason) => {
                        warn!(%reason, "cannot accept a connection");
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                        continue;
                    }
                },
            };
            let lifeline = Lifeline::new(&stopping, &cut);
            let source = self.source.clone();
            let connection = attend(tcp, self.acceptor.clone(), source, app.clone(), lifeline);
            // The handshake's own messages, a refusal above all, thus say whom they are about.
            connections.spawn(connection.instrument(info_span!("connection", %from)));
        }
        drop(self.listener);
        stopping.cancel();
        connections.close();
        if tokio::time::timeout(self.grace, connections.wait())
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

/// One connection from its first byte to its last.
async fn attend(
    tcp: TcpStream,
    acceptor: Acceptor,
    source: Source,
    app: Router,
    lifeline: Lifeline,
) {
    // Answers are written whole; waiting to fill a packet would only delay them.
    let _ = tcp.set_nodelay(true);
    // Before the handshake: what is presented in it does not expire sooner.
    let own_end = source.svid_expiry();
    let accepted = tokio::select! {
        accepted = acceptor.accept(tcp) => accepted,
        // Nobody has asked for anything yet.
        () = lifeline.stopping() => return,
    };
    match accepted {
        Ok((tls, peer)) => {
            let peers_end = peer.expires_at();
            let own_end = own_end.or_else(|_| source.svid_expiry());
            let until = own_end.map_or(peers_end, |own_end| own_end.min(peers_end));
            serve_connection(tls, peer, until, app, lifeline).await;
        }
        Err(reason) if is_logged_already(&reason) => debug!(%reason, "connection not accepted"),
        Err(reason) => info!(%reason, "connection not accepted"),
    }
}

/// Whether the verifier has said in the log why it refused this peer.
fn is_logged_already(error: &AcceptError) -> bool {
    let AcceptError::Handshake(error) = error else {
        return false;
    };
    let tls = error.get_ref().and_then(|inner| inner.downcast_ref());
    tls.and_then(PeerRefused::in_tls_error).is_some()
}

/// A server in a task of its own. Dropping it is [`close`](Self::close).
#[derive(Debug)]
#[must_use = "a server that nobody holds is closed at once"]
pub struct RunningServer {
    address: SocketAddr,
    health_address: Option<SocketAddr>,
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<()>,
}

impl RunningServer {
    /// Where the server listens.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Where the health listener listens; `None` without one.
    #[must_use]
    pub fn health_addr(&self) -> Option<SocketAddr> {
        self.health_address
    }

    /// Takes no new connection, lets what is in flight finish (within the grace of
    /// [`Server::with_grace`]), and returns when all is done.
    pub async fn stop(mut self) {
        drop(self.stop.take());
        if let Err(ended) = (&mut self.task).await
            && let Ok(panicked) = ended.try_into_panic()
        {
            std::panic::resume_unwind(panicked);
        }
    }

    /// Ends at once: listener, connections and requests in flight.
    pub fn close(self) {
        drop(self);
    }
}

impl Drop for RunningServer {
    fn drop(&mut self) {
        // Dropping what it runs cuts the connections.
        self.task.abort();
    }
}
