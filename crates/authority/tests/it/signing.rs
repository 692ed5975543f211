//! What is signed, for whom, and what is not.

use hostler_authority::{CsrRefused, SignError};
use hostler_identity::{KeyAndCsr, Svid};
use jiff::{SignedDuration, Timestamp};
use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair, KeyUsagePurpose, SanType};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use crate::support::{DAY, HOUR, id, new, open_at};

fn csr(key: &KeyPair) -> String {
    CertificateParams::default()
        .serialize_request(key)
        .unwrap()
        .pem()
        .unwrap()
}

#[test]
fn an_svid_says_only_what_the_authority_says() {
    let (authority, _dir) = new();
    // A request that asks for the moon.
    let key = KeyPair::generate().unwrap();
    let mut wishes = CertificateParams::new(vec!["bank.example".to_owned()]).unwrap();
    wishes
        .subject_alt_names
        .push(SanType::URI("spiffe://a.example/admin".try_into().unwrap()));
    wishes.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    wishes.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let csr = wishes.serialize_request(&key).unwrap().pem().unwrap();

    let now = Timestamp::now();
    let issued = authority.sign_csr(&csr, &id("/host/h1"), now).unwrap();
    assert_eq!(issued.id, id("/host/h1"));
    let der = CertificateDer::from_pem_slice(issued.chain_pem.as_bytes()).unwrap();
    let (_, cert) = X509Certificate::from_der(&der).unwrap();
    let names = &cert
        .subject_alternative_name()
        .unwrap()
        .unwrap()
        .value
        .general_names;
    assert!(
        matches!(names[..], [GeneralName::URI("spiffe://a.example/host/h1")]),
        "{names:?}"
    );
    assert!(!cert.is_ca());
    let usage = cert.key_usage().unwrap().unwrap();
    assert!(usage.critical);
    assert_eq!(usage.value.flags, 1, "digitalSignature alone");
    let extended = cert.extended_key_usage().unwrap().unwrap().value;
    assert!(extended.server_auth && extended.client_auth && !extended.any);
    assert_eq!(
        cert.tbs_certificate.raw_serial_as_string().replace(':', ""),
        issued.serial
    );
    assert_eq!(issued.serial.len(), 32, "127 random bits and a leading one");

    let (from, until) = (
        cert.validity().not_before.timestamp(),
        cert.validity().not_after.timestamp(),
    );
    assert_eq!(from, (now - SignedDuration::from_secs(30)).as_second());
    assert_eq!(until, (now + HOUR).as_second());
    assert_eq!(
        (from, until),
        (issued.not_before.as_second(), issued.not_after.as_second())
    );
    // And it is an SVID by the rules of the identity library.
    let svid = Svid::from_pem(&issued.chain_pem, &key.serialize_pem().into()).unwrap();
    assert_eq!(svid.id(), &id("/host/h1"));
}

#[test]
fn every_accepted_kind_of_key_gets_an_svid() {
    let (authority, _dir) = new();
    for algorithm in [
        &rcgen::PKCS_ECDSA_P256_SHA256,
        &rcgen::PKCS_ECDSA_P384_SHA384,
        &rcgen::PKCS_ED25519,
        &rcgen::PKCS_RSA_SHA256,
    ] {
        let key = KeyPair::generate_for(algorithm).unwrap();
        let issued = authority
            .sign_csr(&csr(&key), &id("/host/h1"), Timestamp::now())
            .unwrap();
        let svid = Svid::from_pem(&issued.chain_pem, &key.serialize_pem().into());
        assert!(svid.is_ok(), "{algorithm:?}: {svid:?}");
    }
}

#[test]
fn a_key_that_is_too_weak_or_too_odd_is_refused() {
    let (authority, _dir) = new();
    let odd = csr(&KeyPair::generate_for(&rcgen::PKCS_ECDSA_P521_SHA512).unwrap());
    for csr in [include_str!("rsa1024.csr.pem"), odd.as_str()] {
        match authority.sign_csr(csr, &id("/host/h1"), Timestamp::now()) {
            Err(SignError::Csr(CsrRefused::KeyNotAccepted { .. })) => {}
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_request_without_proof_of_its_key_is_refused() {
    let (authority, _dir) = new();
    let request = CertificateParams::default().serialize_request(&KeyPair::generate().unwrap());
    let mut der = request.unwrap().der().to_vec();
    let last = der.len() - 1;
    der[last] ^= 1;
    let refused = authority.sign_csr(&pem(&der), &id("/host/h1"), Timestamp::now());
    assert!(
        matches!(refused, Err(SignError::Csr(CsrRefused::BadSignature))),
        "{refused:?}"
    );
}

#[test]
fn what_is_no_request_is_refused_with_a_reason() {
    let (authority, _dir) = new();
    let refused = |csr: &str| match authority.sign_csr(csr, &id("/host/h1"), Timestamp::now()) {
        Err(SignError::Csr(reason)) => reason,
        other => panic!("{other:?}"),
    };
    let key = KeyAndCsr::generate(None).unwrap();
    assert_eq!(refused(""), CsrRefused::NotPem);
    assert_eq!(refused("hello"), CsrRefused::NotPem);
    assert_eq!(refused(&authority.bundle_pem()), CsrRefused::NotPem);
    assert_eq!(refused(&key.csr_pem[..100]), CsrRefused::NotPem);
    assert_eq!(refused(&pem(b"not DER at all")), CsrRefused::Malformed);
    let mut tailed = CertificateParams::default()
        .serialize_request(&KeyPair::generate().unwrap())
        .unwrap()
        .der()
        .to_vec();
    tailed.push(0);
    assert_eq!(refused(&pem(&tailed)), CsrRefused::Malformed);
}

#[test]
fn ids_of_other_trust_domains_and_of_the_domain_itself_are_refused() {
    let (authority, _dir) = new();
    let key = KeyAndCsr::generate(None).unwrap();
    for id in [
        "spiffe://b.example/host/h1",
        "spiffe://a.example",
        "spiffe://x.a.example/host/h1",
    ] {
        let refused = authority.sign_csr(&key.csr_pem, &id.parse().unwrap(), Timestamp::now());
        assert!(
            matches!(refused, Err(SignError::NotAMember { .. })),
            "{id}: {refused:?}"
        );
    }
}

#[test]
fn no_svid_outlives_the_root_that_signed_it() {
    let dir = tempfile::tempdir().unwrap();
    let begin = Timestamp::now();
    let lifetimes = hostler_authority::Lifetimes {
        svid: DAY * 20,
        ..Default::default()
    };
    let open = |now| {
        let domain = crate::support::domain();
        hostler_authority::Authority::open_with(dir.path(), domain, lifetimes, now).unwrap()
    };
    let authority = open(begin);
    let key = KeyAndCsr::generate(None).unwrap();
    let issued = authority
        .sign_csr(&key.csr_pem, &id("/h"), begin + DAY * 14)
        .unwrap();
    assert_eq!(
        issued.not_after.as_second(),
        (begin + DAY * 30).as_second() - 30
    );
    drop(authority);
    // Under the root's successor there is room again.
    let later = begin + DAY * 26;
    let issued = open_at(dir.path(), later)
        .unwrap()
        .sign_csr(&key.csr_pem, &id("/h"), later);
    assert_eq!(
        issued.unwrap().not_after.as_second(),
        (later + HOUR).as_second()
    );
}

#[test]
fn serial_numbers_differ() {
    let (authority, _dir) = new();
    let key = KeyAndCsr::generate(None).unwrap();
    let serials: std::collections::HashSet<_> = (0..50)
        .map(|_| {
            authority
                .sign_csr(&key.csr_pem, &id("/h"), Timestamp::now())
                .unwrap()
                .serial
        })
        .collect();
    assert_eq!(serials.len(), 50);
}

fn pem(der: &[u8]) -> String {
    use base64::Engine;
    let body = base64::engine::general_purpose::STANDARD.encode(der);
    let lines: Vec<_> = body
        .as_bytes()
        .chunks(64)
        .map(|line| str::from_utf8(line).unwrap())
        .collect();
    let kind = "CERTIFICATE REQUEST";
    format!(
        "-----BEGIN {kind}-----\n{}\n-----END {kind}-----\n",
        lines.join("\n")
    )
}
