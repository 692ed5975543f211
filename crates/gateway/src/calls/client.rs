//! A program that comes to a door to call, and may be called back.

use std::fmt;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use hostler_identity::PeerIdentity;
use hostler_operations::Registry;
use quinn::crypto::rustls::QuicClientConfig;
use quinn::{ConnectError, ConnectionError, Endpoint, TransportConfig};
use rustls::ClientConfig;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::ALPN;
use super::answering::Answering;
use super::budget::FrameBudget;
use super::caller::Caller;
use super::conversation::{Conversation, Limits};
use super::link::Link;
use crate::credentials::{Credentials, IdentityProvider};
use crate::limits::{DoorLimits, RequestLimits};

/// How often the other end is told that this one lives, which keeps the way through NATs open.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// A connection to a door that speaks the call protocol.
///
/// It [derefs](std::ops::Deref) to the [`Caller`] with which one calls. Dropping it cuts the
/// connection.
pub struct CallClient {
    caller: Caller,
    leave: CancellationToken,
    carried: JoinHandle<()>,
    endpoint: Endpoint,
}

/// Collects what a [`CallClient`] needs.
#[must_use = "a client is made by connect()"]
pub struct CallClientBuilder {
    tls: ClientConfig,
    answering: Option<(Arc<Registry>, Arc<dyn IdentityProvider>)>,
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CallClientError {
    /// There is no socket to be had.
    #[error("cannot open a UDP socket: {0}")]
    Socket(#[from] io::Error),
    /// The configuration of TLS is not fit for QUIC (RFC 9001: TLS 1.3 with AES-128-GCM).
    #[error("the TLS configuration cannot be used for QUIC; allow TLS 1.3 and its mandatory suite")]
    Tls,
    /// The name or the address cannot be connected to.
    #[error(transparent)]
    Name(#[from] ConnectError),
    /// The handshake failed: nobody is there, or they are not who they should be.
    #[error("the handshake failed: {0}")]
    Handshake(#[from] ConnectionError),
}

impl CallClient {
    /// Begins a client. The configuration says whom it trusts and what it shows of itself; what it
    /// says of ALPN is replaced.
    pub fn builder(tls: ClientConfig) -> CallClientBuilder {
        CallClientBuilder {
            tls,
            answering: None,
        }
    }

    /// Calls no more, lets the other end's calls be answered, and ends the connection.
    pub async fn close(mut self) {
        self.leave.cancel();
        // It ends within its time, and has nothing to tell.
        let _ = (&mut self.carried).await;
        self.endpoint.wait_idle().await;
    }
}

impl CallClientBuilder {
    /// Answers calls of the other end's with these operations; its caller is known by the
    /// certificate that it showed. Without this, none of them exists.
    pub fn answering(
        mut self,
        registry: Arc<Registry>,
        provider: Arc<dyn IdentityProvider>,
    ) -> Self {
        self.answering = Some((registry, provider));
        self
    }

    /// Connects to a door, which must show a certificate for this name.
    ///
    /// # Errors
    /// [`CallClientError`].
    pub async fn connect(
        self,
        address: SocketAddr,
        name: &str,
    ) -> Result<CallClient, CallClientError> {
        let mut tls = self.tls;
        tls.alpn_protocols = vec![ALPN.to_vec()];
        tls.enable_early_data = false;
        let tls = QuicClientConfig::try_from(tls).map_err(|_| CallClientError::Tls)?;
        let mut config = quinn::ClientConfig::new(Arc::new(tls));
        let mut transport = TransportConfig::default();
        transport.keep_alive_interval(Some(KEEP_ALIVE));
        config.transport_config(Arc::new(transport));
        let any: SocketAddr = match address {
            SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
            SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
        };
        let endpoint = Endpoint::client(any)?;
        let connection = endpoint.connect_with(config, address, name)?.await?;
        let credentials = Credentials {
            peer: PeerIdentity::from_quic_connection(&connection).ok(),
            remote: Some(address),
            ..Credentials::default()
        };
        let answering = self
            .answering
            .map(|(registry, provider)| Answering::new(registry, provider, credentials, None));
        let (link, streams, datagrams) = Link::whole(connection);
        let (door, request) = (DoorLimits::default(), RequestLimits::default());
        let limits = Limits {
            calls: door.calls,
            frame_time: request.body_time,
            write_time: door.write_time,
            // Whoever connected stays for as long as it likes.
            idle_time: Duration::MAX,
        };
        let frames = FrameBudget::new(request.frames_total_bytes);
        let conversation = Conversation::new(link, answering, limits, frames);
        let leave = CancellationToken::new();
        let (carrying, leaving) = (Arc::clone(&conversation), leave.clone());
        let carried = tokio::spawn(async move {
            carrying
                .carry(streams, datagrams, leaving.cancelled_owned())
                .await;
        });
        Ok(CallClient {
            caller: Caller::new(conversation),
            leave,
            carried,
            endpoint,
        })
    }
}

impl std::ops::Deref for CallClient {
    type Target = Caller;

    fn deref(&self) -> &Caller {
        &self.caller
    }
}

impl Drop for CallClient {
    fn drop(&mut self) {
        self.carried.abort();
    }
}

impl fmt::Debug for CallClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CallClient")
            .field("caller", &self.caller)
            .finish_non_exhaustive()
    }
}
