//! Whose a credential is.

use hostler_fleet::{IdentifyError, Principal};
use hostler_operations::{Grants, Identity};
use secrecy::SecretString;
use serde_json::{Value, json};

use crate::desk::{self, Desk, text};
use crate::standin::StandIn;

async fn refused(desk: &Desk, bearer: &str) -> bool {
    let bearer: SecretString = bearer.into();
    let found = desk.fleet.identify(Some(&bearer), None, None).await;
    matches!(found, Err(IdentifyError::Refused))
}

#[tokio::test]
async fn the_first_key_is_shown_once_and_may_do_everything() {
    let desk = Desk::open().await;
    let key = desk.first_key.clone().expect("the first start shows a key");
    assert_eq!(desk.admin.grants(), &Grants::All);
    let desk = desk.reopen().await;
    assert!(desk.first_key.is_none(), "the second start shows none");
    assert!(!refused(&desk, key.reveal()).await, "the key lives on");
    // What is kept of it does not let anybody in.
    assert_eq!(
        desk.count(&format!("api_keys WHERE hash = '{}'", key.reveal()))
            .await,
        0
    );
}

#[tokio::test]
async fn a_first_key_that_nobody_saw_is_made_anew() {
    let dir = tempfile::tempdir().expect("a directory");
    let (_, fleet, unseen) = desk::begin(dir.path()).await;
    let unseen = unseen.expect("a first start has a key");
    fleet.close().await;
    drop(fleet);
    let desk = Desk::open_existing(dir.path()).await;
    let shown = desk.first_key.clone().expect("the next start shows one");
    assert!(!refused(&desk, shown.reveal()).await);
    assert!(refused(&desk, unseen.reveal()).await, "it was never good");
}

#[tokio::test]
async fn who_presents_nothing_is_nobody() {
    let desk = Desk::open().await;
    let nobody = desk
        .fleet
        .identify(None, None, None)
        .await
        .expect("no error");
    assert!(nobody.is_none());
}

#[tokio::test]
async fn what_is_no_key_of_ours_is_refused() {
    let desk = Desk::open().await;
    let host = StandIn::enrol(&desk).await;
    let invented = format!("hst_{}", "0".repeat(32));
    for bad in ["", "hst_", &invented, "Bearer x", &host.host_token] {
        assert!(refused(&desk, bad).await, "{bad:?} was let in");
    }
    let key: SecretString = desk.first_key.clone().expect("a key").reveal().into();
    let cross_used = desk.fleet.identify(None, Some(&key), None).await;
    assert!(
        matches!(cross_used, Err(IdentifyError::Refused)),
        "an API key is no host token"
    );
}

#[tokio::test]
async fn a_key_is_refused_from_its_expiry_or_deletion_on() {
    let desk = Desk::open().await;
    let input = json!({"name": "short", "scopes": ["hosts:read"], "expires_in_secs": 60});
    let made = desk.call("api-keys/create", input).await;
    let secret = text(&made["secret"]);
    assert!(!refused(&desk, &secret).await, "it is good now");
    desk.call("api-keys/delete", json!({"id": made["api_key"]["id"]}))
        .await;
    assert!(refused(&desk, &secret).await, "it was deleted");

    let input = json!({"name": "expiring", "scopes": ["hosts:read"], "expires_in_secs": 60});
    let made = desk.call("api-keys/create", input).await;
    let id = text(&made["api_key"]["id"]);
    desk.tamper(&format!(
        "UPDATE api_keys SET expires_at = 1 WHERE id = '{id}'"
    ))
    .await;
    assert!(
        refused(&desk, &text(&made["secret"])).await,
        "it has expired"
    );
}

#[tokio::test]
async fn the_last_key_that_may_do_everything_stays() {
    let desk = Desk::open().await;
    let keys = desk.call("api-keys/list", json!({})).await;
    let first = json!({"id": keys[0]["id"]});
    let reader = json!({"name": "reader", "scopes": ["hosts:read", "keys:write"]});
    desk.call("api-keys/create", reader).await;
    let error = desk.refusal("api-keys/delete", first.clone()).await;
    assert_eq!(error.code().as_str(), "CONFLICT");
    assert!(error.to_string().contains("create another one first"));

    let second = json!({"name": "second", "scopes": ["admin"]});
    desk.call("api-keys/create", second).await;
    desk.call("api-keys/delete", first).await;
    assert_eq!(desk.count("api_keys").await, 2);
}

#[tokio::test]
async fn a_host_that_shows_two_faces_is_refused() {
    let desk = Desk::open().await;
    let (one, other) = (StandIn::enrol(&desk).await, StandIn::enrol(&desk).await);
    let token = one.host_token.as_str().into();
    let face = |host: &StandIn| format!("spiffe://fleet.test/host/{}", host.id).parse();
    let (own, strange) = (face(&one).expect("an id"), face(&other).expect("an id"));
    let same = desk
        .fleet
        .identify(None, Some(&token), Some(&own))
        .await
        .expect("the same");
    let principal = same.as_ref().and_then(Identity::principal::<Principal>);
    assert_eq!(
        principal,
        Some(&Principal::Host(hostler_fleet::HostId::named(&one.id)))
    );
    let two = desk
        .fleet
        .identify(None, Some(&token), Some(&strange))
        .await;
    assert!(matches!(two, Err(IdentifyError::Refused)));
}

#[tokio::test]
async fn other_members_of_the_trust_domain_may_do_nothing() {
    let desk = Desk::open().await;
    for path in ["control-plane/2", "host/not-an-id", "workload/web"] {
        let peer = format!("spiffe://fleet.test/{path}")
            .parse()
            .expect("an id");
        let found = desk
            .fleet
            .identify(None, None, Some(&peer))
            .await
            .expect("no error");
        let found = found.expect("an identity");
        assert_eq!(found.grants(), &Grants::from_iter([]), "{path}");
        assert!(found.principal::<Principal>().is_none(), "{path}");
    }
    let foreign = format!("spiffe://other.test/host/host-{}", "0".repeat(25));
    let foreign = foreign.parse().expect("an id");
    let found = desk
        .fleet
        .identify(None, None, Some(&foreign))
        .await
        .expect("no error");
    assert!(
        found
            .expect("an identity")
            .principal::<Principal>()
            .is_none()
    );
}

#[tokio::test]
async fn nobody_gives_away_what_they_do_not_have() {
    let desk = Desk::open().await;
    let clerk = json!({"name": "clerk", "scopes": ["keys:write", "hosts:read"]});
    let clerk = desk.holder(clerk).await;
    let key = |scope: &str| json!({"name": "x", "scopes": [scope]});
    desk.call_as(&clerk, "api-keys/create", key("hosts:read"))
        .await;
    for more in ["hosts:write", "vms:read", "admin"] {
        let refused = desk.refusal_as(&clerk, "api-keys/create", key(more)).await;
        assert_eq!(refused.code().as_str(), "FORBIDDEN", "{more}");
    }
    let unknown = desk
        .refusal("api-keys/create", key("everything:always"))
        .await;
    assert_eq!(unknown.code().as_str(), "INVALID_INPUT");
}

#[tokio::test]
async fn a_list_of_keys_holds_no_secret() {
    let desk = Desk::open().await;
    let made = desk
        .call(
            "api-keys/create",
            json!({"name": "x", "scopes": ["vms:read"]}),
        )
        .await;
    let listed: Value = desk.call("api-keys/list", json!({})).await;
    assert_eq!(listed.as_array().expect("a list").len(), 2);
    assert_eq!(listed[1]["id"], made["api_key"]["id"]);
    let secret = text(&made["secret"]);
    assert!(!listed.to_string().contains(&secret[4..]));
}
