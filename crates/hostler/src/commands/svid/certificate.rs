//! What a certificate says, for people and programs.

use hostler_identity::Svid;
use jiff::Timestamp;
use rustls_pki_types::CertificateDer;
use serde_json::{Value, json};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};
use x509_parser::public_key::PublicKey;

use crate::failure::{Doing, Failure};

/// One certificate as an object.
pub(crate) fn describe(der: &CertificateDer<'_>) -> Result<Value, Failure> {
    let (_, certificate) =
        X509Certificate::from_der(der).doing(|| "a certificate cannot be read")?;
    let names = certificate.subject_alternative_name().ok().flatten();
    let names = names.map_or(&[][..], |san| &san.value.general_names);
    let uris = names.iter().filter_map(|name| match name {
        GeneralName::URI(uri) => Some(*uri),
        _ => None,
    });
    let dns = names.iter().filter_map(|name| match name {
        GeneralName::DNSName(name) => Some(*name),
        _ => None,
    });
    let moment = |seconds| {
        Timestamp::from_second(seconds)
            .ok()
            .map(|at| at.to_string())
    };
    Ok(json!({
        "uris": uris.collect::<Vec<_>>(),
        "dns_names": dns.collect::<Vec<_>>(),
        "ca": certificate.is_ca(),
        "not_before": moment(certificate.validity().not_before.timestamp()),
        "not_after": moment(certificate.validity().not_after.timestamp()),
        "key": key(&certificate),
        "issuer": certificate.issuer().to_string(),
        "serial": certificate.raw_serial_as_string().replace(':', ""),
    }))
}

fn key(certificate: &X509Certificate<'_>) -> String {
    match certificate.public_key().parsed() {
        Ok(PublicKey::EC(point)) => format!("EC {}", point.key_size()),
        Ok(PublicKey::RSA(rsa)) => format!("RSA {}", rsa.key_size()),
        _ => certificate.public_key().algorithm.algorithm.to_string(),
    }
}

/// An identity as an object: who, until when.
pub(super) fn identity(svid: &Svid) -> Value {
    json!({
        "id": svid.id().to_string(),
        "trust_domain": svid.id().trust_domain().as_str(),
        "path": svid.id().path(),
        "not_before": svid.not_before().to_string(),
        "not_after": svid.not_after().to_string(),
    })
}
