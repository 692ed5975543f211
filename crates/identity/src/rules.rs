//! The rules that make a certificate an X.509-SVID.
//!
//! One place for them all, used for our own identity when it arrives and for a peer's in the
//! handshake. Section numbers are those of the
//! [SPIFFE X.509-SVID standard](https://github.com/spiffe/spiffe/blob/main/standards/X509-SVID.md).
//! The chain's signatures and dates are webpki's affair (RFC 5280); these rules are what SPIFFE
//! asks on top. An extension that is present but cannot be read breaks its rule: silence would
//! let a malformed certificate pass where a well-formed one fails.

use std::cell::RefCell;

use jiff::Timestamp;
use spiffe::SpiffeId;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::{BasicConstraints, ExtendedKeyUsage, GeneralName, KeyUsage};
use x509_parser::extensions::{ParsedExtension, X509Extension};
use x509_parser::oid_registry::{
    OID_X509_EXT_BASIC_CONSTRAINTS, OID_X509_EXT_EXTENDED_KEY_USAGE, OID_X509_EXT_KEY_USAGE,
    OID_X509_EXT_SUBJECT_ALT_NAME, Oid,
};
use x509_parser::prelude::FromDer;

use crate::id::{IdError, parse_spiffe_id};

/// A rule of the X.509-SVID standard that a certificate breaks.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum SvidRule {
    /// The bytes are not one DER certificate (RFC 5280), or an extension appears twice.
    #[error("it is not a well-formed DER certificate")]
    Malformed,
    /// §2: the SPIFFE ID is the certificate's URI SAN; there is none.
    #[error("it has no URI SAN, so it carries no SPIFFE ID")]
    NoSpiffeId,
    /// §2: exactly one URI SAN is allowed.
    #[error("it has {0} URI SANs where exactly one is allowed")]
    SeveralUris(usize),
    /// §2: the URI SAN must be a SPIFFE ID.
    #[error("its URI SAN is not a SPIFFE ID: {0}")]
    InvalidSpiffeId(IdError),
    /// §3.1: a leaf's SPIFFE ID has a path; one without names a whole trust domain.
    #[error("its SPIFFE ID has no path: that names a trust domain, not a workload")]
    NoPath,
    /// §4.1 and §5.2: a leaf states `cA` false.
    #[error("it does not state that it is no certificate authority (basic constraints, cA false)")]
    AuthorityAsLeaf,
    /// §4.3: key usage is present and marked critical.
    #[error("its key usage is missing or not marked critical")]
    KeyUsageNotCritical,
    /// §4.3: a leaf has `digitalSignature`.
    #[error("its key usage lacks digitalSignature")]
    NoDigitalSignature,
    /// §4.3 and §5.2: a leaf has neither `keyCertSign` nor `cRLSign`.
    #[error("its key usage allows it to sign certificates or revocation lists")]
    LeafMaySign,
    /// §4.4: extended key usage, if present, holds both `serverAuth` and `clientAuth`.
    #[error("its extended key usage lacks serverAuth or clientAuth")]
    ExtendedKeyUsage,
    /// §4.1: a signing certificate states `cA` true.
    #[error("it is in the chain as a signer but is no certificate authority")]
    SignerWithoutAuthority,
    /// §4.3: a signing certificate has `keyCertSign`.
    #[error("it is in the chain as a signer but its key usage lacks keyCertSign")]
    SignerMayNotSign,
    /// §3.2: a signing certificate's SPIFFE ID, if it has one, has no path.
    #[error("it is in the chain as a signer but its SPIFFE ID has a path")]
    SignerWithPath,
}

/// What a leaf certificate that keeps the rules says.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Leaf {
    pub(crate) id: SpiffeId,
    pub(crate) not_before: Timestamp,
    pub(crate) not_after: Timestamp,
}

thread_local! {
    /// The peer's leaf that this thread has verified last, until the connection asks for it.
    static VERIFIED: RefCell<Option<(Vec<u8>, Leaf)>> = const { RefCell::new(None) };
}

/// Keeps what a certificate says that has just been verified. TLS asks its verifier for a verdict
/// and passes nothing else on, and right after the handshake the connection wants to know who its
/// peer is; reading a certificate is a good part of what a handshake costs besides cryptography.
pub(crate) fn verified(der: &[u8], leaf: &Leaf) {
    VERIFIED.set(Some((der.to_vec(), leaf.clone())));
}

/// [`leaf`] for a certificate that has very likely just been [`verified`]: if it is that one, byte
/// for byte, it is not read again.
pub(crate) fn leaf_of_peer(der: &[u8]) -> Result<Leaf, SvidRule> {
    match VERIFIED.take() {
        Some((verified, leaf)) if verified == der => Ok(leaf),
        _ => leaf(der),
    }
}

/// Checks a leaf certificate, and reads it.
pub(crate) fn leaf(der: &[u8]) -> Result<Leaf, SvidRule> {
    let cert = parse(der)?;
    let id = spiffe_id(&cert)?.ok_or(SvidRule::NoSpiffeId)?;
    if id.path().is_empty() {
        return Err(SvidRule::NoPath);
    }
    match basic_constraints(&cert)? {
        Some(constraints) if !constraints.ca => {}
        _ => return Err(SvidRule::AuthorityAsLeaf),
    }
    let usage = key_usage(&cert)?;
    if usage.key_cert_sign() || usage.crl_sign() {
        return Err(SvidRule::LeafMaySign);
    }
    if !usage.digital_signature() {
        return Err(SvidRule::NoDigitalSignature);
    }
    match extended_key_usage(&cert)? {
        Some(extended) if !(extended.server_auth && extended.client_auth) => {
            return Err(SvidRule::ExtendedKeyUsage);
        }
        _ => {}
    }
    Ok(Leaf {
        id,
        not_before: timestamp(cert.validity().not_before.timestamp())?,
        not_after: timestamp(cert.validity().not_after.timestamp())?,
    })
}

/// Checks a certificate that stands between a leaf and a root.
pub(crate) fn signer(der: &[u8]) -> Result<(), SvidRule> {
    let cert = parse(der)?;
    match basic_constraints(&cert)? {
        Some(constraints) if constraints.ca => {}
        _ => return Err(SvidRule::SignerWithoutAuthority),
    }
    if !key_usage(&cert)?.key_cert_sign() {
        return Err(SvidRule::SignerMayNotSign);
    }
    match spiffe_id(&cert)? {
        Some(id) if !id.path().is_empty() => Err(SvidRule::SignerWithPath),
        _ => Ok(()),
    }
}

/// Checks a root of a bundle. A root may come from an authority that never heard of SPIFFE, so
/// what it does not say is not held against it: it is a certificate authority, its key usage, if
/// there is one, lets it sign, and its SPIFFE ID, if it has one, names no workload.
pub(crate) fn root(der: &[u8]) -> Result<(), SvidRule> {
    let cert = parse(der)?;
    match basic_constraints(&cert)? {
        Some(constraints) if constraints.ca => {}
        _ => return Err(SvidRule::SignerWithoutAuthority),
    }
    if let Some(found) = extension(&cert, &OID_X509_EXT_KEY_USAGE)? {
        match found.parsed_extension() {
            ParsedExtension::KeyUsage(usage) if usage.key_cert_sign() => {}
            ParsedExtension::KeyUsage(_) => return Err(SvidRule::SignerMayNotSign),
            _ => return Err(SvidRule::Malformed),
        }
    }
    match spiffe_id(&cert) {
        Ok(Some(id)) if !id.path().is_empty() => Err(SvidRule::SignerWithPath),
        _ => Ok(()),
    }
}

fn parse(der: &[u8]) -> Result<X509Certificate<'_>, SvidRule> {
    match X509Certificate::from_der(der) {
        Ok(([], cert)) => Ok(cert),
        _ => Err(SvidRule::Malformed),
    }
}

fn timestamp(unix_seconds: i64) -> Result<Timestamp, SvidRule> {
    Timestamp::from_second(unix_seconds).map_err(|_| SvidRule::Malformed)
}

/// The certificate's one SPIFFE ID; `None` when it has no URI SAN at all.
fn spiffe_id(cert: &X509Certificate<'_>) -> Result<Option<SpiffeId>, SvidRule> {
    let Some(extension) = extension(cert, &OID_X509_EXT_SUBJECT_ALT_NAME)? else {
        return Ok(None);
    };
    let ParsedExtension::SubjectAlternativeName(names) = extension.parsed_extension() else {
        return Err(SvidRule::Malformed);
    };
    let mut uris = names.general_names.iter().filter_map(|name| match name {
        GeneralName::URI(uri) => Some(*uri),
        _ => None,
    });
    let Some(uri) = uris.next() else {
        return Ok(None);
    };
    match uris.count() {
        0 => parse_spiffe_id(uri)
            .map(Some)
            .map_err(SvidRule::InvalidSpiffeId),
        more => Err(SvidRule::SeveralUris(more + 1)),
    }
}

fn basic_constraints<'a>(
    cert: &'a X509Certificate<'_>,
) -> Result<Option<&'a BasicConstraints>, SvidRule> {
    match extension(cert, &OID_X509_EXT_BASIC_CONSTRAINTS)?.map(X509Extension::parsed_extension) {
        None => Ok(None),
        Some(ParsedExtension::BasicConstraints(constraints)) => Ok(Some(constraints)),
        Some(_) => Err(SvidRule::Malformed),
    }
}

fn key_usage<'a>(cert: &'a X509Certificate<'_>) -> Result<&'a KeyUsage, SvidRule> {
    match extension(cert, &OID_X509_EXT_KEY_USAGE)? {
        Some(found) if found.critical => match found.parsed_extension() {
            ParsedExtension::KeyUsage(usage) => Ok(usage),
            _ => Err(SvidRule::Malformed),
        },
        _ => Err(SvidRule::KeyUsageNotCritical),
    }
}

fn extended_key_usage<'a>(
    cert: &'a X509Certificate<'_>,
) -> Result<Option<&'a ExtendedKeyUsage<'a>>, SvidRule> {
    match extension(cert, &OID_X509_EXT_EXTENDED_KEY_USAGE)?.map(X509Extension::parsed_extension) {
        None => Ok(None),
        Some(ParsedExtension::ExtendedKeyUsage(usage)) => Ok(Some(usage)),
        Some(_) => Err(SvidRule::Malformed),
    }
}

fn extension<'a, 'der>(
    cert: &'a X509Certificate<'der>,
    oid: &Oid<'static>,
) -> Result<Option<&'a X509Extension<'der>>, SvidRule> {
    cert.get_extension_unique(oid)
        .map_err(|_| SvidRule::Malformed)
}
