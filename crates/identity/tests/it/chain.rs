//! Chains that are judged outside a handshake.

use hostler_identity::{PeerRefused, SvidChain, SvidError, TrustBundles, certificates_pem};
use jiff::{SignedDuration, Timestamp};

use crate::certs::{Ca, Raw, bundles};

fn chain(raw: &Raw) -> SvidChain {
    SvidChain::from_pem(&certificates_pem(&raw.chain)).unwrap()
}

#[test]
fn a_chain_is_vouched_for_by_its_own_trust_domain_within_its_dates() {
    let (ca, other) = (Ca::new("a.example"), Ca::new("b.example"));
    let intermediate = ca.intermediate(|_| {});
    let raw = intermediate.raw("/web", |_| {}).below(&intermediate);
    let (chain, now) = (chain(&raw), Timestamp::now());
    assert_eq!(chain.id().to_string(), "spiffe://a.example/web");
    assert_eq!(chain.certificates(), raw.chain);
    assert_eq!(chain.verify(&bundles([&ca, &other]), now), Ok(()));

    let nobody = chain.verify(&bundles([&other]), now);
    assert_eq!(nobody, Err(PeerRefused::NoBundle(ca.trust_domain.clone())));
    let namesake = chain.verify(&bundles([&Ca::new("a.example")]), now);
    assert!(matches!(namesake, Err(PeerRefused::NotVouchedFor { .. })));
    let hour = SignedDuration::from_hours(1);
    for (moment, word) in [
        (chain.not_before() - hour, "not valid yet"),
        (chain.not_after() + hour, "expired"),
    ] {
        let refused = chain.verify(&ca.bundles(), moment).unwrap_err();
        assert!(refused.to_string().contains(word), "{refused}");
    }
    let no_roots = chain.verify(&TrustBundles::new(), now);
    assert!(no_roots.is_err());
}

#[test]
fn what_is_no_chain_says_why() {
    let ca = Ca::new("a.example");
    assert!(matches!(
        SvidChain::from_pem("nothing"),
        Err(SvidError::EmptyChain)
    ));
    let root = SvidChain::from_der(vec![ca.certificate.clone()]);
    assert!(matches!(root, Err(SvidError::Leaf(_))), "{root:?}");
    let below_itself = ca.raw("/web", |_| {});
    let twice = vec![below_itself.chain[0].clone(), below_itself.chain[0].clone()];
    let twice = SvidChain::from_der(twice);
    assert!(
        matches!(twice, Err(SvidError::Signer { position: 1, .. })),
        "{twice:?}"
    );
}
