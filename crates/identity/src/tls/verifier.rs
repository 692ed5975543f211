//! How we recognise the other end in a handshake.
//!
//! One order for both directions: are we someone ourselves · is the certificate an X.509-SVID ·
//! is its trust domain considered · do the roots of exactly that domain vouch for it · does the
//! authorizer accept its ID. The reason of a refusal goes to our log and to our caller; the peer
//! gets the alert `certificate_unknown` for each of them.

use std::fmt;
use std::sync::Arc;

use jiff::Timestamp;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::verify_tls13_signature;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError};
use rustls::{PeerIncompatible, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use spiffe::{SpiffeId, TrustDomain};
use tracing::info;

use super::crypto_provider;
use super::trust::{Anchors, Trust};
use crate::authorizer::Authorizer;
use crate::rules::{self, Leaf, SvidRule};
use crate::source::{Source, Unavailable};

/// More certificates than this between leaf and root are not looked at.
const MAX_SIGNERS: usize = 8;

/// Why a peer was refused in the handshake.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum PeerRefused {
    /// We have no identity ourselves, so we recognise nobody.
    #[error("nobody is recognised without an identity of our own: {0}")]
    NoIdentityOfOurOwn(#[source] Unavailable),
    /// The peer's certificate is not an X.509-SVID.
    #[error("the peer's certificate is not an X.509-SVID: {0}")]
    NotAnSvid(#[source] SvidRule),
    /// A certificate between the peer's and the root may not stand there.
    #[error("the peer's certificate chain cannot be used: {0}")]
    Signer(#[source] SvidRule),
    /// The peer's certificate chain is longer than eight signers.
    #[error("the peer's certificate chain is longer than {MAX_SIGNERS} signers")]
    ChainTooLong,
    /// The peer belongs to another trust domain, which the authorizer does not name.
    #[error("{0} is of another trust domain, and the authorizer names neither it nor its domain")]
    ForeignTrustDomain(SpiffeId),
    /// There is no bundle with a root for the peer's trust domain.
    #[error("there is no trust bundle for {0}, so its members cannot be recognised")]
    NoBundle(TrustDomain),
    /// The roots of the peer's trust domain do not vouch for its certificate.
    #[error("the roots of its trust domain do not vouch for {id}: {reason}")]
    NotVouchedFor {
        /// Who the peer says it is.
        id: SpiffeId,
        /// Expired, not yet valid, wrong signature, unknown issuer.
        reason: Error,
    },
    /// The peer is who it says, but the authorizer does not accept it.
    #[error("{0} is not authorized on this connection")]
    NotAuthorized(SpiffeId),
}

impl PeerRefused {
    /// Finds the refusal in an error of rustls, if it is one.
    pub(crate) fn in_tls_error(error: &Error) -> Option<&Self> {
        match error {
            Error::InvalidCertificate(CertificateError::Other(OtherError(inner))) => {
                inner.downcast_ref()
            }
            _ => None,
        }
    }
}

type VouchFor =
    fn(&Anchors, &CertificateDer<'_>, &[CertificateDer<'_>], UnixTime) -> Result<(), Error>;

/// Verifies whoever is on the other end, client or server.
#[derive(Debug)]
pub(super) struct PeerVerifier {
    source: Source,
    authorizer: Authorizer,
}

impl PeerVerifier {
    pub(super) fn new(source: Source, authorizer: Authorizer) -> Self {
        Self { source, authorizer }
    }

    fn verify(
        &self,
        leaf: &CertificateDer<'_>,
        signers: &[CertificateDer<'_>],
        now: UnixTime,
        vouch_for: VouchFor,
    ) -> Result<(), Error> {
        self.recognise(leaf, signers, now, vouch_for)
            .map_err(|refused| {
                info!(reason = %refused, "peer refused in the handshake");
                Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(refused))))
            })
    }

    fn recognise(
        &self,
        leaf: &CertificateDer<'_>,
        signers: &[CertificateDer<'_>],
        now: UnixTime,
        vouch_for: VouchFor,
    ) -> Result<(), PeerRefused> {
        let seconds = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
        let at = Timestamp::from_second(seconds).unwrap_or(Timestamp::MAX);
        let own = self
            .source
            .current(at)
            .map_err(PeerRefused::NoIdentityOfOurOwn)?;
        let read = keeps_the_rules(leaf, signers)?;
        let id = &read.id;
        if !self
            .authorizer
            .considers(own.trust_domain(), id.trust_domain())
        {
            return Err(PeerRefused::ForeignTrustDomain(id.clone()));
        }
        vouched_for(&own.trust, id, |anchors| {
            vouch_for(anchors, leaf, signers, now)
        })?;
        if !self.authorizer.accepts(id) {
            return Err(PeerRefused::NotAuthorized(id.clone()));
        }
        rules::verified(leaf, &read);
        Ok(())
    }
}

/// Judges a chain outside of a handshake, as a member of any trust domain in `trust` would: once
/// as a server's and once as a client's, because an SVID is both.
pub(crate) fn judge(
    trust: &Trust,
    chain: &[CertificateDer<'_>],
    now: UnixTime,
) -> Result<(), PeerRefused> {
    let (leaf, signers) = chain
        .split_first()
        .ok_or(PeerRefused::NotAnSvid(SvidRule::Malformed))?;
    let id = keeps_the_rules(leaf, signers)?.id;
    vouched_for(trust, &id, |anchors| {
        anchors.verify_server(leaf, signers, now)?;
        anchors.verify_client(leaf, signers, now)
    })
}

fn keeps_the_rules(
    leaf: &CertificateDer<'_>,
    signers: &[CertificateDer<'_>],
) -> Result<Leaf, PeerRefused> {
    let read = rules::leaf(leaf).map_err(PeerRefused::NotAnSvid)?;
    if signers.len() > MAX_SIGNERS {
        return Err(PeerRefused::ChainTooLong);
    }
    for signer in signers {
        rules::signer(signer).map_err(PeerRefused::Signer)?;
    }
    Ok(read)
}

/// Asks the roots of exactly the ID's own trust domain.
fn vouched_for(
    trust: &Trust,
    id: &SpiffeId,
    vouch: impl FnOnce(&Anchors) -> Result<(), Error>,
) -> Result<(), PeerRefused> {
    let domain = id.trust_domain();
    let anchors = trust
        .anchors(domain)
        .ok_or_else(|| PeerRefused::NoBundle(domain.clone()))?;
    vouch(anchors).map_err(|reason| PeerRefused::NotVouchedFor {
        id: id.clone(),
        reason,
    })
}

/// The proof that the peer holds its certificate's key (RFC 8446 §4.4.3).
fn holds_its_key(
    message: &[u8],
    cert: &CertificateDer<'_>,
    signature: &DigitallySignedStruct,
) -> Result<HandshakeSignatureValid, Error> {
    let algorithms = &crypto_provider().signature_verification_algorithms;
    verify_tls13_signature(message, cert, signature, algorithms).inspect_err(|reason| {
        info!(%reason, "peer refused in the handshake: it has not the key of its certificate");
    })
}

/// Neither configuration offers TLS 1.2, so its signatures are never asked for; if they were,
/// the handshake ends here.
fn tls12_is_not_spoken() -> Error {
    Error::PeerIncompatible(PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig)
}

fn schemes() -> Vec<SignatureScheme> {
    crypto_provider()
        .signature_verification_algorithms
        .supported_schemes()
}

impl ServerCertVerifier for PeerVerifier {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        signers: &[CertificateDer<'_>],
        _name: &ServerName<'_>, // the SPIFFE ID says who the server is, its DNS name does not
        _ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.verify(leaf, signers, now, Anchors::verify_server)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(tls12_is_not_spoken())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        holds_its_key(message, cert, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        schemes()
    }
}

impl ClientCertVerifier for PeerVerifier {
    fn client_auth_mandatory(&self) -> bool {
        true
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        signers: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.verify(leaf, signers, now, Anchors::verify_client)?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(tls12_is_not_spoken())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        holds_its_key(message, cert, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        schemes()
    }
}

impl fmt::Debug for Anchors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Anchors").finish_non_exhaustive()
    }
}
