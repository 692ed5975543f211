//! The authority behind `hostler tls init`: X.509-SVIDs that are web certificates too.

use std::net::IpAddr;
use std::path::Path;

use hostler_identity::{TrustBundles, TrustDomain};
use jiff::{SignedDuration, Timestamp};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, SanType,
};
use secrecy::{ExposeSecret, SecretString};
use time::OffsetDateTime;

use crate::failure::{Doing, Failure};

/// The CA is asked for again only when a host is added.
const CA_DAYS: u16 = 3650;
/// For machines whose clocks are behind.
const BACKDATE: SignedDuration = SignedDuration::from_mins(5);

/// A certificate authority that can sign.
pub(super) struct Ca {
    trust_domain: TrustDomain,
    issuer: Issuer<'static, KeyPair>,
}

/// A certificate and its key, both PEM.
pub(super) struct Pair {
    certificate: String,
    key: SecretString,
}

impl Pair {
    pub(super) fn certificate(&self) -> &[u8] {
        self.certificate.as_bytes()
    }

    pub(super) fn key(&self) -> &[u8] {
        self.key.expose_secret().as_bytes()
    }
}

impl Ca {
    pub(super) fn new(trust_domain: &TrustDomain) -> Result<(Self, Pair), Failure> {
        let mut params = params(&format!("CA of {trust_domain}"), CA_DAYS)?;
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.subject_alt_names = vec![uri(&trust_domain.id_string())?];
        let key = new_key()?;
        let certificate = params.self_signed(&key).doing(|| "cannot sign the CA")?;
        let pair = Pair {
            certificate: certificate.pem(),
            key: key.serialize_pem().into(),
        };
        let ca = Self {
            trust_domain: trust_domain.clone(),
            issuer: Issuer::new(params, key),
        };
        Ok((ca, pair))
    }

    /// The CA in these files, if it is this trust domain's.
    pub(super) fn load(
        certificate: &Path,
        key: &Path,
        trust_domain: &TrustDomain,
    ) -> Result<Self, Failure> {
        let read = |path: &Path| {
            std::fs::read_to_string(path).doing(|| format!("cannot read {}", path.display()))
        };
        let unusable = || format!("the CA {} cannot be used", certificate.display());
        let pem = read(certificate)?;
        let key_pem = SecretString::from(read(key)?);
        let bundle = TrustBundles::from_pem(trust_domain.clone(), &pem).doing(unusable)?;
        let root = bundle.get(trust_domain).and_then(<[_]>::first);
        let root = root.ok_or_else(|| Failure::new(format!("{}: it is empty", unusable())))?;
        let described = crate::commands::svid::describe(root)?;
        if described["uris"] != serde_json::json!([trust_domain.id_string()]) {
            let whose = crate::output::cell(&described, "uris");
            let reason = format!("{}: it is of {whose}; give --trust-domain", unusable());
            return Err(Failure::new(reason));
        }
        let key = KeyPair::from_pem(key_pem.expose_secret()).doing(unusable)?;
        let issuer = Issuer::from_ca_cert_der(root, key).doing(unusable)?;
        Ok(Self {
            trust_domain: trust_domain.clone(),
            issuer,
        })
    }

    /// A fresh key and its certificate, for this path of the trust domain, and for a server's
    /// name and address.
    pub(super) fn issue(
        &self,
        path: &str,
        host: Option<(&str, IpAddr)>,
        days: u16,
    ) -> Result<Pair, Failure> {
        let mut params = params(path.trim_start_matches('/'), days)?;
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        params.subject_alt_names = vec![uri(&format!("{}{path}", self.trust_domain.id_string()))?];
        if let Some((name, address)) = host {
            let name = name.try_into().doing(|| "this is no DNS name")?;
            params.subject_alt_names.push(SanType::DnsName(name));
            params.subject_alt_names.push(SanType::IpAddress(address));
        }
        params.use_authority_key_identifier_extension = true;
        let key = new_key()?;
        let certificate = params
            .signed_by(&key, &self.issuer)
            .doing(|| format!("cannot sign the certificate for {path}"))?;
        Ok(Pair {
            certificate: certificate.pem(),
            key: key.serialize_pem().into(),
        })
    }
}

fn new_key() -> Result<KeyPair, Failure> {
    KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).doing(|| "cannot make a key")
}

fn params(name: &str, days: u16) -> Result<CertificateParams, Failure> {
    let now = Timestamp::now();
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.not_before = utc(now - BACKDATE)?;
    params.not_after = utc(now + SignedDuration::from_hours(24) * i32::from(days))?;
    Ok(params)
}

fn utc(moment: Timestamp) -> Result<OffsetDateTime, Failure> {
    OffsetDateTime::from_unix_timestamp(moment.as_second()).doing(|| "the clock is out of range")
}

fn uri(text: &str) -> Result<SanType, Failure> {
    Ok(SanType::URI(
        text.try_into().doing(|| format!("{text} is no URI"))?,
    ))
}
