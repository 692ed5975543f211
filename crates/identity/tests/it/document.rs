//! The bundle document, as it is read and as it is written.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use hostler_identity::{BundleDocument, BundleDocumentError, JwtBundle, JwtKey, JwtKeyError};
use rcgen::{KeyPair, PublicKeyData};
use serde_json::{Value, json};

use crate::certs::Ca;

fn parse(document: &Value) -> Result<BundleDocument, BundleDocumentError> {
    BundleDocument::parse(document.to_string().as_bytes())
}

fn jwt_key() -> JwtKey {
    let pair = KeyPair::generate().unwrap();
    JwtKey::from_spki_der(&pair.subject_public_key_info()).unwrap()
}

/// A document with a root and a JWT key, as an independent issuer would write it.
fn document() -> Value {
    let mut jwt = JwtBundle::new();
    jwt.insert("k1", jwt_key());
    let written = BundleDocument {
        roots: vec![Ca::new("a.example").certificate],
        jwt,
        sequence: Some(7),
        refresh_hint: Some(Duration::from_secs(300)),
    };
    serde_json::from_str(&written.to_json().unwrap()).unwrap()
}

#[test]
fn what_is_written_is_read_back() {
    let mut jwt = JwtBundle::new();
    for (kid, algorithm) in [
        ("p256", &rcgen::PKCS_ECDSA_P256_SHA256),
        ("p384", &rcgen::PKCS_ECDSA_P384_SHA384),
        ("p521", &rcgen::PKCS_ECDSA_P521_SHA512),
        ("rsa", &rcgen::PKCS_RSA_SHA256),
    ] {
        let spki = KeyPair::generate_for(algorithm)
            .unwrap()
            .subject_public_key_info();
        jwt.insert(kid, JwtKey::from_spki_der(&spki).unwrap());
    }
    let written = BundleDocument {
        roots: vec![
            Ca::new("a.example").certificate,
            Ca::new("a.example").certificate,
        ],
        jwt,
        sequence: Some(u64::MAX),
        refresh_hint: Some(Duration::from_secs(1)),
    };
    let read = BundleDocument::parse(written.to_json().unwrap().as_bytes()).unwrap();
    assert_eq!(read, written);
}

#[test]
fn the_entries_say_what_they_are_for() {
    let document = document();
    let keys = document["keys"].as_array().unwrap();
    assert_eq!(
        (&keys[0]["use"], &keys[0]["kty"]),
        (&json!("x509-svid"), &json!("EC"))
    );
    assert_eq!(keys[0]["x5c"].as_array().unwrap().len(), 1);
    assert_eq!(
        (&keys[1]["use"], &keys[1]["kid"]),
        (&json!("jwt-svid"), &json!("k1"))
    );
    assert_eq!(document["spiffe_sequence"], 7);
    assert_eq!(document["spiffe_refresh_hint"], 300);
}

#[test]
fn no_keys_is_a_bundle_that_trusts_nobody_and_no_member_is_none_at_all() {
    assert_eq!(
        parse(&json!({ "keys": [] })).unwrap(),
        BundleDocument::default()
    );
    for broken in [
        json!({}),
        json!([]),
        json!({ "keys": {} }),
        json!({ "keys": null }),
    ] {
        let refused = parse(&broken).unwrap_err();
        assert!(
            matches!(refused, BundleDocumentError::Malformed(_)),
            "{broken}"
        );
    }
}

#[test]
fn entries_of_a_use_or_kind_that_is_not_known_are_passed_over() {
    let good = parse(&document()).unwrap();
    for foreign in [
        json!({ "use": "sig", "kty": "EC", "kid": 7 }),
        json!({ "kty": "EC", "crv": "P-256" }),
        json!({ "use": "jwt-svid", "kty": "AKP", "kid": "pq", "pub": [1] }),
        json!({ "use": "jwt-svid", "kty": "oct", "kid": "shared", "k": "AAAA" }),
        json!({ "use": "jwt-svid", "kty": "EC", "kid": "k", "crv": "secp256k1", "x": "AA", "y": "AA" }),
        json!({ "use": 7, "kty": "EC" }),
        json!("not even an object"),
    ] {
        let mut with = document();
        with["keys"] = parse_keys(&good);
        with["keys"].as_array_mut().unwrap().push(foreign.clone());
        with["future_member"] = json!({ "x": 1 });
        assert_eq!(parse(&with).unwrap(), good, "{foreign}");
    }
}

fn parse_keys(document: &BundleDocument) -> Value {
    let written: Value = serde_json::from_str(&document.to_json().unwrap()).unwrap();
    written["keys"].clone()
}

#[test]
fn an_x509_entry_holds_exactly_one_root() {
    let refused = |x5c: Value| {
        let mut document = document();
        document["keys"][0]["x5c"] = x5c;
        parse(&document).unwrap_err()
    };
    let root = STANDARD.encode(&Ca::new("a.example").certificate);
    for x5c in [json!([]), json!(null), json!([root, root]), json!(["?"])] {
        let error = refused(x5c);
        assert!(
            matches!(error, BundleDocumentError::Certificate { position: 0 }),
            "{error}"
        );
    }
    let leaf = STANDARD.encode(&Ca::new("a.example").raw("/web", |_| {}).chain[0]);
    for x5c in [json!([leaf]), json!([STANDARD.encode("no certificate")])] {
        let error = refused(x5c);
        assert!(
            matches!(error, BundleDocumentError::Root { position: 0, .. }),
            "{error}"
        );
    }
}

#[test]
fn a_jwt_entry_has_an_id_of_its_own() {
    for kid in [json!(null), json!("")] {
        let mut document = document();
        document["keys"][1]["kid"] = kid;
        let refused = parse(&document).unwrap_err();
        assert!(
            matches!(refused, BundleDocumentError::NoKeyId { position: 1 }),
            "{refused}"
        );
    }
    let mut document = document();
    let twin = document["keys"][1].clone();
    document["keys"].as_array_mut().unwrap().push(twin);
    let refused = parse(&document).unwrap_err();
    assert!(
        matches!(refused, BundleDocumentError::SameKeyId { .. }),
        "{refused}"
    );
}

#[test]
fn a_jwt_key_that_cannot_be_one_refuses_the_document() {
    let encode = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
    let refused = |key: Value| match parse(&json!({ "keys": [key] })).unwrap_err() {
        BundleDocumentError::Key { source, .. } => source,
        other => panic!("{other}"),
    };
    let ec = |x: &[u8], y: &[u8]| {
        refused(
            json!({ "use": "jwt-svid", "kty": "EC", "kid": "k", "crv": "P-256",
            "x": encode(x), "y": encode(y) }),
        )
    };
    assert_eq!(
        ec(&[1; 32], &[1; 32]),
        JwtKeyError::Malformed,
        "not on the curve"
    );
    assert_eq!(
        ec(&[1; 31], &[1; 33]),
        JwtKeyError::Malformed,
        "of the wrong width"
    );
    let rsa = |n: &[u8], e: &[u8]| {
        refused(json!({ "use": "jwt-svid", "kty": "RSA", "kid": "k",
            "n": encode(n), "e": encode(e) }))
    };
    assert_eq!(rsa(&[0xff; 128], &[1, 0, 1]), JwtKeyError::RsaSize(1024));
    assert_eq!(rsa(&[0xff; 1025], &[1, 0, 1]), JwtKeyError::RsaSize(8200));
    assert_eq!(rsa(&[], &[1, 0, 1]), JwtKeyError::RsaSize(0));
    for e in [&[][..], &[1], &[2], &[1, 0, 0, 0, 1]] {
        assert_eq!(rsa(&[0xff; 256], e), JwtKeyError::Malformed, "{e:?}");
    }
}
