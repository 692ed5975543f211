//! The SPIFFE trust bundle as a JWK set, which is how other trust domains fetch it
//! ([SPIFFE Trust Domain and Bundle](https://github.com/spiffe/spiffe/blob/main/standards/SPIFFE_Trust_Domain_and_Bundle.md) §4).

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use jiff::SignedDuration;
use rustls_pki_types::CertificateDer;
use serde::Serialize;
use x509_parser::prelude::{FromDer, X509Certificate};

/// An uncompressed P-256 point (SEC 1 §2.3.3): the tag 4, x, y.
const POINT: std::ops::RangeInclusive<usize> = 1..=64;

#[derive(Serialize)]
struct Bundle {
    keys: Vec<Key>,
    spiffe_sequence: u64,
    /// Seconds.
    spiffe_refresh_hint: u64,
}

#[derive(Serialize)]
struct Key {
    r#use: &'static str,
    kty: &'static str,
    crv: &'static str,
    x: String,
    y: String,
    x5c: [String; 1],
}

/// The bundle document of these roots, which all are ECDSA P-256: our own.
pub(crate) fn bundle<'a>(
    roots: impl Iterator<Item = &'a CertificateDer<'static>>,
    sequence: u64,
    refresh_hint: SignedDuration,
) -> String {
    let bundle = Bundle {
        keys: roots.filter_map(key).collect(),
        spiffe_sequence: sequence,
        spiffe_refresh_hint: refresh_hint.as_secs().unsigned_abs(),
    };
    serde_json::to_string(&bundle).expect("strings and numbers serialize")
}

fn key(root: &CertificateDer<'static>) -> Option<Key> {
    let (_, x509) = X509Certificate::from_der(root).ok()?;
    let (x, y) = x509
        .public_key()
        .subject_public_key
        .data
        .get(POINT)?
        .split_at(32);
    Some(Key {
        r#use: "x509-svid",
        kty: "EC",
        crv: "P-256",
        x: URL_SAFE_NO_PAD.encode(x),
        y: URL_SAFE_NO_PAD.encode(y),
        x5c: [STANDARD.encode(root)],
    })
}
