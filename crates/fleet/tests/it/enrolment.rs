//! How a machine becomes a host, and that nobody else can.

use std::sync::Arc;

use futures::future::join_all;
use hostler_identity::{KeyAndCsr, Svid};
use hostler_operations::Identity;
use serde_json::json;

use crate::desk::{Desk, machine, races, text};
use crate::standin::StandIn;

#[tokio::test]
async fn a_machine_registers_once_and_is_a_host_from_then_on() {
    let desk = Desk::open().await;
    let (id, token) = desk.pending().await;
    let own = KeyAndCsr::generate(None).expect("a key");
    let mut registration = machine(&token);
    registration["csr"] = json!(own.csr_pem);
    let answer = desk
        .try_call("hosts/register", None, registration)
        .await
        .expect("registered");
    assert_eq!(answer["host"]["id"], id.as_str());
    assert_eq!(answer["host"]["status"], "online");
    assert_eq!(answer["host"]["address"], "192.0.2.7:9443");
    assert_eq!(answer["host"]["memory_mb"], 8192);
    assert_eq!(answer["machines_url"], "https://127.0.0.1:8444");
    let svid = Svid::from_pem(&text(&answer["svid"]), &own.key_pem).expect("an SVID");
    assert_eq!(svid.id().path(), format!("/host/{id}"));
    assert!(text(&answer["bundle"]).contains("BEGIN CERTIFICATE"));

    // Certificate and host token both say that it is this host, and grant nothing else.
    let host_token = text(&answer["token"]).into();
    let by_token = desk
        .fleet
        .identify(None, Some(&host_token), None)
        .await
        .expect("good");
    let by_svid = desk
        .fleet
        .identify(None, None, Some(svid.id()))
        .await
        .expect("good");
    for identity in [by_token.expect("one"), by_svid.expect("one")] {
        desk.call_as(&identity, "hosts/heartbeat", json!({"id": id}))
            .await;
        let refused = desk
            .refusal_as(&identity, "hosts/get", json!({"id": id}))
            .await;
        assert_eq!(refused.code().as_str(), "FORBIDDEN");
    }
}

#[tokio::test]
async fn a_used_token_is_refused() {
    let desk = Desk::open().await;
    let (_, token) = desk.pending().await;
    desk.try_call("hosts/register", None, machine(&token))
        .await
        .expect("the first");
    let again = desk
        .try_call("hosts/register", None, machine(&token))
        .await
        .expect_err("used");
    assert_eq!(again.code().as_str(), "UNAUTHORIZED");
    assert_eq!(again.code().status(), 401);
}

#[tokio::test]
async fn an_expired_token_is_refused() {
    let desk = Desk::open().await;
    let (id, token) = desk.pending().await;
    desk.tamper("UPDATE registration_tokens SET expires_at = 1")
        .await;
    let late = desk
        .try_call("hosts/register", None, machine(&token))
        .await
        .expect_err("late");
    assert_eq!(late.code().as_str(), "UNAUTHORIZED");
    assert_eq!(
        desk.call("hosts/get", json!({"id": id})).await["status"],
        "pending"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_fifty_racing_registrations_one_wins() {
    let desk = Arc::new(Desk::open().await);
    let own = KeyAndCsr::generate(None).expect("a key");
    for round in 1..=races() {
        let (id, token) = desk.pending().await;
        let race = (0..50).map(|n| {
            let (desk, mut registration) = (Arc::clone(&desk), machine(&token));
            registration["address"] = json!(format!("192.0.2.{}:9443", n + 1));
            registration["csr"] = json!(own.csr_pem);
            tokio::spawn(async move { desk.try_call("hosts/register", None, registration).await })
        });
        let mut winners = Vec::new();
        for outcome in join_all(race).await {
            match outcome.expect("no panic") {
                Ok(answer) => winners.push(answer),
                Err(error) => assert_eq!(error.code().as_str(), "UNAUTHORIZED", "{error}"),
            }
        }
        let [winner] = &winners[..] else {
            panic!("{} have won in round {round}", winners.len())
        };
        let host = desk.call("hosts/get", json!({"id": id})).await;
        assert_eq!(host["address"], winner["host"]["address"]);
        let lines = desk.count("audit WHERE action = 'host.register'").await;
        assert_eq!(lines, i64::try_from(round).expect("small"));
        assert_eq!(desk.count("registration_tokens").await, 0);
    }
}

#[tokio::test]
async fn a_bad_certificate_request_leaves_the_token_good() {
    let desk = Desk::open().await;
    let (id, token) = desk.pending().await;
    for bad in [
        "",
        "-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----",
    ] {
        let mut registration = machine(&token);
        registration["csr"] = json!(bad);
        let refused = desk
            .try_call("hosts/register", None, registration)
            .await
            .expect_err(bad);
        assert_eq!(refused.code().as_str(), "INVALID_INPUT", "{refused}");
        assert_eq!(
            desk.call("hosts/get", json!({"id": id})).await["status"],
            "pending"
        );
    }
    desk.try_call("hosts/register", None, machine(&token))
        .await
        .expect("the token is still good");
}

#[tokio::test]
async fn a_new_token_is_the_death_of_the_old_one() {
    let desk = Desk::open().await;
    let (id, old) = desk.pending().await;
    let new = text(&desk.call("hosts/token", json!({"id": id})).await["registration_token"]);
    assert_ne!(old, new);
    desk.try_call("hosts/register", None, machine(&old))
        .await
        .expect_err("it is dead");
    desk.try_call("hosts/register", None, machine(&new))
        .await
        .expect("it lives");
    let late = desk.refusal("hosts/token", json!({"id": id})).await;
    assert_eq!(late.code().as_str(), "INVALID_STATE");
}

#[tokio::test]
async fn who_may_not_issue_a_token_does_not_learn_the_hosts_state() {
    let desk = Desk::open().await;
    let host = StandIn::enrol(&desk).await;
    let (_, other) = desk.team("others", &["hosts:read", "hosts:write"]).await;
    let refused = desk
        .refusal_as(&other, "hosts/token", json!({"id": host.id}))
        .await;
    assert_eq!(refused.code().as_str(), "NOT_FOUND");
}

#[tokio::test]
async fn a_bound_token_is_good_only_for_the_machine_that_it_is_bound_to() {
    let desk = Desk::open().await;
    let bound = json!({"token_cidr": "10.0.0.0/8", "token_arch": "x86_64"});
    let token = text(&desk.call("hosts/create", bound).await["registration_token"]);
    let register = |from: &'static str, arch: &'static str| {
        let mut registration = machine(&token);
        registration["arch"] = json!(arch);
        desk.call_from(from, "hosts/register", registration)
    };
    for (from, arch) in [("192.0.2.9:1", "x86_64"), ("10.1.2.3:1", "aarch64")] {
        let refused = register(from, arch).await.expect_err("it does not fit");
        assert_eq!(refused.code().as_str(), "UNAUTHORIZED", "{refused}");
    }
    register("10.1.2.3:1", "x86_64").await.expect("it fits");
}

#[tokio::test]
async fn the_token_of_a_deleted_host_is_good_for_nothing() {
    let desk = Desk::open().await;
    let (id, token) = desk.pending().await;
    desk.call("hosts/delete", json!({"id": id})).await;
    let refused = desk
        .try_call("hosts/register", None, machine(&token))
        .await
        .expect_err("gone");
    assert_eq!(refused.code().as_str(), "UNAUTHORIZED");
}

#[tokio::test]
async fn a_host_speaks_only_about_itself() {
    let desk = Desk::open().await;
    let (one, other) = (StandIn::enrol(&desk).await, StandIn::enrol(&desk).await);
    let csr = KeyAndCsr::generate(None).expect("a key").csr_pem;
    let me = one.identity(&desk).await;
    for (operation, input) in [
        ("hosts/heartbeat", json!({"id": other.id})),
        ("hosts/renew", json!({"id": other.id, "csr": csr})),
    ] {
        let refused = desk.refusal_as(&me, operation, input.clone()).await;
        assert_eq!(refused.code().as_str(), "FORBIDDEN");
        assert!(refused.message().contains("host ID mismatch"), "{refused}");
        // Nor does an administrator speak for a host.
        let refused = desk.refusal(operation, input).await;
        assert_eq!(refused.code().as_str(), "FORBIDDEN");
    }
}

#[tokio::test]
async fn a_host_renews_its_certificate_for_itself_whatever_it_asks_for() {
    let desk = Desk::open().await;
    let (one, other) = (StandIn::enrol(&desk).await, StandIn::enrol(&desk).await);
    let wish = format!("spiffe://fleet.test/host/{}", other.id)
        .parse()
        .expect("an id");
    let own = KeyAndCsr::generate(Some(&wish)).expect("a key");
    let input = json!({"id": one.id, "csr": own.csr_pem});
    let renewed = desk
        .call_as(&one.identity(&desk).await, "hosts/renew", input)
        .await;
    let svid = Svid::from_pem(&text(&renewed["svid"]), &own.key_pem).expect("an SVID");
    assert_eq!(svid.id().path(), format!("/host/{}", one.id));
}

#[tokio::test]
async fn a_deleted_host_learns_that_it_is_gone_and_gets_nothing_more() {
    let desk = Desk::open().await;
    let host = StandIn::enrol(&desk).await;
    let me: Identity = host.identity(&desk).await;
    desk.call("hosts/delete", json!({"id": host.id})).await;
    let csr = KeyAndCsr::generate(None).expect("a key").csr_pem;
    for (operation, input) in [
        ("hosts/heartbeat", json!({"id": host.id})),
        ("hosts/renew", json!({"id": host.id, "csr": csr})),
    ] {
        let refused = desk.refusal_as(&me, operation, input).await;
        assert_eq!(refused.code().as_str(), "NOT_FOUND", "{operation}");
    }
}
