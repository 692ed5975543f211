//! Reading a certificate signing request (PKCS#10, RFC 2986).
//!
//! Two things are taken from it: that its sender holds the private key, and the public key. Who
//! the sender is, and what the certificate may be used for, is not the sender's to say.

use rcgen::SubjectPublicKeyInfo;
use rustls_pki_types::CertificateSigningRequestDer;
use rustls_pki_types::pem::PemObject;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::oid_registry::{
    OID_EC_P256, OID_KEY_TYPE_EC_PUBLIC_KEY, OID_NIST_EC_P384, OID_PKCS1_RSAENCRYPTION,
    OID_SIG_ED25519,
};
use x509_parser::prelude::FromDer;
use x509_parser::public_key::PublicKey;
use x509_parser::x509::SubjectPublicKeyInfo as ParsedKey;

/// RSA keys must have this many bits; larger ones only cost time.
const RSA_BITS: std::ops::RangeInclusive<usize> = 2048..=8192;

/// Why a request was not signed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CsrRefused {
    /// The text is not one PEM `CERTIFICATE REQUEST`.
    #[error("it is not a PEM certificate request (-----BEGIN CERTIFICATE REQUEST-----)")]
    NotPem,
    /// The PEM block does not hold a PKCS#10 request.
    #[error("it is not a well-formed PKCS#10 request")]
    Malformed,
    /// The request is not signed by the key that it asks a certificate for.
    #[error("its signature does not prove possession of its key")]
    BadSignature,
    /// The key's algorithm or size is not accepted.
    #[error("its key is {found}; use ECDSA P-256 or P-384, Ed25519, or RSA of 2048 to 8192 bits")]
    KeyNotAccepted {
        /// What the key is.
        found: String,
    },
}

/// The public key of a request whose sender has proved to hold the private key.
pub(crate) fn public_key(csr_pem: &str) -> Result<SubjectPublicKeyInfo, CsrRefused> {
    let der = CertificateSigningRequestDer::from_pem_slice(csr_pem.as_bytes())
        .map_err(|_| CsrRefused::NotPem)?;
    let (rest, csr) =
        X509CertificationRequest::from_der(&der).map_err(|_| CsrRefused::Malformed)?;
    if !rest.is_empty() {
        return Err(CsrRefused::Malformed);
    }
    let key = &csr.certification_request_info.subject_pki;
    accept(key)?;
    csr.verify_signature()
        .map_err(|_| CsrRefused::BadSignature)?;
    SubjectPublicKeyInfo::from_der(key.raw).map_err(|_| CsrRefused::Malformed)
}

fn accept(key: &ParsedKey<'_>) -> Result<(), CsrRefused> {
    let algorithm = &key.algorithm.algorithm;
    let refused = |found: String| Err(CsrRefused::KeyNotAccepted { found });
    if *algorithm == OID_SIG_ED25519 {
        return Ok(());
    }
    if *algorithm == OID_KEY_TYPE_EC_PUBLIC_KEY {
        let curve = key
            .algorithm
            .parameters
            .as_ref()
            .and_then(|curve| curve.as_oid().ok());
        return match curve {
            Some(curve) if curve == OID_EC_P256 || curve == OID_NIST_EC_P384 => Ok(()),
            Some(curve) => refused(format!("on the elliptic curve {curve}")),
            None => refused("on an unnamed elliptic curve".to_owned()),
        };
    }
    if *algorithm == OID_PKCS1_RSAENCRYPTION {
        return match key.parsed() {
            Ok(PublicKey::RSA(rsa)) if RSA_BITS.contains(&rsa.key_size()) => Ok(()),
            Ok(PublicKey::RSA(rsa)) => refused(format!("RSA of {} bits", rsa.key_size())),
            _ => Err(CsrRefused::Malformed),
        };
    }
    refused(format!("of the algorithm {algorithm}"))
}
