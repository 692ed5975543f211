//! What strangers send to hostler-identity: IDs, endpoints, bundles, certificates, tokens.

use std::ffi::OsStr;
use std::sync::LazyLock;

use hostler_identity::{
    BundleDocument, JwtBundles, JwtSvid, KeyAndCsr, Svid, SvidChain, SvidError, TrustBundles,
    TrustDomain, WorkloadEndpoint, parse_spiffe_id, parse_trust_domain,
};
use jiff::Timestamp;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use secrecy::ExposeSecret;
use spiffe::transport::Endpoint;

/// An X.509-SVID.
const LEAF: &str = include_str!("../seeds/leaf.pem");
/// The root that has signed it.
const ROOT: &[u8] = include_bytes!("../seeds/root.der");
/// The bundle document by which the tokens of the corpus can be checked.
const JWKS: &str = include_str!("../seeds/jwks.json");
/// The tokens that its keys have signed.
const TOKENS: &str = include_str!("../seeds/tokens.txt");
const AUDIENCE: &str = "them";
/// Within the life of those tokens (2026-01-01).
const NOW: i64 = 1_767_225_600;

fn now() -> Timestamp {
    Timestamp::from_second(NOW).expect("a time")
}

fn domain() -> TrustDomain {
    TrustDomain::new("a.example").expect("a trust domain")
}

/// A text is taken for a SPIFFE ID or a trust domain when it is one by the standard, in the form
/// in which we write it, and not otherwise.
pub fn spiffe_id(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let id = parse_spiffe_id(text);
    assert_eq!(id.is_ok(), is_spiffe_id(text), "{text:?}");
    if let Ok(id) = id {
        assert_eq!(id.to_string(), text);
        assert!(id.is_member_of(id.trust_domain()) && text.ends_with(id.path()));
    }
    let domain = parse_trust_domain(text);
    assert_eq!(domain.is_ok(), is_trust_domain(text), "{text:?}");
    if let Ok(domain) = domain {
        assert_eq!(domain.as_str(), text);
    }
}

/// SPIFFE-ID §2.
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
    let short = text.len() <= 2048;
    short && is_trust_domain(trust_domain) && path.is_none_or(|path| path.split('/').all(segment))
}

fn is_trust_domain(name: &str) -> bool {
    let letter = |byte: u8| byte.is_ascii_digit() || byte.is_ascii_lowercase();
    let allowed = |byte: u8| letter(byte) || b"-._".contains(&byte);
    (1..=255).contains(&name.len()) && name.bytes().all(allowed)
}

/// An endpoint of the Workload API is an absolute path or an IP address with a port, and is
/// written as it was read, but for the two ways to write a path.
pub fn endpoint(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let Ok(endpoint) = text.parse::<WorkloadEndpoint>() else {
        return;
    };
    let written = endpoint.to_string();
    assert_eq!(written.parse(), Ok(endpoint), "{text:?}");
    assert!(
        !text.contains(['?', '#', '%', '\\']) && !text.contains("/../"),
        "{text:?}"
    );
    let path = text
        .strip_prefix("unix:")
        .map(|path| path.strip_prefix("//").unwrap_or(path));
    match path {
        Some(path) => assert!(path.starts_with('/') && written == format!("unix://{path}")),
        // An IPv6 address has several forms.
        None => assert!(
            text.starts_with("tcp://") && !text.contains('@'),
            "{text:?}"
        ),
    }
    // The crate that connects must not see another place in it.
    let theirs = Endpoint::parse(&written).expect("theirs is not stricter");
    if let Endpoint::Unix(theirs) = theirs {
        assert_eq!(Some(theirs.as_os_str()), path.map(OsStr::new), "{text:?}");
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
        .insert(domain(), vec![certificate.clone()])
        .is_ok();
    assert!(as_leaf.is_err() && as_signer.is_err(), "with another's key");
    assert!(!(is_leaf && (is_signer || is_root)), "a leaf that signs");
    assert!(is_root || !is_signer, "a signer is an authority");
    if let Ok(chain) = SvidChain::from_der(vec![certificate]) {
        assert!(is_leaf && !chain.id().path().is_empty());
        // Changed anywhere, it is not what the root has signed; here only the way there counts.
        let _ = chain.verify(&ROOTS, now());
    }
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
    let Ok(svid) = JwtSvid::validate(&token, AUDIENCE, &BUNDLES, now()) else {
        return;
    };
    assert!(svid.expires_at() > now() && svid.audience().iter().any(|aud| aud == AUDIENCE));
    // An ECDSA signature has a twin, so the comparison is of what was signed.
    let signed = |token: &str| token.rsplit_once('.').map(|(signed, _)| signed.to_owned());
    let ours = TOKENS.lines().any(|ours| signed(ours) == signed(&token));
    assert!(ours, "nobody has signed {token}");
}

static LEAF_DER: LazyLock<CertificateDer<'static>> =
    LazyLock::new(|| CertificateDer::from_pem_slice(LEAF.as_bytes()).expect("a certificate"));

static ROOTS: LazyLock<TrustBundles> = LazyLock::new(|| {
    let mut roots = TrustBundles::new();
    roots
        .insert(domain(), vec![ROOT.into()])
        .expect("it is a root");
    roots
});

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
