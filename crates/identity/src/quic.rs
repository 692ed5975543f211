//! Mutual TLS over QUIC, for programs that use quinn (feature `quinn`).
//!
//! The same verifiers and the same identity as over TCP: QUIC's handshake is that of TLS 1.3
//! (RFC 9001). Neither side offers early data, for a request in it would precede the authorizer.

use std::sync::Arc;

use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use rustls_pki_types::CertificateDer;

use crate::authorizer::Authorizer;
use crate::peer::{NoPeerIdentity, PeerIdentity};
use crate::source::Source;
use crate::tls::{client_config, server_config};

/// [`server_config`] for a quinn endpoint that speaks one of these protocols (ALPN, which QUIC
/// requires: RFC 9001 §8.1).
#[must_use]
pub fn quic_server_config(
    source: &Source,
    clients: Authorizer,
    protocols: &[&[u8]],
) -> quinn::ServerConfig {
    let mut tls = server_config(source, clients);
    tls.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
    let tls = QuicServerConfig::try_from(tls).expect("the provider has the suite of QUIC's start");
    quinn::ServerConfig::with_crypto(Arc::new(tls))
}

/// [`client_config`] for a quinn endpoint that speaks one of these protocols. The server's name
/// that quinn asks for when it connects plays no part.
#[must_use]
pub fn quic_client_config(
    source: &Source,
    server: Authorizer,
    protocols: &[&[u8]],
) -> quinn::ClientConfig {
    let mut tls = client_config(source, server);
    tls.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
    let tls = QuicClientConfig::try_from(tls).expect("the provider has the suite of QUIC's start");
    quinn::ClientConfig::new(Arc::new(tls))
}

impl PeerIdentity {
    /// The other end of a QUIC connection under one of the configurations above.
    pub fn from_quic_connection(connection: &quinn::Connection) -> Result<Self, NoPeerIdentity> {
        let proven = connection
            .peer_identity()
            .and_then(|any| any.downcast::<Vec<CertificateDer<'static>>>().ok());
        Self::from_certificates(proven.as_ref().map(|chain| chain.as_slice()))
    }
}
