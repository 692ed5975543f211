//! What must hold of anything that a stranger can send, whatever it is.
//!
//! Each function takes bytes and panics when a promise is broken: that nothing panics, and what
//! each says of itself. libFuzzer calls them with what it makes up; the test `corpus` of
//! hostler-identity calls them with what is kept in `corpus/`.

use std::sync::LazyLock;

use hostler_identity::{
    BundleDocument, JwtBundles, JwtSvid, KeyAndCsr, SpiffeId, Svid, SvidError, TrustBundles,
    TrustDomain,
};
use jiff::Timestamp;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use secrecy::ExposeSecret;
use spiffe::transport::Endpoint;

/// An X.509-SVID.
const LEAF: &str = include_str!("../seeds/leaf.pem");
/// The bundle document by which the tokens of the corpus can be checked.
const JWKS: &str = include_str!("../seeds/jwks.json");
/// The tokens that its keys have signed.
const TOKENS: &str = include_str!("../seeds/tokens.txt");
const AUDIENCE: &str = "them";
/// Within the life of those tokens (2026-01-01).
const NOW: i64 = 1_767_225_600;

fn domain() -> TrustDomain {
    TrustDomain::new("a.example").expect("a trust domain")
}

/// A SPIFFE ID is accepted when the standard allows it, and what is accepted is written in the
/// standard's form.
pub fn spiffe_id(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let parsed = SpiffeId::new(text);
    if is_spiffe_id(text) {
        let id = parsed.as_ref().expect("the standard allows it");
        assert_eq!(id.to_string(), text);
    }
    if let Ok(id) = parsed {
        let written = id.to_string();
        assert!(is_spiffe_id(&written), "{text:?} was taken for {written:?}");
        assert_eq!(SpiffeId::new(&written).as_ref(), Ok(&id));
        assert!(id.is_member_of(id.trust_domain()));
        // The scheme and the trust domain may come in capitals; nothing else may differ.
        assert!(written.eq_ignore_ascii_case(text) && text.ends_with(id.path()));
    }
    if let Ok(named) = TrustDomain::new(text) {
        assert!(is_trust_domain(named.as_str()), "{text:?}");
    }
}

/// SPIFFE-ID §2, but for the length, which limits who writes IDs and not who reads them.
fn is_spiffe_id(text: &str) -> bool {
    let Some(rest) = text.strip_prefix("spiffe://") else {
        return false;
    };
    let (trust_domain, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let segment = |segment: &str| {
        let letter = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
        !matches!(segment, "" | "." | "..") && segment.bytes().all(letter)
    };
    let path = path.strip_prefix('/');
    is_trust_domain(trust_domain) && path.is_none_or(|path| path.split('/').all(segment))
}

fn is_trust_domain(name: &str) -> bool {
    let letter = |byte: u8| byte.is_ascii_digit() || byte.is_ascii_lowercase();
    let allowed = |byte: u8| letter(byte) || b"-._".contains(&byte);
    (1..=255).contains(&name.len()) && name.bytes().all(allowed)
}

/// An endpoint of the Workload API is an absolute path or an IP address with a port, and hides
/// nothing else.
pub fn endpoint(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    match Endpoint::parse(text) {
        Ok(Endpoint::Unix(path)) => {
            assert!(path.is_absolute() && path.as_os_str().len() > 1, "{text:?}");
            assert!(!text.contains(['?', '#']), "{text:?}");
        }
        Ok(Endpoint::Tcp { host, port }) => {
            assert!(!text.contains(['?', '#']), "{text:?}");
            let written = match host {
                std::net::IpAddr::V4(ip) => format!("tcp://{ip}:{port}"),
                std::net::IpAddr::V6(ip) => format!("tcp://[{ip}]:{port}"),
            };
            let again = Endpoint::parse(&written).expect("what is accepted can be written");
            assert_eq!(again, Endpoint::Tcp { host, port });
        }
        _ => {}
    }
}

/// A bundle document that is accepted says the same after it was written and read again, and its
/// roots are roots.
pub fn bundle_document(data: &[u8]) {
    let Ok(document) = BundleDocument::parse(data) else {
        return;
    };
    TrustBundles::new()
        .insert(domain(), document.roots.clone())
        .expect("a document's roots are roots");
    // A root whose key has no form as a JWK can be read and not written.
    if let Ok(written) = document.to_json() {
        let again = BundleDocument::parse(written.as_bytes()).expect("what was written is read");
        assert_eq!(again, document);
    }
}

/// A PEM bundle that is accepted holds roots alone.
pub fn bundle_pem(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    if let Ok(bundles) = TrustBundles::from_pem(domain(), text) {
        let roots = bundles.get(&domain()).expect("the bundle of its domain");
        for root in roots {
            let leaf = Svid::from_der(vec![root.clone()], OTHER_KEY.clone_key());
            assert!(matches!(leaf, Err(SvidError::Leaf(_))), "a root is no leaf");
        }
    }
}

/// A certificate is a leaf, or it may sign, or neither; and no certificate goes with a key that
/// is not its own.
pub fn certificate(data: &[u8]) {
    let certificate = CertificateDer::from(data.to_vec());
    let as_leaf = Svid::from_der(vec![certificate.clone()], OTHER_KEY.clone_key());
    let is_leaf = !matches!(as_leaf, Err(SvidError::Leaf(_)));
    let chain = vec![LEAF_DER.clone(), certificate.clone()];
    let as_signer = Svid::from_der(chain, OTHER_KEY.clone_key());
    let is_signer = !matches!(as_signer, Err(SvidError::Signer { .. }));
    let is_root = TrustBundles::new()
        .insert(domain(), vec![certificate])
        .is_ok();
    assert!(as_leaf.is_err() && as_signer.is_err(), "with another's key");
    assert!(!(is_leaf && (is_signer || is_root)), "a leaf that signs");
    assert!(is_root || !is_signer, "a signer is an authority");
}

/// A token is accepted when one of the keys has signed it, and not otherwise.
///
/// The first byte says how the rest is meant: `.` as a token, anything else as header, payload
/// and signature on a line each, which are put into base64url here so that a fuzzer need not
/// learn it.
pub fn jwt_svid(data: &[u8]) {
    let Some((how, rest)) = data.split_first() else {
        return;
    };
    let token = match how {
        b'.' => String::from_utf8_lossy(rest).into_owned(),
        _ => {
            let parts: Vec<_> = rest
                .splitn(3, |byte| *byte == b'\n')
                .map(base64url)
                .collect();
            parts.join(".")
        }
    };
    let now = Timestamp::from_second(NOW).expect("a time");
    let Ok(svid) = JwtSvid::validate(&token, AUDIENCE, &BUNDLES, now) else {
        return;
    };
    assert!(svid.expires_at() > now && svid.audience().iter().any(|aud| aud == AUDIENCE));
    // An ECDSA signature has a twin, so the comparison is of what was signed.
    let signed = |token: &str| token.rsplit_once('.').map(|(signed, _)| signed.to_owned());
    let ours = TOKENS.lines().any(|ours| signed(ours) == signed(&token));
    assert!(ours, "nobody has signed {token}");
}

static LEAF_DER: LazyLock<CertificateDer<'static>> =
    LazyLock::new(|| CertificateDer::from_pem_slice(LEAF.as_bytes()).expect("a certificate"));

static BUNDLES: LazyLock<JwtBundles> = LazyLock::new(|| {
    let document = BundleDocument::parse(JWKS.as_bytes()).expect("a bundle document");
    let mut bundles = JwtBundles::new();
    bundles.insert(domain(), document.jwt);
    bundles
});

/// A key that belongs to no certificate here.
static OTHER_KEY: LazyLock<PrivateKeyDer<'static>> = LazyLock::new(|| {
    let own = KeyAndCsr::generate(None).expect("a key");
    PrivateKeyDer::from_pem_slice(own.key_pem.expose_secret().as_bytes()).expect("a key")
});

/// RFC 4648 §5, without padding.
fn base64url(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let mut group = [0; 3];
        group[..chunk.len()].copy_from_slice(chunk);
        let bits = u32::from_be_bytes([0, group[0], group[1], group[2]]);
        for sextet in 0..=chunk.len() {
            let index = (bits >> (18 - 6 * sextet)) & 63;
            text.push(char::from(ALPHABET[index as usize]));
        }
    }
    text
}
