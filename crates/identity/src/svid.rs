//! An X.509-SVID with its private key: one identity, ready to be presented.

use std::sync::Arc;

use jiff::Timestamp;
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use secrecy::{ExposeSecret, SecretString};
use spiffe::SpiffeId;

use crate::chain::SvidChain;
use crate::rules::SvidRule;
use crate::tls::crypto_provider;

/// A SPIFFE identity: a certificate chain, leaf first, that keeps the X.509-SVID rules, and the
/// private key of its leaf. Cheap to clone.
///
/// The key has been loaded into the TLS library; no copy of its encoding is kept, and `Debug`
/// shows none of it.
#[derive(Clone)]
pub struct Svid {
    id: SpiffeId,
    not_before: Timestamp,
    not_after: Timestamp,
    certified: Arc<CertifiedKey>,
}

/// Why a chain and a key do not make an SVID.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SvidError {
    /// The text holds no readable PEM block of the kind that is needed.
    #[error("cannot read the {what} as PEM: {reason}")]
    Pem {
        /// `certificate chain` or `private key`.
        what: &'static str,
        /// What the PEM reader said.
        reason: String,
    },
    /// There is no certificate in the chain.
    #[error("the certificate chain is empty: give the leaf certificate first, then its issuers")]
    EmptyChain,
    /// The leaf certificate is not an X.509-SVID.
    #[error("the first certificate is not an X.509-SVID: {0}")]
    Leaf(#[source] SvidRule),
    /// A certificate after the leaf may not sign for a trust domain.
    #[error("certificate {position} of the chain may not stand there: {rule}")]
    Signer {
        /// Position in the chain; the leaf is 0.
        position: usize,
        /// The rule that it breaks.
        rule: SvidRule,
    },
    /// The key cannot be loaded, or is not the leaf's.
    #[error("the private key cannot be used with this certificate: {0}")]
    Key(#[source] rustls::Error),
}

impl Svid {
    /// Reads a chain (PEM `CERTIFICATE` blocks, leaf first) and its key (PEM, PKCS#8, SEC1 or
    /// PKCS#1), and checks both.
    pub fn from_pem(chain_pem: &str, key_pem: &SecretString) -> Result<Self, SvidError> {
        let key = PrivateKeyDer::from_pem_slice(key_pem.expose_secret().as_bytes())
            .map_err(|error| pem_error("private key", &error))?;
        Self::with_key(SvidChain::from_pem(chain_pem)?, key)
    }

    /// Checks a chain (leaf first) and its key: the leaf and each signer by the X.509-SVID
    /// rules, and that the key is the leaf's.
    ///
    /// Dates are not checked here: an SVID may be built ahead of its time, and
    /// [`Source`](crate::Source) refuses to present an expired one.
    pub fn from_der(
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
    ) -> Result<Self, SvidError> {
        Self::with_key(SvidChain::from_der(chain)?, key)
    }

    fn with_key(chain: SvidChain, key: PrivateKeyDer<'static>) -> Result<Self, SvidError> {
        let certificates = chain.certificates().to_vec();
        let certified = CertifiedKey::from_der(certificates, key, &crypto_provider())
            .map_err(SvidError::Key)?;
        Ok(Self {
            id: chain.id().clone(),
            not_before: chain.not_before(),
            not_after: chain.not_after(),
            certified: Arc::new(certified),
        })
    }

    /// The SPIFFE ID in the leaf.
    #[must_use]
    pub fn id(&self) -> &SpiffeId {
        &self.id
    }

    /// From when on the leaf is valid.
    #[must_use]
    pub fn not_before(&self) -> Timestamp {
        self.not_before
    }

    /// Until when the leaf is valid.
    #[must_use]
    pub fn not_after(&self) -> Timestamp {
        self.not_after
    }

    /// The certificate chain in DER, leaf first.
    #[must_use]
    pub fn chain(&self) -> &[CertificateDer<'static>] {
        &self.certified.cert
    }

    pub(crate) fn certified(&self) -> &Arc<CertifiedKey> {
        &self.certified
    }
}

impl std::fmt::Debug for Svid {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Svid")
            .field("id", &self.id.to_string())
            .field("not_before", &self.not_before)
            .field("not_after", &self.not_after)
            .finish_non_exhaustive()
    }
}

pub(crate) fn pem_error(what: &'static str, error: &rustls_pki_types::pem::Error) -> SvidError {
    SvidError::Pem {
        what,
        reason: error.to_string(),
    }
}
