//! The trust bundle, and roots that succeed one another.

use base64::Engine;
use hostler_identity::{Authorizer, Client, Server, Source, TrustBundles};
use jiff::Timestamp;
use serde_json::Value;

use crate::support::{DAY, domain, enrol, id, new, open_at};

fn jwks(authority: &hostler_authority::Authority) -> Value {
    serde_json::from_str(&authority.bundle_jwks()).unwrap()
}

/// How many roots the document holds.
fn roots(document: &Value) -> usize {
    let keys = document["keys"].as_array().unwrap();
    keys.iter().filter(|key| key["use"] == "x509-svid").count()
}

#[test]
fn the_three_forms_of_the_bundle_hold_the_same_roots() {
    let (authority, _dir) = new();
    let bundles = authority.bundles();
    assert_eq!(
        TrustBundles::from_pem(domain(), &authority.bundle_pem()).unwrap(),
        bundles
    );
    let document = jwks(&authority);
    let keys = &document["keys"];
    let root = &bundles.get(&domain()).unwrap()[0];
    assert_eq!(roots(&document), 1);
    let standard = base64::engine::general_purpose::STANDARD;
    assert_eq!(keys[0]["x5c"][0], standard.encode(root));
}

#[test]
fn the_bundle_document_is_a_spiffe_jwk_set() {
    let (authority, _dir) = new();
    let document = jwks(&authority);
    assert_eq!(document["spiffe_sequence"], 1);
    assert_eq!(document["spiffe_refresh_hint"], 86_400, "a day");
    let key = &document["keys"][0];
    assert_eq!(
        (&key["use"], &key["kty"], &key["crv"]),
        (&"x509-svid".into(), &"EC".into(), &"P-256".into())
    );
    let coordinate = |name: &str| {
        base64::engine::general_purpose::URL_SAFE_NO_PAD
            .decode(key[name].as_str().unwrap())
            .unwrap()
    };
    let point = [&[4][..], &coordinate("x"), &coordinate("y")].concat();
    let root = &authority.bundles().get(&domain()).unwrap()[0].to_vec();
    let position = root.windows(point.len()).position(|window| window == point);
    assert!(position.is_some(), "x and y are the root's public key");
}

#[test]
fn a_new_root_is_published_before_it_signs_and_survives_restarts() {
    let dir = tempfile::tempdir().unwrap();
    let begin = Timestamp::now();
    let on = |day: i32| open_at(dir.path(), begin + DAY * day).unwrap();
    assert_eq!(roots(&jwks(&on(0))), 1);
    let published = on(16);
    assert_eq!(roots(&jwks(&published)), 2);
    assert_eq!(
        jwks(&published)["spiffe_sequence"],
        3,
        "a root and a JWT key"
    );
    let pem = published.bundle_pem();
    drop(published);
    assert_eq!(on(17).bundle_pem(), pem, "the same two, from the file");
    let now_signing = on(26);
    assert_eq!(roots(&jwks(&now_signing)), 2);
    drop(now_signing);
    assert_eq!(roots(&jwks(&on(31))), 2, "and the next is out");
}

#[test]
fn a_bundle_fetched_early_knows_the_root_that_signs_late() {
    let dir = tempfile::tempdir().unwrap();
    let begin = Timestamp::now();
    let authority = open_at(dir.path(), begin).unwrap();
    // Signing is what moves a running authority on; somebody renews every half hour.
    enrol(&authority, "/h", begin + DAY * 16);
    let early = authority.bundles();
    assert_eq!(early.get(&domain()).unwrap().len(), 2);
    enrol(&authority, "/h", begin + DAY * 26);
    let late = authority.bundles();
    assert_eq!(late.get(&domain()).unwrap().len(), 2);
    let mut sorted = [early, late].map(|bundles| bundles.get(&domain()).unwrap().to_vec());
    sorted
        .iter_mut()
        .for_each(|roots| roots.sort_by(|a, b| a.as_ref().cmp(b)));
    assert_eq!(sorted[0], sorted[1]);
}

#[tokio::test]
async fn members_signed_before_and_after_a_succession_recognise_each_other() {
    let dir = tempfile::tempdir().unwrap();
    let now = Timestamp::now();
    // An authority that began 24.9 days ago: its first root still signs, the next is published.
    let begin = now - DAY * 25 + DAY / 10;
    drop(open_at(dir.path(), begin).unwrap());
    let authority = open_at(dir.path(), now).unwrap();
    let before = enrol(&authority, "/before", now);
    // Half a day on, the second one signs; nothing goes back to the first.
    enrol(&authority, "/moves-on", now + DAY / 2);
    let after = enrol(&authority, "/after", now);
    assert_ne!(issuer(&before), issuer(&after));
    let (server, _s) = Source::memory(before, authority.bundles());
    let (client, _c) = Source::memory(after, authority.bundles());
    let listening = Server::bind("127.0.0.1:0", &server, Authorizer::any())
        .await
        .unwrap();
    let url = format!("https://{}/", listening.local_addr().unwrap());
    let serving = tokio::spawn(listening.serve(axum::Router::new(), std::future::pending()));
    let answer = Client::new(&client, Authorizer::id(id("/before")))
        .get(&url)
        .await
        .unwrap();
    assert_eq!(answer.status(), 404);
    serving.abort();
}

fn issuer(svid: &hostler_identity::Svid) -> String {
    use x509_parser::prelude::{FromDer, X509Certificate};
    X509Certificate::from_der(&svid.chain()[0])
        .unwrap()
        .1
        .issuer()
        .to_string()
}
