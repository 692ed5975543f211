//! What a request knows of the connection that brought it, whichever transport that was.

use std::net::SocketAddr;
use std::sync::Arc;

use hostler_identity::{Holder, PeerIdentity};
use jiff::Timestamp;
use rustls::pki_types::CertificateDer;
use tokio_util::sync::CancellationToken;

/// The connection of a request, among the request's extensions. Cheap to clone.
#[derive(Clone, Debug)]
pub struct ConnectionInfo(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    local: SocketAddr,
    remote: SocketAddr,
    peer: Option<PeerIdentity>,
    certificate: Option<Arc<CertificateDer<'static>>>,
    closing: CancellationToken,
}

impl ConnectionInfo {
    /// Reads who is on the other end from a finished handshake.
    pub(crate) fn new(
        (local, remote): (SocketAddr, SocketAddr),
        tls: &rustls::ServerConnection,
        closing: CancellationToken,
    ) -> Self {
        let certificate = tls.peer_certificates().and_then(<[_]>::first);
        Self(Arc::new(Inner {
            local,
            remote,
            peer: PeerIdentity::from_server_connection(tls).ok(),
            certificate: certificate.map(|leaf| Arc::new(leaf.clone())),
            closing,
        }))
    }

    /// The same from a finished handshake over QUIC.
    pub(crate) fn over_quic(
        (local, remote): (SocketAddr, SocketAddr),
        connection: &quinn::Connection,
        closing: CancellationToken,
    ) -> Self {
        let certificates = connection
            .peer_identity()
            .and_then(|any| any.downcast::<Vec<CertificateDer<'static>>>().ok());
        let certificate = certificates.and_then(|chain| chain.into_iter().next());
        Self(Arc::new(Inner {
            local,
            remote,
            peer: PeerIdentity::from_quic_connection(connection).ok(),
            certificate: certificate.map(Arc::new),
            closing,
        }))
    }

    /// Where the connection was accepted: it tells the doors of a process apart.
    #[must_use]
    pub fn local(&self) -> SocketAddr {
        self.0.local
    }

    /// Where the connection comes from.
    #[must_use]
    pub fn remote(&self) -> SocketAddr {
        self.0.remote
    }

    /// The SPIFFE ID that the peer proved in the handshake, when it has one.
    #[must_use]
    pub fn peer(&self) -> Option<&PeerIdentity> {
        self.0.peer.as_ref()
    }

    /// The leaf certificate that the handshake verified, when the peer presented one.
    #[must_use]
    pub fn certificate(&self) -> Option<&Arc<CertificateDer<'static>>> {
        self.0.certificate.as_ref()
    }

    /// Whether the peer proved something in the handshake.
    pub(crate) fn is_known(&self) -> bool {
        self.peer().is_some() || self.certificate().is_some()
    }

    /// When the certificate that the peer presented expires; `None` when it presented none.
    pub(crate) fn expires_at(&self) -> Option<Timestamp> {
        let certificate = || Some(Holder::of(self.certificate()?)?.expires_at());
        self.peer()
            .map(PeerIdentity::expires_at)
            .or_else(certificate)
    }

    /// Cancelled when the door closes. A stream that would otherwise go on for ever ends then, so
    /// that shutting down does not have to wait for it.
    #[must_use]
    pub fn closing(&self) -> &CancellationToken {
        &self.0.closing
    }
}
