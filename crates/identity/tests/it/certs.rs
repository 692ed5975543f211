//! Certificates made in the test: good ones, and ones with exactly one thing wrong.

use hostler_identity::{Svid, SvidError, TrustBundles, TrustDomain};
use jiff::{SignedDuration, Timestamp};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

/// A certificate authority of one trust domain.
pub(crate) struct Ca {
    pub(crate) trust_domain: TrustDomain,
    pub(crate) certificate: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
}

/// A chain and its key as they come from an issuer, not yet looked at by anybody.
pub(crate) struct Raw {
    pub(crate) chain: Vec<CertificateDer<'static>>,
    pub(crate) key: PrivateKeyDer<'static>,
}

impl Ca {
    pub(crate) fn new(trust_domain: &str) -> Self {
        let (params, key) = (authority(trust_domain), KeyPair::generate().unwrap());
        let certificate = params.self_signed(&key).unwrap().into();
        let trust_domain = TrustDomain::new(trust_domain).unwrap();
        Self {
            trust_domain,
            certificate,
            issuer: Issuer::new(params, key),
        }
    }

    /// An authority between this one and a leaf, after `change` has been at it; and its
    /// certificate, for the leaf's chain.
    pub(crate) fn intermediate(&self, change: impl FnOnce(&mut CertificateParams)) -> Self {
        let (mut params, key) = (
            authority(self.trust_domain.as_str()),
            KeyPair::generate().unwrap(),
        );
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params
            .distinguished_name
            .push(DnType::OrganizationName, "intermediate");
        change(&mut params);
        let certificate = params.signed_by(&key, &self.issuer).unwrap().into();
        let trust_domain = self.trust_domain.clone();
        Self {
            trust_domain,
            certificate,
            issuer: Issuer::new(params, key),
        }
    }

    /// A chain for `path`, after `change` has been at its parameters.
    pub(crate) fn raw(&self, path: &str, change: impl FnOnce(&mut CertificateParams)) -> Raw {
        let key = KeyPair::generate().unwrap();
        let mut params = leaf(&format!("{}{path}", self.trust_domain.id_string()));
        change(&mut params);
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let key = PrivatePkcs8KeyDer::from(key.serialize_der());
        Raw {
            chain: vec![certificate.into()],
            key: PrivateKeyDer::Pkcs8(key),
        }
    }

    pub(crate) fn svid(&self, path: &str) -> Svid {
        self.raw(path, |_| {}).svid().unwrap()
    }

    /// An SVID that is valid for a time of its own.
    pub(crate) fn svid_between(
        &self,
        path: &str,
        from: SignedDuration,
        until: SignedDuration,
    ) -> Svid {
        let now = Timestamp::now();
        self.raw(path, |params| {
            params.not_before = utc(now + from);
            params.not_after = utc(now + until);
        })
        .svid()
        .unwrap()
    }

    pub(crate) fn bundles(&self) -> TrustBundles {
        bundles([self])
    }
}

impl Raw {
    pub(crate) fn svid(self) -> Result<Svid, SvidError> {
        Svid::from_der(self.chain, self.key)
    }

    pub(crate) fn below(mut self, intermediate: &Ca) -> Self {
        self.chain.push(intermediate.certificate.clone());
        self
    }
}

pub(crate) fn bundles<'a>(authorities: impl IntoIterator<Item = &'a Ca>) -> TrustBundles {
    let mut bundles = TrustBundles::new();
    for ca in authorities {
        bundles
            .insert(ca.trust_domain.clone(), vec![ca.certificate.clone()])
            .unwrap();
    }
    bundles
}

pub(crate) fn uri(uri: &str) -> SanType {
    SanType::URI(uri.try_into().unwrap())
}

fn authority(trust_domain: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.subject_alt_names = vec![uri(&format!("spiffe://{trust_domain}"))];
    params
        .distinguished_name
        .push(DnType::CommonName, trust_domain);
    validity(&mut params);
    params
}

fn leaf(id: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![
        ExtendedKeyUsagePurpose::ServerAuth,
        ExtendedKeyUsagePurpose::ClientAuth,
    ];
    params.subject_alt_names = vec![uri(id)];
    validity(&mut params);
    params
}

fn validity(params: &mut CertificateParams) {
    let now = Timestamp::now();
    params.not_before = utc(now - SignedDuration::from_mins(1));
    params.not_after = utc(now + SignedDuration::from_hours(1));
}

fn utc(moment: Timestamp) -> time::OffsetDateTime {
    time::OffsetDateTime::from_unix_timestamp(moment.as_second()).unwrap()
}
