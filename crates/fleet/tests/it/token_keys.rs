//! The keys that sign tokens: followed without anybody noticing, or given up with all they signed.

use std::sync::Arc;
use std::time::Duration;

use hostler_fleet::IdentifyError;
use hostler_identity::KeyAndCsr;
use secrecy::SecretString;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::desk::{Desk, TRUST_DOMAIN, machine, text};

/// A host's token, and its id.
async fn host_token(desk: &Desk) -> (String, String) {
    let (id, token) = desk.pending().await;
    let registered = desk.call("hosts/register", machine(&token)).await;
    (text(&registered["token"]), id)
}

async fn host_is_known(desk: &Desk, token: &str) -> bool {
    let token: SecretString = token.into();
    match desk.fleet.identify(None, Some(&token), None).await {
        Ok(identity) => identity.is_some(),
        Err(IdentifyError::Refused) => false,
        Err(error) => panic!("{error}"),
    }
}

fn kids(keys: &Value) -> Vec<String> {
    let keys = keys.as_array().expect("a list");
    keys.iter().map(|key| text(&key["kid"])).collect()
}

/// As if all keys had been made this long ago.
async fn age(desk: &Desk, days: u32) {
    let millis = u64::from(days) * 24 * 3600 * 1000;
    let older = format!("UPDATE signing_keys SET created_at = created_at - {millis}");
    assert!(desk.execute(&older).await > 0);
}

/// Lets the monitor look until the keys are other ones than these; their names.
async fn look_until_others_than(desk: &Desk, known: &[String]) -> Vec<String> {
    let stop = CancellationToken::new();
    let (fleet, stopped) = (Arc::clone(&desk.fleet), stop.clone());
    let monitor = tokio::spawn(async move { fleet.run_monitor(stopped).await });
    let others = tokio::time::timeout(Duration::from_secs(60), async {
        loop {
            let keys = kids(&desk.call("token-keys/list", json!({})).await);
            if keys != known {
                return keys;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    let others = others.await.expect("another key follows");
    stop.cancel();
    monitor.await.expect("the monitor ends");
    others
}

#[tokio::test]
async fn a_key_that_is_followed_goes_on_verifying_and_its_tokens_stay_good() {
    let desk = Desk::open().await;
    let (old_token, _) = host_token(&desk).await;
    let first = kids(&desk.call("token-keys/list", json!({})).await);
    let rotated = desk.call("token-keys/rotate", json!({})).await;
    let all = kids(&rotated);
    assert_eq!((all.len(), &all[1]), (2, &first[0]), "{rotated}");
    assert_eq!(rotated[1]["signs_until"], rotated[0]["signs_from"]);
    assert!(rotated[1]["verifies_until"].is_string() && rotated[0]["verifies_until"].is_null());
    assert!(
        !rotated.to_string().contains("pkcs8"),
        "no private key is told"
    );
    assert!(host_is_known(&desk, &old_token).await);
    // After a restart too, and when the new one signs.
    age(&desk, 1).await;
    let (_, registration) = desk.pending().await;
    let desk = desk.reopen().await;
    let registered = desk.call("hosts/register", machine(&registration)).await;
    let new_token = text(&registered["token"]);
    for token in [&old_token, &new_token] {
        assert!(host_is_known(&desk, token).await);
    }
    let kid = |token: &str| {
        let header = jsonwebtoken::decode_header(token).expect("a JWT");
        header.kid.expect("a key's name")
    };
    assert_eq!(
        (kid(&old_token), kid(&new_token)),
        (all[1].clone(), all[0].clone())
    );
}

#[tokio::test]
async fn keys_that_are_given_up_end_every_token_and_a_host_gets_another_by_its_certificate() {
    let desk = Desk::open().await;
    let (token, id) = host_token(&desk).await;
    desk.user("ada").await;
    let users = desk.login("ada", None).await;
    let kept = desk
        .call("token-keys/rotate", json!({"give_up": true}))
        .await;
    assert_eq!(kids(&kept).len(), 1, "{kept}");
    assert!(!host_is_known(&desk, &token).await);
    assert!(desk.is_refused(&users).await);
    assert!(!desk.is_refused(&desk.login("ada", None).await).await);
    let csr = KeyAndCsr::generate(None).expect("a request").csr_pem;
    let peer = format!("spiffe://{TRUST_DOMAIN}/host/{id}")
        .parse()
        .expect("an id");
    let host = desk.fleet.identify(None, None, Some(&peer)).await;
    let host = host.expect("it is known").expect("by its certificate");
    let renewal = json!({"id": id, "csr": csr});
    let renewed = desk.call_as(&host, "hosts/renew", renewal).await;
    assert!(host_is_known(&desk, &text(&renewed["token"])).await);
}

#[tokio::test]
async fn another_key_follows_after_ninety_days_and_the_oldest_goes_when_its_tokens_have_ended() {
    let desk = Desk::open().await;
    let (token, _) = host_token(&desk).await;
    let first = kids(&desk.call("token-keys/list", json!({})).await);
    age(&desk, 90).await;
    let two = look_until_others_than(&desk, &first).await;
    assert_eq!((two.len(), &two[1]), (2, &first[0]));
    assert!(host_is_known(&desk, &token).await);
    let trail = json!({"action": "token-key.rotate"});
    let trail = desk.call("audit/list", trail).await;
    assert_eq!(trail[0]["subject"], "server", "{trail}");
    // More than a year after it was followed nothing can be alive that it signed.
    age(&desk, 366).await;
    let others = look_until_others_than(&desk, &two).await;
    assert_eq!((others.len(), &others[1]), (2, &two[0]));
    assert!(!host_is_known(&desk, &token).await);
}

#[tokio::test]
async fn only_the_platform_sees_and_rotates_them() {
    let desk = Desk::open().await;
    let ours = json!({"name": "p", "scopes": ["admin"], "of_platform": true});
    let platform = desk.holder(ours).await;
    desk.call_as(&platform, "token-keys/list", json!({})).await;
    let (_, team) = desk.team("own", &["hosts:write", "keys:write"]).await;
    for operation in ["token-keys/list", "token-keys/rotate"] {
        let refused = desk.refusal_as(&team, operation, json!({})).await;
        assert_eq!(refused.code().as_str(), "FORBIDDEN", "{operation}");
    }
}
