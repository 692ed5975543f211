//! TLS 1.3 configurations for both ends of a mutual handshake.
//!
//! Our own resolvers and verifiers over rustls and webpki, reading the [`Source`] anew in every
//! handshake. The record `docs/decisions/020-own-tls-verifiers.md` says why `spiffe-rustls` is the
//! counterpart in our tests instead of the implementation.

mod presenter;
mod trust;
mod verifier;

use std::sync::{Arc, OnceLock};

use rustls::crypto::CryptoProvider;
use rustls::server::NoServerSessionStorage;
use rustls::{CipherSuite, ClientConfig, ServerConfig};

use crate::authorizer::Authorizer;
use crate::source::Source;
use presenter::Presenter;
pub(crate) use trust::Trust;
pub use verifier::PeerRefused;
use verifier::PeerVerifier;
pub(crate) use verifier::judge;

/// Both ends offer HTTP/2 first, then HTTP/1.1 (RFC 7301).
pub(crate) const ALPN: [&[u8]; 2] = [b"h2", b"http/1.1"];

/// A server's side of mutual TLS 1.3: presents the source's identity, demands a client
/// certificate, and lets in whom the authorizer accepts.
///
/// Session resumption is off, because a resumed session would skip the authorizer and outlive
/// the SVID. The configuration follows the source by itself; it needs no replacement on renewal.
#[must_use]
pub fn server_config(source: &Source, authorizer: Authorizer) -> ServerConfig {
    let mut config = ServerConfig::builder_with_provider(crypto_provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("the provider has the suites of TLS 1.3")
        .with_client_cert_verifier(Arc::new(PeerVerifier::new(source.clone(), authorizer)))
        .with_cert_resolver(Arc::new(Presenter::new(source.clone())));
    // The suite that is first in our list, not in the client's.
    config.ignore_client_order = true;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config.alpn_protocols = ALPN.map(<[u8]>::to_vec).to_vec();
    config
}

/// A client's side of mutual TLS 1.3: presents the source's identity, and goes on only with a
/// server whom the authorizer accepts. The server's name in the URL plays no part: its SPIFFE ID
/// says who it is.
#[must_use]
pub fn client_config(source: &Source, authorizer: Authorizer) -> ClientConfig {
    let mut config = ClientConfig::builder_with_provider(crypto_provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("the provider has the suites of TLS 1.3")
        .dangerous() // rustls's word for any verifier that is not the web's
        .with_custom_certificate_verifier(Arc::new(PeerVerifier::new(source.clone(), authorizer)))
        .with_client_cert_resolver(Arc::new(Presenter::new(source.clone())));
    config.resumption = rustls::client::Resumption::disabled();
    config.alpn_protocols = ALPN.map(<[u8]>::to_vec).to_vec();
    config
}

/// The cryptography that this crate uses everywhere: aws-lc-rs, one instance per process. It does
/// not touch rustls's process-wide default.
///
/// It prefers `TLS_AES_128_GCM_SHA256`, the suite that every TLS 1.3 must have (RFC 8446 §9.1), to
/// the longer ones: certificates here are of P-256, so no connection is stronger than 128 bits, and
/// processors have instructions for SHA-256 and none for SHA-384. The record
/// `docs/decisions/084-what-a-handshake-costs.md` says what that is worth.
#[must_use]
pub fn crypto_provider() -> Arc<CryptoProvider> {
    static PROVIDER: OnceLock<Arc<CryptoProvider>> = OnceLock::new();
    let provider = PROVIDER.get_or_init(|| {
        let mut provider = rustls::crypto::aws_lc_rs::default_provider();
        let suites = &mut provider.cipher_suites;
        suites.sort_by_key(|suite| suite.suite() != CipherSuite::TLS13_AES_128_GCM_SHA256);
        Arc::new(provider)
    });
    Arc::clone(provider)
}
