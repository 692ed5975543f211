//! One certificate authority: a key and the root certificate that vouches for it.

use std::sync::Arc;

use aws_lc_rs::digest::{SHA256, digest};
use hostler_identity::{SpiffeId, TrustDomain};
use jiff::{SignedDuration, Timestamp};
use rcgen::{
    BasicConstraints, Certificate, CertificateParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256,
    PublicKeyData, SanType, SerialNumber,
};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use secrecy::{ExposeSecret, SecretString};
use time::OffsetDateTime;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::random;
use crate::succession::{Dated, Root};

/// A root and its key. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Signer(Arc<Inner>);

struct Inner {
    root: RootCertificate,
    issuer: Issuer<'static, KeyPair>,
}

/// The public half of a root: what others need to recognise what it signed.
#[derive(Debug, Clone)]
pub(crate) struct RootCertificate {
    der: CertificateDer<'static>,
    pem: String,
    not_before: Timestamp,
    not_after: Timestamp,
}

impl std::fmt::Debug for Signer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Signer")
            .field("not_after", &self.0.root.not_after)
            .finish_non_exhaustive()
    }
}

/// What a certificate says beside its key.
pub(crate) struct Leaf {
    pub(crate) names: Vec<SanType>,
    pub(crate) common_name: String,
    pub(crate) usages: Vec<ExtendedKeyUsagePurpose>,
    pub(crate) not_before: Timestamp,
    pub(crate) not_after: Timestamp,
}

/// A stored root and key do not make a signer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LoadError {
    #[error("its certificate cannot be read")]
    Certificate,
    #[error("its private key cannot be read")]
    Key,
    #[error("its private key does not belong to its certificate")]
    Mismatch,
}

impl Signer {
    /// Makes the root of a trust domain (X.509-SVID §4: cA true, keyCertSign, the ID of the trust
    /// domain without a path).
    pub(crate) fn spiffe(
        trust_domain: &TrustDomain,
        not_before: Timestamp,
        life: SignedDuration,
    ) -> Result<Self, rcgen::Error> {
        let mut params = root_params(&format!("Authority of {trust_domain}"));
        params.subject_alt_names = vec![SanType::URI(trust_domain.id_string().try_into()?)];
        Self::generate(params, not_before, life)
    }

    /// Makes the root of a private web authority.
    pub(crate) fn web(not_before: Timestamp, life: SignedDuration) -> Result<Self, rcgen::Error> {
        Self::generate(root_params("Private CA"), not_before, life)
    }

    fn generate(
        mut params: CertificateParams,
        not_before: Timestamp,
        life: SignedDuration,
    ) -> Result<Self, rcgen::Error> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let not_after = not_before + life;
        (params.not_before, params.not_after) = (utc(not_before), utc(not_after));
        let certificate = params.self_signed(&key)?;
        let root = RootCertificate {
            pem: certificate.pem(),
            der: certificate.into(),
            not_before: whole_second(not_before),
            not_after: whole_second(not_after),
        };
        Ok(Self(Arc::new(Inner {
            root,
            issuer: Issuer::new(params, key),
        })))
    }

    /// Puts a stored root and its key together again, and checks that they belong together.
    pub(crate) fn load(certificate_pem: &str, key_pem: &SecretString) -> Result<Self, LoadError> {
        let key = KeyPair::from_pem(key_pem.expose_secret()).map_err(|_| LoadError::Key)?;
        let root = RootCertificate::load(certificate_pem)?;
        if public_key(&root.der)? != key.subject_public_key_info() {
            return Err(LoadError::Mismatch);
        }
        let issuer =
            Issuer::from_ca_cert_der(&root.der, key).map_err(|_| LoadError::Certificate)?;
        Ok(Self(Arc::new(Inner { root, issuer })))
    }

    pub(crate) fn root(&self) -> &RootCertificate {
        &self.0.root
    }

    pub(crate) fn key_pem(&self) -> SecretString {
        self.0.issuer.key().serialize_pem().into()
    }

    /// Signs a leaf certificate: never one that could sign, never one that outlives the root.
    /// Answers with the certificate and its serial number in hexadecimal.
    pub(crate) fn sign(
        &self,
        leaf: Leaf,
        key: &impl PublicKeyData,
    ) -> Result<(Certificate, String), rcgen::Error> {
        let (serial, serial_hex) = serial_number();
        let mut params = CertificateParams::default();
        params.serial_number = Some(serial);
        params.not_before = utc(leaf.not_before);
        params.not_after = utc(leaf.not_after.min(self.0.root.not_after));
        params.distinguished_name = name(&leaf.common_name);
        params.subject_alt_names = leaf.names;
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = leaf.usages;
        params.use_authority_key_identifier_extension = true;
        Ok((params.signed_by(key, &self.0.issuer)?, serial_hex))
    }
}

impl RootCertificate {
    pub(crate) fn load(pem: &str) -> Result<Self, LoadError> {
        let der =
            CertificateDer::from_pem_slice(pem.as_bytes()).map_err(|_| LoadError::Certificate)?;
        let (_, x509) = X509Certificate::from_der(&der).map_err(|_| LoadError::Certificate)?;
        let moment = |seconds| Timestamp::from_second(seconds).map_err(|_| LoadError::Certificate);
        let not_before = moment(x509.validity().not_before.timestamp())?;
        let not_after = moment(x509.validity().not_after.timestamp())?;
        Ok(Self {
            pem: pem.to_owned(),
            not_before,
            not_after,
            der,
        })
    }

    pub(crate) fn der(&self) -> &CertificateDer<'static> {
        &self.der
    }

    pub(crate) fn pem(&self) -> &str {
        &self.pem
    }

    /// Half of the certificate's digest, in hexadecimal: unique, and the same whoever computes it.
    pub(crate) fn fingerprint(&self) -> String {
        hex::encode(&digest(&SHA256, &self.der).as_ref()[..16])
    }
}

impl Root for Signer {
    type Certificate = RootCertificate;

    fn certificate(&self) -> &RootCertificate {
        self.root()
    }
}

impl Dated for RootCertificate {
    fn not_before(&self) -> Timestamp {
        self.not_before
    }

    fn not_after(&self) -> Timestamp {
        self.not_after
    }
}

/// The certificate's public key, as a DER SubjectPublicKeyInfo.
fn public_key(certificate: &CertificateDer<'_>) -> Result<Vec<u8>, LoadError> {
    let (_, x509) = X509Certificate::from_der(certificate).map_err(|_| LoadError::Certificate)?;
    Ok(x509.public_key().raw.to_vec())
}

/// The URI SAN that carries a SPIFFE ID.
pub(crate) fn uri(id: &SpiffeId) -> Result<SanType, rcgen::Error> {
    Ok(SanType::URI(id.to_string().try_into()?))
}

fn root_params(title: &str) -> CertificateParams {
    let (serial, serial_hex) = serial_number();
    let mut params = CertificateParams::default();
    // Roots of one authority must differ in name, or a chain would have two possible issuers.
    params.distinguished_name = name(&format!("{title} {}", &serial_hex[..8]));
    params.serial_number = Some(serial);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

fn name(common_name: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    // X.520 allows a common name 64 characters.
    name.push(
        DnType::CommonName,
        common_name.chars().take(64).collect::<String>(),
    );
    name
}

/// A random serial number of 127 bits: positive, and within the 20 octets of RFC 5280 §4.1.2.2.
fn serial_number() -> (SerialNumber, String) {
    let mut bytes = random::bytes::<16>();
    bytes[0] = bytes[0] & 0x7f | 0x40;
    (SerialNumber::from_slice(&bytes), hex::encode(bytes))
}

/// Certificates know whole seconds.
fn whole_second(moment: Timestamp) -> Timestamp {
    Timestamp::from_second(moment.as_second()).unwrap_or(moment)
}

fn utc(moment: Timestamp) -> OffsetDateTime {
    // jiff's range (years -9999 to 9999) is the range of `time` as it is built here.
    OffsetDateTime::from_unix_timestamp(moment.as_second()).unwrap_or(OffsetDateTime::UNIX_EPOCH)
}
