//! From a connection to a peer: the server's side of the handshake.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::peer::{NoPeerIdentity, PeerIdentity};

/// A handshake that takes longer is given up, so that silent connections do not pile up.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// A refused peer has this long, and this many bytes, to take notice.
const LINGER: Duration = Duration::from_secs(1);
const LINGER_BYTES: u64 = 64 * 1024;

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
    /// An acceptor over a configuration from [`server_config`](crate::server_config).
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
