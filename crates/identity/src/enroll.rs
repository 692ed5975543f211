//! The first step of an identity: a key that never leaves this machine, and the request
//! (PKCS#10, RFC 2986) by which an authority certifies it.

use rcgen::{CertificateParams, DistinguishedName, KeyPair, PKCS_ECDSA_P256_SHA256, SanType};
use secrecy::SecretString;
use spiffe::SpiffeId;

/// A fresh private key and the certificate signing request for it.
#[derive(Debug)]
pub struct KeyAndCsr {
    /// The private key: ECDSA P-256, PKCS#8, PEM. Keep it in a file of mode 0600.
    pub key_pem: SecretString,
    /// The request: PKCS#10, PEM. Holds the public key, and the ID if one was asked for.
    pub csr_pem: String,
}

/// The key or the request could not be made.
#[derive(Debug, thiserror::Error)]
#[error("cannot make a key and a certificate request: {0}")]
pub struct EnrollError(#[from] rcgen::Error);

impl KeyAndCsr {
    /// Makes a key and a request. The ID is a wish: the authority decides which one it issues,
    /// so a host that does not know its ID yet passes `None`.
    pub fn generate(id: Option<&SpiffeId>) -> Result<Self, EnrollError> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        if let Some(id) = id {
            params
                .subject_alt_names
                .push(SanType::URI(id.to_string().try_into()?));
        }
        let csr_pem = params.serialize_request(&key)?.pem()?;
        Ok(Self {
            key_pem: key.serialize_pem().into(),
            csr_pem,
        })
    }
}
