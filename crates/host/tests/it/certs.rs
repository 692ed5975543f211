//! The certificate authorities of a control plane: one for its trust domain, one for its people's
//! door.

use std::time::Duration;

use hostler_identity::{Svid, TrustBundles, TrustDomain};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, PublicKeyData, SanType,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use time::OffsetDateTime;

pub(crate) const TRUST_DOMAIN: &str = "test.internal";

/// A certificate authority.
pub(crate) struct Ca {
    pub(crate) pem: String,
    pub(crate) der: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
}

impl Ca {
    /// The authority of the trust domain.
    pub(crate) fn of_trust_domain() -> Self {
        Self::new(vec![uri(&format!("spiffe://{TRUST_DOMAIN}"))])
    }

    /// An authority for names and addresses.
    pub(crate) fn of_doors() -> Self {
        Self::new(Vec::new())
    }

    fn new(names: Vec<SanType>) -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.subject_alt_names = names;
        params.distinguished_name.push(DnType::CommonName, "a CA");
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        Self {
            pem: certificate.pem(),
            der: certificate.der().clone(),
            issuer: Issuer::new(params, key),
        }
    }

    /// Certifies the key of a request, under the given path and for the given time from now.
    /// Answers the chain in PEM, and the key that was certified.
    pub(crate) fn sign(&self, csr: &str, path: &str, life: Duration) -> (String, Vec<u8>) {
        let request = CertificateSigningRequestParams::from_pem(csr).unwrap();
        let params = svid_params(path, life);
        let certificate = params.signed_by(&request.public_key, &self.issuer).unwrap();
        (certificate.pem(), request.public_key.der_bytes().to_vec())
    }

    /// An SVID of an hour.
    pub(crate) fn svid(&self, path: &str) -> Svid {
        let key = KeyPair::generate().unwrap();
        let params = svid_params(path, Duration::from_secs(3600));
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let key = PrivatePkcs8KeyDer::from(key.serialize_der());
        Svid::from_der(vec![certificate.into()], key.into()).unwrap()
    }

    pub(crate) fn bundles(&self) -> TrustBundles {
        TrustBundles::from_pem(TrustDomain::new(TRUST_DOMAIN).unwrap(), &self.pem).unwrap()
    }

    /// A server's certificate and key, valid from `from` on for an hour.
    pub(crate) fn server(
        &self,
        name: SanType,
        from: OffsetDateTime,
    ) -> (CertificateDer<'static>, PrivateKeyDer<'static>) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![name];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.not_before = from;
        params.not_after = from + Duration::from_secs(3600);
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let key = PrivatePkcs8KeyDer::from(key.serialize_der());
        (certificate.into(), key.into())
    }
}

fn svid_params(path: &str, life: Duration) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![
        ExtendedKeyUsagePurpose::ServerAuth,
        ExtendedKeyUsagePurpose::ClientAuth,
    ];
    params.subject_alt_names = vec![uri(&format!("spiffe://{TRUST_DOMAIN}{path}"))];
    // Certificates count in whole seconds.
    params.not_before = OffsetDateTime::now_utc();
    params.not_after = params.not_before + life;
    params
}

fn uri(uri: &str) -> SanType {
    SanType::URI(uri.try_into().unwrap())
}
