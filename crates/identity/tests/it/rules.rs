//! Each rule of the X.509-SVID standard: one certificate that keeps it, one that breaks only it,
//! looked at as our own identity and as a peer's in a real handshake.

use hostler_identity::{
    Authorizer, BundleError, Svid, SvidError, SvidRule, TrustBundles, TrustDomain,
};
use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, ExtendedKeyUsagePurpose as Extended,
    IsCa, KeyUsagePurpose as Usage, SanType,
};
use rustls::version::TLS13;

use crate::certs::{Ca, Raw, uri};
use crate::support::{Running, attempt, reckless, source};

type Change = fn(&mut CertificateParams);
type Expected = fn(&SvidRule) -> bool;

/// A leaf that breaks one rule, and the rule.
fn broken_leaves() -> Vec<(Change, Expected)> {
    vec![
        (
            |p| p.subject_alt_names.clear(),
            |r| *r == SvidRule::NoSpiffeId,
        ),
        (
            |p| p.subject_alt_names = vec![SanType::DnsName("a.example".try_into().unwrap())],
            |r| *r == SvidRule::NoSpiffeId,
        ),
        (
            |p| p.subject_alt_names.push(uri("spiffe://a.example/second")),
            |r| *r == SvidRule::SeveralUris(2),
        ),
        (
            |p| p.subject_alt_names.push(uri("https://a.example/second")),
            |r| *r == SvidRule::SeveralUris(2),
        ),
        (
            |p| p.subject_alt_names = vec![uri("https://a.example/web")],
            |r| matches!(r, SvidRule::InvalidSpiffeId(_)),
        ),
        (
            |p| p.subject_alt_names = vec![uri("spiffe://a.example/web/")],
            |r| matches!(r, SvidRule::InvalidSpiffeId(_)),
        ),
        (
            |p| p.subject_alt_names = vec![uri("spiffe://a.example/web?x=1")],
            |r| matches!(r, SvidRule::InvalidSpiffeId(_)),
        ),
        (
            |p| p.subject_alt_names = vec![uri("spiffe://A.example/web")],
            |r| matches!(r, SvidRule::InvalidSpiffeId(_)),
        ),
        (
            |p| p.subject_alt_names = vec![uri("SPIFFE://a.example/web")],
            |r| matches!(r, SvidRule::InvalidSpiffeId(_)),
        ),
        (
            |p| p.subject_alt_names = vec![uri("spiffe://a.example")],
            |r| *r == SvidRule::NoPath,
        ),
        (
            |p| p.is_ca = IsCa::Ca(BasicConstraints::Unconstrained),
            |r| *r == SvidRule::AuthorityAsLeaf,
        ),
        (
            |p| p.is_ca = IsCa::NoCa,
            |r| *r == SvidRule::AuthorityAsLeaf,
        ),
        (
            |p| p.key_usages.clear(),
            |r| *r == SvidRule::KeyUsageNotCritical,
        ),
        (
            |p| {
                p.key_usages.clear();
                // digitalSignature, as it should be, but not marked critical.
                let bits = vec![0x03, 0x02, 0x07, 0x80];
                let usage = CustomExtension::from_oid_content(&[2, 5, 29, 15], bits);
                p.custom_extensions.push(usage);
            },
            |r| *r == SvidRule::KeyUsageNotCritical,
        ),
        (
            |p| p.key_usages = vec![Usage::KeyEncipherment],
            |r| *r == SvidRule::NoDigitalSignature,
        ),
        (
            |p| p.key_usages.push(Usage::KeyCertSign),
            |r| *r == SvidRule::LeafMaySign,
        ),
        (
            |p| p.key_usages.push(Usage::CrlSign),
            |r| *r == SvidRule::LeafMaySign,
        ),
        (
            |p| p.extended_key_usages = vec![Extended::ServerAuth],
            |r| *r == SvidRule::ExtendedKeyUsage,
        ),
        (
            |p| p.extended_key_usages = vec![Extended::ClientAuth],
            |r| *r == SvidRule::ExtendedKeyUsage,
        ),
        (
            |p| {
                p.extended_key_usages.clear();
                let nonsense = CustomExtension::from_oid_content(&[2, 5, 29, 37], vec![0x05, 0x00]);
                p.custom_extensions.push(nonsense);
            },
            |r| *r == SvidRule::Malformed,
        ),
    ]
}

/// Leaves that look unusual and are in order.
fn unusual_leaves() -> Vec<Change> {
    vec![
        |_| {},
        |p| p.extended_key_usages.clear(),
        |p| p.extended_key_usages.push(Extended::CodeSigning),
        |p| p.key_usages.push(Usage::KeyAgreement),
        |p| p.distinguished_name = rcgen::DistinguishedName::new(),
        |p| {
            p.subject_alt_names
                .push(SanType::DnsName("web.a.example".try_into().unwrap()))
        },
        |p| {
            p.subject_alt_names
                .insert(0, SanType::IpAddress("127.0.0.1".parse().unwrap()))
        },
        |p| p.subject_alt_names = vec![uri("spiffe://a.example/UPPER/_.-/0")],
    ]
}

/// A signer that breaks one rule, and the rule.
fn broken_signers() -> Vec<(Change, SvidRule)> {
    vec![
        (
            |p| p.is_ca = IsCa::ExplicitNoCa,
            SvidRule::SignerWithoutAuthority,
        ),
        (
            |p| p.key_usages = vec![Usage::CrlSign],
            SvidRule::SignerMayNotSign,
        ),
        (|p| p.key_usages.clear(), SvidRule::KeyUsageNotCritical),
        (
            |p| p.subject_alt_names = vec![uri("spiffe://a.example/ca")],
            SvidRule::SignerWithPath,
        ),
        (
            |p| p.subject_alt_names.push(uri("spiffe://b.example")),
            SvidRule::SeveralUris(2),
        ),
    ]
}

fn chain_through(ca: &Ca, change: Change) -> Raw {
    // The intermediate's own usages bind rcgen, which will not sign without keyCertSign; the
    // certificate that goes into the chain is what is looked at.
    let intermediate = ca.intermediate(change);
    ca.raw("/web", |_| {}).below(&intermediate)
}

#[test]
fn an_identity_that_breaks_a_rule_is_not_taken() {
    let ca = Ca::new("a.example");
    for (case, (change, expected)) in broken_leaves().into_iter().enumerate() {
        match ca.raw("/web", change).svid() {
            Err(SvidError::Leaf(rule)) => assert!(expected(&rule), "case {case}: {rule:?}"),
            other => panic!("case {case}: {other:?}"),
        }
    }
    for (case, (change, expected)) in broken_signers().into_iter().enumerate() {
        match chain_through(&ca, change).svid() {
            Err(SvidError::Signer { position: 1, rule }) => {
                assert_eq!(rule, expected, "case {case}");
            }
            other => panic!("case {case}: {other:?}"),
        }
    }
}

#[tokio::test]
async fn a_peer_that_breaks_a_rule_is_refused_in_the_handshake() {
    let ca = Ca::new("a.example");
    let (server, _s) = source(&ca, "/api");
    let running = Running::new(&server, Authorizer::any()).await;
    for (case, (change, _)) in broken_leaves().into_iter().enumerate() {
        let peer = reckless(Some(ca.raw("/web", change)), &[&TLS13]);
        assert!(attempt(running.address, peer).await.is_err(), "case {case}");
    }
    for (case, (change, _)) in broken_signers().into_iter().enumerate() {
        let peer = reckless(Some(chain_through(&ca, change)), &[&TLS13]);
        assert!(attempt(running.address, peer).await.is_err(), "case {case}");
    }
    for (case, change) in unusual_leaves().into_iter().enumerate() {
        let peer = reckless(Some(ca.raw("/web", change)), &[&TLS13]);
        assert!(attempt(running.address, peer).await.is_ok(), "case {case}");
    }
}

#[tokio::test]
async fn a_chain_through_an_intermediate_is_accepted() {
    let ca = Ca::new("a.example");
    let (server, _s) = source(&ca, "/api");
    let running = Running::new(&server, Authorizer::any()).await;
    let intermediate = ca.intermediate(|_| {});
    let peer = intermediate.raw("/web", |_| {}).below(&intermediate);
    assert!(
        attempt(running.address, reckless(Some(peer), &[&TLS13]))
            .await
            .is_ok()
    );
    let cut = intermediate.raw("/web", |_| {});
    assert!(
        attempt(running.address, reckless(Some(cut), &[&TLS13]))
            .await
            .is_err()
    );
}

#[tokio::test]
async fn an_overlong_chain_is_refused() {
    let ca = Ca::new("a.example");
    let (server, _s) = source(&ca, "/api");
    let running = Running::new(&server, Authorizer::any()).await;
    let padded = |length: usize| {
        let padding = ca.intermediate(|_| {});
        let mut raw = ca.raw("/web", |_| {});
        raw.chain
            .extend(std::iter::repeat_n(padding.certificate, length));
        reckless(Some(raw), &[&TLS13])
    };
    assert!(attempt(running.address, padded(8)).await.is_ok());
    assert!(attempt(running.address, padded(9)).await.is_err());
}

#[test]
fn a_key_that_is_not_the_certificates_is_not_taken() {
    let ca = Ca::new("a.example");
    let (first, second) = (ca.raw("/web", |_| {}), ca.raw("/web", |_| {}));
    let mixed = Svid::from_der(first.chain, second.key);
    assert!(matches!(mixed, Err(SvidError::Key(_))), "{mixed:?}");
}

#[test]
fn an_empty_chain_and_broken_bytes_are_not_taken() {
    let ca = Ca::new("a.example");
    let nothing = Svid::from_der(Vec::new(), ca.raw("/web", |_| {}).key);
    assert!(matches!(nothing, Err(SvidError::EmptyChain)), "{nothing:?}");
    let mut cut = ca.raw("/web", |_| {});
    cut.chain[0] = cut.chain[0][..100].to_vec().into();
    let mut tailed = ca.raw("/web", |_| {});
    tailed.chain[0] = [&tailed.chain[0], &[0][..]].concat().into();
    for broken in [cut, tailed] {
        let broken = broken.svid();
        assert!(
            matches!(broken, Err(SvidError::Leaf(SvidRule::Malformed))),
            "{broken:?}"
        );
    }
}

#[test]
fn a_leaf_cannot_be_a_root() {
    let ca = Ca::new("a.example");
    let leaf = ca.raw("/web", |_| {}).chain.remove(0);
    let refused = TrustBundles::new().insert(TrustDomain::new("a.example").unwrap(), vec![leaf]);
    assert!(
        matches!(
            refused,
            Err(BundleError::Root {
                position: 0,
                rule: SvidRule::SignerWithoutAuthority,
                ..
            })
        ),
        "{refused:?}"
    );
}

#[test]
fn a_root_may_be_silent_about_spiffe_but_not_contradict_it() {
    let root = |change: Change| {
        let ca = Ca::new("a.example").intermediate(change);
        TrustBundles::new().insert(ca.trust_domain.clone(), vec![ca.certificate])
    };
    let taken: [Change; 4] = [
        |_| {},
        |p| p.key_usages.clear(),
        |p| p.subject_alt_names.clear(),
        |p| p.subject_alt_names = vec![uri("https://ca.example/")],
    ];
    for (case, change) in taken.into_iter().enumerate() {
        assert!(root(change).is_ok(), "case {case}");
    }
    let refused: [(Change, SvidRule); 3] = [
        (
            |p| p.is_ca = IsCa::ExplicitNoCa,
            SvidRule::SignerWithoutAuthority,
        ),
        (
            |p| p.key_usages = vec![Usage::CrlSign],
            SvidRule::SignerMayNotSign,
        ),
        (
            |p| p.subject_alt_names = vec![uri("spiffe://a.example/ca")],
            SvidRule::SignerWithPath,
        ),
    ];
    for (case, (change, expected)) in refused.into_iter().enumerate() {
        match root(change) {
            Err(BundleError::Root { rule, .. }) => assert_eq!(rule, expected, "case {case}"),
            other => panic!("case {case}: {other:?}"),
        }
    }
}

#[test]
fn pem_round_trips_and_says_what_is_wrong_with_it() {
    use rcgen::KeyPair;
    let key = KeyPair::generate().unwrap();
    let key_pem = key.serialize_pem().into();
    let bad = Svid::from_pem(
        "-----BEGIN CERTIFICATE-----\n%%%\n-----END CERTIFICATE-----\n",
        &key_pem,
    );
    assert!(bad.unwrap_err().to_string().contains("certificate chain"));
    let none = Svid::from_pem("", &key_pem);
    assert!(matches!(none, Err(SvidError::EmptyChain)), "{none:?}");
    let no_key = Svid::from_pem("", &String::from("nothing").into());
    assert!(no_key.unwrap_err().to_string().contains("private key"));
}
