//! A door: a TCP listener with TLS, and beside it QUIC if it is wanted, and what answers behind it.
//!
//! ALPN chooses between HTTP/2 and HTTP/1.1, and over QUIC between HTTP/3, the call
//! protocol, and the other two on one stream. Whatever one peer does (stalls, floods, speaks
//! nonsense, makes a handler panic) ends at most its own connection: each is a task of its own,
//! with a [`Ledger`](ledger::Ledger) that says when its time is up.

mod admission;
mod behind;
mod calls;
mod clock;
mod complete;
mod crowd;
mod date;
mod handed;
mod http2;
mod http3;
mod ledger;
mod one_stream;
mod quic;
mod serve;
mod watched;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderValue;
use rustls::ServerConfig;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::calls::CallAdapter;
use crate::limits::DoorLimits;
pub use admission::Admission;
pub use behind::Behind;
use crowd::Crowd;
pub use handed::Handed;
use handed::Handlers;
use serve::Shared;

/// How long accepting pauses after the first failure in a row, and at most.
const BACK_OFF: (Duration, Duration) = (Duration::from_millis(10), Duration::from_secs(1));

/// How long saying goodbye over QUIC may take.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// What tells a client that HTTP/3 is spoken on this port too, for a day (RFC 7838).
fn alt_svc(address: SocketAddr) -> Option<HeaderValue> {
    HeaderValue::try_from(format!("h3=\":{}\"; ma=86400", address.port())).ok()
}

/// A listener with TLS and something behind it that answers.
///
/// A request that goes to a router finds a [`ConnectionInfo`](crate::ConnectionInfo) among its extensions, and a
/// [`PeerIdentity`](hostler_identity::PeerIdentity) when the peer proved one.
#[derive(Debug)]
pub struct Door {
    listener: TcpListener,
    address: SocketAddr,
    tls: Arc<ServerConfig>,
    behind: Behind,
    limits: DoorLimits,
    admission: Option<Admission>,
    quic: Option<quinn::Endpoint>,
    calls: Option<CallAdapter>,
    handlers: Handlers,
}

/// Why a door cannot be opened.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address}: {source}; choose a free address of this machine")]
pub struct DoorError {
    /// The address that was asked for.
    pub address: SocketAddr,
    /// What the system says.
    #[source]
    pub source: io::Error,
}

/// An address that is listened on, before it is known who may come through. A program takes its
/// addresses first, and then does what cannot be undone.
#[derive(Debug)]
pub struct Doorway {
    listener: TcpListener,
    address: SocketAddr,
}

impl Doorway {
    /// Listens on `address`; connections wait until [`Door::serve`].
    ///
    /// # Errors
    /// [`DoorError`] when the address is taken or not of this machine.
    pub async fn bind(address: SocketAddr) -> Result<Self, DoorError> {
        let failed = |source| DoorError { address, source };
        let listener = TcpListener::bind(address).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        Ok(Self { listener, address })
    }

    /// Where it listens: the port that the system chose, when port 0 was asked for.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Hangs a door in it, and an adapter or a router behind the door.
    ///
    /// The configuration decides who gets through the handshake. What it says of ALPN is replaced
    /// by what a door speaks. Certificates are renewed through its resolver.
    #[must_use]
    pub fn door(self, tls: &ServerConfig, behind: impl Into<Behind>, limits: DoorLimits) -> Door {
        let Self { listener, address } = self;
        let mut tls = tls.clone();
        tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Door {
            listener,
            address,
            tls: Arc::new(tls),
            behind: behind.into(),
            limits,
            admission: None,
            quic: None,
            calls: None,
            handlers: Handlers::default(),
        }
    }
}

impl Door {
    /// Listens on `address` and hangs a door there; see [`Doorway`].
    ///
    /// # Errors
    /// [`DoorError`] when the address is taken or not of this machine.
    pub async fn bind(
        address: SocketAddr,
        tls: &ServerConfig,
        behind: impl Into<Behind>,
        limits: DoorLimits,
    ) -> Result<Self, DoorError> {
        Ok(Doorway::bind(address).await?.door(tls, behind, limits))
    }

    /// Ends connections of peers that are admitted no more. The handshake should ask the same, so
    /// that they do not come in again.
    #[must_use]
    pub fn admitting(mut self, admission: Admission) -> Self {
        self.admission = Some(admission);
        self
    }

    /// Serves HTTP/3 too, on the UDP port of the same number, and tells those who come over TCP
    /// (`Alt-Svc`).
    ///
    /// # Errors
    /// [`DoorError`] when that port is taken.
    pub fn with_quic(mut self) -> Result<Self, DoorError> {
        let address = self.address;
        let opened = quic::config(&self.tls, &self.limits, self.calls.is_some())
            .and_then(|config| quic::open(address, config));
        self.quic = Some(opened.map_err(|source| DoorError { address, source })?);
        Ok(self)
    }

    /// Serves the call protocol too, on connections over QUIC that ask for `hostler/call` (ALPN).
    /// Without [`Door::with_quic`] nobody can.
    ///
    /// # Errors
    /// [`DoorError`] when the configuration of TLS is not fit for QUIC.
    pub fn with_calls(mut self, calls: CallAdapter) -> Result<Self, DoorError> {
        let address = self.address;
        if let Some(endpoint) = &self.quic {
            let config = quic::config(&self.tls, &self.limits, true);
            let config = config.map_err(|source| DoorError { address, source })?;
            endpoint.set_server_config(Some(config));
        }
        self.calls = Some(calls);
        Ok(self)
    }

    /// Hands connections over TCP that ask for this protocol (ALPN, RFC 7301) to a handler, which has
    /// them until it ends, the peer's certificate expires, the peer is admitted no more, or the door
    /// closes.
    #[must_use]
    pub fn handing<H, F>(mut self, protocol: &[u8], handler: H) -> Self
    where
        H: Fn(Handed) -> F + Send + Sync + 'static,
        F: Future<Output = ()> + Send + 'static,
    {
        let mut tls = ServerConfig::clone(&self.tls);
        tls.alpn_protocols.push(protocol.to_vec());
        self.tls = Arc::new(tls);
        self.handlers.add(protocol, handler);
        self
    }

    /// Where it listens: the port that the system chose, when port 0 was asked for.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Serves until `shutdown` is cancelled; then accepts nothing new, lets what is in flight
    /// finish within [`DoorLimits::drain_time`], cuts the rest, and returns when nothing is left.
    /// Dropping the future cuts everything at once.
    pub async fn serve(self, shutdown: CancellationToken) {
        let cut = CancellationToken::new();
        let _cut_when_dropped = cut.clone().drop_guard();
        let tasks = TaskTracker::new();
        let permits = Arc::new(Semaphore::new(self.limits.connections));
        let crowd = Crowd::new(self.limits.connections_per_address);
        let shared = Arc::new(Shared {
            acceptor: TlsAcceptor::from(self.tls),
            behind: self.behind,
            limits: self.limits,
            admission: self.admission,
            handlers: self.handlers,
            calls: self.calls,
            alt_svc: self.quic.is_some().then(|| alt_svc(self.address)).flatten(),
            shutdown: shutdown.clone(),
            cut: cut.clone(),
            tasks: tasks.clone(),
        });
        let accepting = accept(&self.listener, &permits, |stream, remote, permit| {
            let Some(place) = crowd.enter(remote.ip()) else {
                tracing::debug!(%remote, "its address has as many connections as it may");
                return;
            };
            let shared = Arc::clone(&shared);
            tasks.spawn(async move {
                shared.connection(stream, remote).await;
                drop((permit, place));
            });
        });
        let over_quic = async {
            match &self.quic {
                Some(endpoint) => quic::accept(endpoint, (&permits, &crowd), &shared).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            never = accepting => match never {},
            // Nobody closes the endpoint before this is over.
            () = over_quic => {}
            () = shutdown.cancelled() => {}
        }
        // Closed now, so that a client gets a refusal instead of silence.
        drop(self.listener);
        if let Some(endpoint) = &self.quic {
            endpoint.set_server_config(None);
        }
        tasks.close();
        if tokio::time::timeout(shared.limits.drain_time, tasks.wait())
            .await
            .is_err()
        {
            tracing::warn!(address = %self.address, left = tasks.len(), "cutting what is left");
            cut.cancel();
            tasks.wait().await;
        }
        if let Some(endpoint) = &self.quic {
            endpoint.close(quinn::VarInt::from_u32(0), b"");
            // So that the last packets, which say that it is over, are sent.
            let _ = tokio::time::timeout(LAST_WORDS, endpoint.wait_idle()).await;
        }
    }
}

/// Takes connections in for ever.
async fn accept(
    listener: &TcpListener,
    permits: &Arc<Semaphore>,
    mut taken: impl FnMut(TcpStream, SocketAddr, OwnedSemaphorePermit),
) -> std::convert::Infallible {
    let mut pause = BACK_OFF.0;
    loop {
        let Ok(permit) = Arc::clone(permits).acquire_owned().await else {
            // Nobody closes the semaphore; if somebody does, the door is full for ever.
            std::future::pending().await
        };
        match listener.accept().await {
            Ok((stream, remote)) => {
                pause = BACK_OFF.0;
                taken(stream, remote, permit);
            }
            // The client gave up while it waited; the next one may not have.
            Err(error) if is_the_clients(&error) => {}
            // Out of file descriptors or memory: accepting again at once would only spin.
            Err(error) => {
                tracing::warn!(%error, ?pause, "cannot accept connections");
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(BACK_OFF.1);
            }
        }
    }
}

fn is_the_clients(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(
        error.kind(),
        ConnectionAborted | ConnectionRefused | ConnectionReset
    )
}
