//! The authority's own process as a member of its trust domain.

use std::time::Duration;

use hostler_authority::{Authority, Lifetimes, SignError};
use jiff::{SignedDuration, Timestamp};

use crate::support::{DAY, domain, enrol, id, new, open_at};

const PATIENCE: Duration = Duration::from_secs(60);

#[tokio::test]
async fn our_own_identity_renews_itself() {
    let dir = tempfile::tempdir().unwrap();
    let lifetimes = Lifetimes {
        svid: SignedDuration::from_secs(6),
        ..Default::default()
    };
    let authority =
        Authority::open_with(dir.path(), domain(), lifetimes, Timestamp::now()).unwrap();
    let mut me = authority.source(&id("/control-plane")).unwrap();
    let mut last = me.svid().unwrap();
    for _ in 0..2 {
        tokio::time::timeout(PATIENCE, me.changed())
            .await
            .unwrap()
            .unwrap();
        let next = me.svid().expect("it is renewed before it expires");
        assert!(next.not_after() > last.not_after());
        assert_ne!(next.chain()[0], last.chain()[0]);
        last = next;
    }
    assert_eq!(last.id(), &id("/control-plane"));
}

#[tokio::test]
async fn our_own_source_follows_the_bundle() {
    let dir = tempfile::tempdir().unwrap();
    let begin = Timestamp::now();
    let authority = open_at(dir.path(), begin).unwrap();
    let mut me = authority.source(&id("/control-plane")).unwrap();
    assert_eq!(me.bundles().unwrap().get(&domain()).unwrap().len(), 1);
    enrol(&authority, "/h", begin + DAY * 16);
    tokio::time::timeout(PATIENCE, me.changed())
        .await
        .unwrap()
        .unwrap();
    assert_eq!(me.bundles().unwrap(), authority.bundles());
    assert_eq!(me.bundles().unwrap().get(&domain()).unwrap().len(), 2);
}

#[tokio::test]
async fn the_renewing_task_ends_with_the_source() {
    let (authority, dir) = new();
    let me = authority.source(&id("/control-plane")).unwrap();
    drop(authority);
    // The task holds the authority, and with it the directory's lock, until it ends.
    assert!(crate::support::open(dir.path()).is_err());
    drop(me);
    let reopened = async {
        while crate::support::open(dir.path()).is_err() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, reopened).await.unwrap();
}

#[tokio::test]
async fn our_own_identity_must_be_of_our_trust_domain() {
    let (authority, _dir) = new();
    let refused = authority.source(&"spiffe://b.example/x".parse().unwrap());
    assert!(
        matches!(refused, Err(SignError::NotAMember { .. })),
        "{refused:?}"
    );
}
