//! A certificate chain by itself: what can be said about an identity without its key.

use jiff::Timestamp;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, UnixTime};
use spiffe::SpiffeId;

use crate::bundle::TrustBundles;
use crate::rules::{self, Leaf};
use crate::svid::{SvidError, pem_error};
use crate::tls::{PeerRefused, Trust, judge};

/// The certificates of an X.509-SVID, leaf first; each keeps the rules for its place.
///
/// It proves nothing yet: certificates are public. [`verify`](Self::verify) says whether a trust
/// domain vouches for it, [`Svid`](crate::Svid) adds the key, and
/// [`PeerIdentity`](crate::PeerIdentity) is what a peer has proven.
#[derive(Debug, Clone)]
pub struct SvidChain {
    leaf: Leaf,
    certificates: Vec<CertificateDer<'static>>,
}

impl SvidChain {
    /// Reads PEM `CERTIFICATE` blocks, leaf first; blocks of other kinds are passed over.
    pub fn from_pem(pem: &str) -> Result<Self, SvidError> {
        let chain = CertificateDer::pem_slice_iter(pem.as_bytes())
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| pem_error("certificate chain", &error))?;
        Self::from_der(chain)
    }

    /// Checks the leaf and each signer by the X.509-SVID rules. Signatures and dates are
    /// [`verify`](Self::verify)'s affair.
    pub fn from_der(certificates: Vec<CertificateDer<'static>>) -> Result<Self, SvidError> {
        let (first, signers) = certificates.split_first().ok_or(SvidError::EmptyChain)?;
        let leaf = rules::leaf(first).map_err(SvidError::Leaf)?;
        for (index, signer) in signers.iter().enumerate() {
            rules::signer(signer).map_err(|rule| SvidError::Signer {
                position: index + 1,
                rule,
            })?;
        }
        Ok(Self { leaf, certificates })
    }

    /// Whether a member of this trust domain would recognise the holder of this chain at `now`:
    /// the rules, the path to a root of the leaf's own trust domain, and the dates.
    pub fn verify(&self, bundles: &TrustBundles, now: Timestamp) -> Result<(), PeerRefused> {
        let seconds = u64::try_from(now.as_second()).unwrap_or(0);
        let now = UnixTime::since_unix_epoch(std::time::Duration::from_secs(seconds));
        judge(&Trust::new(bundles), &self.certificates, now)
    }

    /// The SPIFFE ID in the leaf.
    #[must_use]
    pub fn id(&self) -> &SpiffeId {
        &self.leaf.id
    }

    /// From when on the leaf is valid.
    #[must_use]
    pub fn not_before(&self) -> Timestamp {
        self.leaf.not_before
    }

    /// Until when the leaf is valid.
    #[must_use]
    pub fn not_after(&self) -> Timestamp {
        self.leaf.not_after
    }

    /// The certificates in DER, leaf first.
    #[must_use]
    pub fn certificates(&self) -> &[CertificateDer<'static>] {
        &self.certificates
    }
}
