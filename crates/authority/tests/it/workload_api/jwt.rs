//! JWT-SVIDs through the Workload API.

use hostler_authority::workload_api::Entries;
use hostler_identity::JwtSvid;
use jiff::Timestamp;
use spiffe::{JwtSource, WorkloadApiError};

use super::{Running, entry, soon, web};
use crate::support::{DAY, domain, enrol, id, new, open_at};

const API: &str = "spiffe://a.example/api";

#[tokio::test]
async fn a_workload_gets_tokens_that_others_believe_over_a_rotation_of_keys() {
    let dir = tempfile::tempdir().unwrap();
    // An authority that began 24.9 days ago: the next key is out and will sign tomorrow.
    let now = Timestamp::now();
    drop(open_at(dir.path(), now - DAY * 25 + DAY / 10).unwrap());
    let authority = open_at(dir.path(), now).unwrap();
    let running = Running::new(&authority, web());
    let source = soon(JwtSource::builder().endpoint(&running.endpoint).build());
    let source = source.await.unwrap();
    let first = soon(source.fetch_jwt_svid([API])).await.unwrap();
    let early = source.bundle_set().unwrap();
    let believed = |token: &str| spiffe::JwtSvid::parse_and_validate(token, &*early, &[API]);
    assert_eq!(believed(first.token()).unwrap().spiffe_id(), &id("/web"));

    enrol(&authority, "/moves-on", now + DAY / 2);
    let second = soon(source.fetch_jwt_svid([API])).await.unwrap();
    assert_ne!(first.key_id(), second.key_id());
    let known = believed(second.token());
    assert!(
        known.is_ok(),
        "whoever has the bundle from before knows the key: {known:?}"
    );

    // The one that signed first comes to its end, and the bundle of every workload follows.
    let mut updates = source.updated();
    enrol(&authority, "/moves-on", now + DAY * 6);
    soon(updates.changed()).await.unwrap();
    let bundle = source.bundle_set().unwrap().get(&domain()).unwrap();
    assert!(bundle.find_jwt_authority(first.key_id()).is_none());
    assert!(bundle.find_jwt_authority(second.key_id()).is_some());
    soon(source.shutdown()).await;
}

#[tokio::test]
async fn a_token_is_for_the_identity_that_was_asked_for_or_for_each() {
    let (authority, _dir) = new();
    let both = Entries::from_iter([entry("/web"), entry("/second").with_hint("second").unwrap()]);
    let running = Running::new(&authority, both);
    let client = running.client().await;
    let all = soon(client.fetch_all_jwt_svids([API, "other"], None))
        .await
        .unwrap();
    let told: Vec<_> = all
        .iter()
        .map(|svid| (svid.spiffe_id().path(), svid.hint().unwrap_or_default()))
        .collect();
    assert_eq!(told, [("/web", ""), ("/second", "second")]);
    let one = soon(client.fetch_jwt_svid([API], Some(&id("/second"))))
        .await
        .unwrap();
    assert_eq!(one.spiffe_id(), &id("/second"));
    for audience in [API, "other"] {
        let bundles = authority.jwt_bundles();
        let valid = JwtSvid::validate(all[0].token(), audience, &bundles, Timestamp::now());
        assert_eq!(valid.unwrap().id(), &id("/web"));
    }
}

#[tokio::test]
async fn a_workload_gets_no_token_of_another_and_none_for_nobody() {
    let (authority, _dir) = new();
    let running = Running::new(&authority, web());
    let client = running.client().await;
    let refused = soon(client.fetch_jwt_svid([API], Some(&id("/admin")))).await;
    let Err(WorkloadApiError::PermissionDenied(reason)) = refused else {
        panic!("{refused:?}");
    };
    assert!(reason.contains("spiffe://a.example/admin"), "{reason}");
    assert!(soon(client.fetch_jwt_svid([""], None)).await.is_err());
    running.entries.send_replace(Entries::default());
    let refused = soon(client.fetch_jwt_svid([API], None)).await;
    assert!(matches!(
        refused,
        Err(WorkloadApiError::PermissionDenied(_))
    ));
}

#[tokio::test]
async fn a_token_can_be_checked_by_asking() {
    let (authority, _dir) = new();
    let running = Running::new(&authority, web());
    let client = running.client().await;
    let token = soon(client.fetch_jwt_svid([API], None)).await.unwrap();
    let checked = soon(client.validate_jwt_token(API, token.token()))
        .await
        .unwrap();
    assert_eq!(checked.spiffe_id(), &id("/web"));
    let refused = soon(client.validate_jwt_token("other", token.token())).await;
    let reason = refused.unwrap_err().to_string();
    assert!(reason.contains("audience"), "{reason}");
    let (stranger, _dir) = new();
    let foreign = stranger.mint_jwt_svid(&id("/web"), &[API.to_owned()], None, Timestamp::now());
    let foreign = foreign.unwrap();
    let foreign = secrecy::ExposeSecret::expose_secret(&foreign.token);
    assert!(soon(client.validate_jwt_token(API, foreign)).await.is_err());
}
