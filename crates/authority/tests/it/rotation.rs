//! Giving keys up before their time.

use std::time::Duration;

use hostler_authority::{Authority, Lifetimes};
use hostler_identity::{JwtSvid, Svid};
use jiff::{SignedDuration, Timestamp};
use secrecy::ExposeSecret;

use crate::support::{DAY, HOUR, domain, enrol, id, open_at};

const PATIENCE: Duration = Duration::from_secs(60);
const OVERLAP: SignedDuration = SignedDuration::from_secs(60);

fn roots(authority: &Authority) -> usize {
    authority.bundles().get(&domain()).unwrap().len()
}

/// Who has signed this, by name: roots of one authority have different ones.
fn issuer(svid: &Svid) -> Vec<u8> {
    use x509_parser::prelude::{FromDer, X509Certificate};
    let (_, leaf) = X509Certificate::from_der(&svid.chain()[0]).unwrap();
    leaf.issuer().as_raw().to_vec()
}

#[test]
fn new_keys_are_published_at_once_and_sign_after_the_overlap() {
    let dir = tempfile::tempdir().unwrap();
    let now = Timestamp::now();
    let authority = open_at(dir.path(), now).unwrap();
    let before = issuer(&enrol(&authority, "/web", now));
    let signer = authority.watch_bundles().borrow().signer.clone();
    let early = authority.jwt_bundles();

    let rotation = authority.rotate(OVERLAP, now).unwrap();
    assert_eq!(rotation.signs_at, now + OVERLAP);
    assert_eq!(roots(&authority), 2);
    assert_eq!(
        authority
            .jwt_bundles()
            .get(&domain())
            .unwrap()
            .iter()
            .count(),
        2
    );
    assert_eq!(authority.watch_bundles().borrow().signer, signer);
    assert_eq!(
        issuer(&enrol(&authority, "/web", now + OVERLAP / 2)),
        before
    );

    assert_ne!(issuer(&enrol(&authority, "/web", now + OVERLAP)), before);
    assert_ne!(authority.watch_bundles().borrow().signer, signer);
    let minted = authority.mint_jwt_svid(&id("/web"), &["x".to_owned()], None, now + OVERLAP);
    let token = minted.unwrap().token;
    let believes = |bundles| JwtSvid::validate(token.expose_secret(), "x", bundles, now + OVERLAP);
    let late = authority.jwt_bundles();
    assert!(believes(&late).is_ok());
    assert!(believes(&early).is_err(), "the old key has not signed it");
}

#[test]
fn what_old_keys_signed_is_trusted_until_it_has_expired() {
    let dir = tempfile::tempdir().unwrap();
    let now = Timestamp::now();
    let authority = open_at(dir.path(), now).unwrap();
    let rotation = authority.rotate(OVERLAP, now).unwrap();
    let last = enrol(
        &authority,
        "/web",
        now + OVERLAP - SignedDuration::from_secs(1),
    );
    assert!(last.not_after() < rotation.ends_at);
    enrol(&authority, "/web", last.not_after());
    assert_eq!(roots(&authority), 2);
    enrol(&authority, "/web", rotation.ends_at);
    assert_eq!(roots(&authority), 1, "long before its own end");
    enrol(&authority, "/web", rotation.ends_at + HOUR);
    assert_eq!(
        authority
            .jwt_bundles()
            .get(&domain())
            .unwrap()
            .iter()
            .count(),
        1
    );
}

#[test]
fn a_rotation_survives_a_restart_and_is_not_begun_twice() {
    let dir = tempfile::tempdir().unwrap();
    let now = Timestamp::now();
    let authority = open_at(dir.path(), now).unwrap();
    let before = issuer(&enrol(&authority, "/web", now));
    let rotation = authority.rotate(OVERLAP, now).unwrap();
    let bundle = authority.bundle_jwks();
    drop(authority);
    let authority = open_at(dir.path(), now + OVERLAP / 2).unwrap();
    assert_eq!(authority.rotate(DAY, now + OVERLAP / 2).unwrap(), rotation);
    assert_eq!(authority.bundle_jwks(), bundle);
    drop(authority);
    let authority = open_at(dir.path(), now + OVERLAP).unwrap();
    assert_ne!(issuer(&enrol(&authority, "/web", now + OVERLAP)), before);
    drop(authority);
    let authority = open_at(dir.path(), rotation.ends_at).unwrap();
    assert_eq!(roots(&authority), 1);
}

#[tokio::test]
async fn our_own_identity_is_renewed_when_another_root_signs_although_nobody_asks_for_anything() {
    let dir = tempfile::tempdir().unwrap();
    let now = Timestamp::now();
    let authority = open_at(dir.path(), now).unwrap();
    let mut me = authority.source(&id("/control-plane")).unwrap();
    let before = issuer(&me.svid().unwrap());
    let tended = authority.clone();
    let tending = tokio::spawn(async move { tended.tend().await });
    authority.rotate(SignedDuration::from_secs(2), now).unwrap();
    let renewed = async {
        while issuer(&me.svid().unwrap()) == before {
            me.changed().await.unwrap();
        }
    };
    tokio::time::timeout(PATIENCE, renewed).await.unwrap();
    assert!(Timestamp::now() >= now + SignedDuration::from_secs(2));
    assert_eq!(me.bundles().unwrap().get(&domain()).unwrap().len(), 2);
    tending.abort();
}

#[tokio::test]
async fn a_tended_authority_publishes_a_successor_in_time_although_nobody_asks_for_anything() {
    let dir = tempfile::tempdir().unwrap();
    let lifetimes = Lifetimes {
        root: SignedDuration::from_secs(4),
        backdate: SignedDuration::ZERO,
        ..Default::default()
    };
    let authority =
        Authority::open_with(dir.path(), domain(), lifetimes, Timestamp::now()).unwrap();
    let mut bundles = authority.watch_bundles();
    let signer = bundles.borrow().signer.clone();
    let tended = authority.clone();
    let tending = tokio::spawn(async move { tended.tend().await });
    let succeeded = async {
        let mut published = false;
        while bundles.borrow_and_update().signer == signer {
            published |= bundles.borrow().x509.get(&domain()).unwrap().len() > 1;
            bundles.changed().await.unwrap();
        }
        published
    };
    let published = tokio::time::timeout(PATIENCE, succeeded).await.unwrap();
    assert!(published, "it was published before it signed");
    tending.abort();
}
