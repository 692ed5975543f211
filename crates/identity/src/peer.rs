//! Who is on the other end, as a handler sees it.

mod layer;

use std::sync::Arc;

use axum::extract::{FromRequestParts, OptionalFromRequestParts};
use axum::response::{IntoResponse, Response};
use http::request::Parts;
use http::{Request, StatusCode};
use jiff::Timestamp;
use rustls::{CommonState, ProtocolVersion};
use rustls_pki_types::CertificateDer;
use spiffe::{SpiffeId, TrustDomain};

use crate::rules::{self, SvidRule};
pub use layer::{PeerAdded, PeerRequired, RequirePeer, WithPeer};

/// What a request without a peer is told where it needs one.
const REFUSAL: &str = "this address needs a client certificate with a SPIFFE ID\n";

/// The verified identity of a peer. It comes out of a finished mutual handshake and nowhere else;
/// there is no constructor that takes an ID.
///
/// It is worth as much as the verifier of the connection's configuration. Those of
/// [`server_config`](crate::server_config) and [`client_config`](crate::client_config) vouch for
/// the whole ID; under another one, only the form of the certificate is looked at here, and
/// whoever that configuration trusts can name any ID.
///
/// As an axum extractor it answers 401 where there is no peer, so that a handler cannot be
/// reached by accident without one; `Option<PeerIdentity>` is for routes that serve both.
/// [`RequirePeer`] insists on a peer for a whole service, and [`of`](Self::of) looks for it in a
/// request. No header has any part in this. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerIdentity(Arc<Proven>);

/// Shared, because it is cloned for each request.
#[derive(Debug, PartialEq, Eq)]
struct Proven {
    id: SpiffeId,
    expires_at: Timestamp,
}

/// Why a connection yields no peer identity.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NoPeerIdentity {
    /// The handshake is not finished.
    #[error("the handshake is not finished; ask again when it is")]
    Unfinished,
    /// The connection speaks an older version than TLS 1.3.
    #[error("the connection is not TLS 1.3")]
    OldTls,
    /// The peer presented no certificate.
    #[error("the peer presented no certificate")]
    NoCertificate,
    /// The peer's certificate is not an X.509-SVID.
    #[error("the peer's certificate is not an X.509-SVID: {0}")]
    NotAnSvid(#[source] SvidRule),
}

impl PeerIdentity {
    /// The client of a finished handshake under [`server_config`](crate::server_config).
    pub fn from_server_connection(
        connection: &rustls::ServerConnection,
    ) -> Result<Self, NoPeerIdentity> {
        Self::from_handshake(connection)
    }

    /// The server of a finished handshake under [`client_config`](crate::client_config).
    pub fn from_client_connection(
        connection: &rustls::ClientConnection,
    ) -> Result<Self, NoPeerIdentity> {
        Self::from_handshake(connection)
    }

    /// The peer that sent this request; `None` when it came another way than over a
    /// [`Server`](crate::Server) or through [`WithPeer`].
    #[must_use]
    pub fn of<B>(request: &Request<B>) -> Option<&Self> {
        request.extensions().get()
    }

    fn from_handshake(connection: &CommonState) -> Result<Self, NoPeerIdentity> {
        if connection.is_handshaking() {
            return Err(NoPeerIdentity::Unfinished);
        }
        if connection.protocol_version() != Some(ProtocolVersion::TLSv1_3) {
            return Err(NoPeerIdentity::OldTls);
        }
        Self::from_certificates(connection.peer_certificates())
    }

    /// The one who has just proven to hold the first of these certificates.
    pub(crate) fn from_certificates(
        proven: Option<&[CertificateDer<'_>]>,
    ) -> Result<Self, NoPeerIdentity> {
        let leaf = proven.and_then(<[_]>::first);
        let leaf = leaf.ok_or(NoPeerIdentity::NoCertificate)?;
        let leaf = rules::leaf_of_peer(leaf).map_err(NoPeerIdentity::NotAnSvid)?;
        Ok(Self(Arc::new(Proven {
            id: leaf.id,
            expires_at: leaf.not_after,
        })))
    }

    /// The peer's SPIFFE ID.
    #[must_use]
    pub fn id(&self) -> &SpiffeId {
        &self.0.id
    }

    /// The trust domain that vouched for the peer.
    #[must_use]
    pub fn trust_domain(&self) -> &TrustDomain {
        self.0.id.trust_domain()
    }

    /// The path of the peer's SPIFFE ID, with its leading slash.
    #[must_use]
    pub fn path(&self) -> &str {
        self.0.id.path()
    }

    /// When the certificate that the peer presented expires. A [`Server`](crate::Server) closes
    /// the connection before; whoever accepts connections by an [`Acceptor`](crate::Acceptor) of
    /// their own should do the same.
    #[must_use]
    pub fn expires_at(&self) -> Timestamp {
        self.0.expires_at
    }
}

/// The answer to a request that needs a peer and has none: 401, one plain sentence.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("this address needs a client certificate with a SPIFFE ID")]
pub struct PeerIdentityRequired;

impl IntoResponse for PeerIdentityRequired {
    fn into_response(self) -> Response {
        (StatusCode::UNAUTHORIZED, REFUSAL).into_response()
    }
}

impl<S: Sync> FromRequestParts<S> for PeerIdentity {
    type Rejection = PeerIdentityRequired;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Self::Rejection> {
        parts.extensions.get().cloned().ok_or(PeerIdentityRequired)
    }
}

impl<S: Sync> OptionalFromRequestParts<S> for PeerIdentity {
    type Rejection = std::convert::Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Option<Self>, Self::Rejection> {
        Ok(parts.extensions.get().cloned())
    }
}
