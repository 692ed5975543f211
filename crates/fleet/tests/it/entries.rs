//! Registration entries, and what hosts are told and given because of them.

use std::sync::Arc;
use std::time::Duration;

use hostler_identity::{KeyAndCsr, Svid};
use hostler_operations::{Identity, Request};
use jiff::Timestamp;
use secrecy::SecretString;
use serde_json::{Value, json};

use crate::desk::{Desk, TRUST_DOMAIN, machine, text};
use crate::standin::StandIn;

/// A host's wait for news, from a caller's side: far less than it takes without any.
const SOON: Duration = Duration::from_secs(10);

fn id(path: &str) -> String {
    format!("spiffe://{TRUST_DOMAIN}{path}")
}

fn web() -> Value {
    json!({"spiffe_id": "/web", "selectors": ["unix:uid:33", "unix:path:/usr/sbin/nginx"]})
}

fn with(mut input: Value, field: &str, value: impl Into<Value>) -> Value {
    input[field] = value.into();
    input
}

/// What the host is told now.
async fn told(desk: &Desk, host: &StandIn) -> Value {
    let me = host.identity(desk).await;
    desk.call_as(&me, "entries/sync", json!({"id": host.id}))
        .await
}

/// The SPIFFE IDs of what the host is told.
async fn ids(desk: &Desk, host: &StandIn) -> Vec<String> {
    let told = told(desk, host).await;
    let entries = told["entries"].as_array().expect("entries").iter();
    entries.map(|entry| text(&entry["spiffe_id"])).collect()
}

#[tokio::test]
async fn an_entry_is_kept_as_it_was_given_and_its_making_is_in_the_audit_trail() {
    let desk = Desk::open().await;
    let input = with(with(web(), "hint", "front"), "ttl_secs", 60);
    let made = desk.call("entries/create", input).await;
    assert_eq!(made["spiffe_id"], id("/web"));
    assert_eq!(
        made["selectors"],
        json!(["unix:path:/usr/sbin/nginx", "unix:uid:33"]),
        "in one order, however they were given"
    );
    assert_eq!(
        (&made["hint"], &made["ttl_secs"]),
        (&json!("front"), &json!(60))
    );
    assert!(made.get("host").is_none() && made.get("tag").is_none());
    let desk = desk.reopen().await;
    let admin = Identity::new("admin", hostler_operations::Grants::All)
        .with_principal(hostler_fleet::Principal::Platform);
    let listed = desk.call_as(&admin, "entries/list", json!({})).await;
    assert_eq!(listed, json!([made]));
    let other = json!({"spiffe_id": id("/other")});
    assert_eq!(desk.call_as(&admin, "entries/list", other).await, json!([]));
    desk.call_as(&admin, "entries/delete", json!({"id": made["id"]}))
        .await;
    let again = desk
        .refusal_as(&admin, "entries/delete", json!({"id": made["id"]}))
        .await;
    assert_eq!(again.code().as_str(), "NOT_FOUND");
    for action in ["entry.create", "entry.delete"] {
        let object = text(&made["id"]);
        let rows = format!("audit WHERE action = '{action}' AND object LIKE '{object}%'");
        assert_eq!(desk.count(&rows).await, 1, "{action}");
    }
}

#[tokio::test]
async fn what_cannot_be_an_entry_is_refused() {
    let desk = Desk::open().await;
    for bad in [
        "/host/x",
        "/host",
        "/control-plane/2",
        "//",
        "/",
        "web",
        "/a/../b",
        "/a b",
        "spiffe://other.test/web",
        "spiffe://fleet.test",
        "spiffe://fleet.test/host/host-1",
    ] {
        let refused = desk
            .refusal("entries/create", with(web(), "spiffe_id", bad))
            .await;
        assert_eq!(refused.code().as_str(), "INVALID_INPUT", "{bad}");
    }
    for good in ["/hosts/x", "/Host/x", "/a/host/b"] {
        desk.call("entries/create", with(web(), "spiffe_id", good))
            .await;
    }
    let both = with(with(web(), "tag", "t"), "host", "host-x");
    for bad in [
        with(web(), "selectors", json!([])),
        with(web(), "selectors", json!(["uid:0"])),
        with(web(), "selectors", json!(["unix:path:relative"])),
        with(web(), "hint", "ü".repeat(600)),
        with(web(), "ttl_secs", 9),
        with(web(), "ttl_secs", 86_401),
        both,
    ] {
        let refused = desk.refusal("entries/create", bad.clone()).await;
        assert_eq!(refused.code().as_str(), "INVALID_INPUT", "{bad}");
    }
    let nowhere = with(web(), "host", "host-x");
    let refused = desk.refusal("entries/create", nowhere).await;
    assert_eq!(refused.code().as_str(), "NOT_FOUND");
}

#[tokio::test]
async fn an_entry_that_says_the_same_is_a_conflict_and_elsewhere_it_is_not() {
    let desk = Desk::open().await;
    desk.call("entries/create", web()).await;
    let again = json!({
        "spiffe_id": id("/web"),
        "selectors": ["unix:path:/usr/sbin/nginx", "unix:uid:33", "unix:uid:33"],
    });
    let refused = desk.refusal("entries/create", again).await;
    assert_eq!(refused.code().as_str(), "CONFLICT");
    desk.call("entries/create", with(web(), "tag", "front"))
        .await;
}

#[tokio::test]
async fn a_team_says_nobody_who_they_are() {
    let desk = Desk::open().await;
    let made = desk.call("entries/create", web()).await;
    let scopes = [
        "entries:read",
        "entries:write",
        "authority:write",
        "hosts:write",
    ];
    let (_, team) = desk.team("own", &scopes).await;
    let refused = desk.refusal_as(&team, "entries/create", web()).await;
    assert_eq!(refused.code().as_str(), "FORBIDDEN");
    assert_eq!(
        desk.call_as(&team, "entries/list", json!({})).await,
        json!([])
    );
    let delete = json!({"id": made["id"]});
    let refused = desk.refusal_as(&team, "entries/delete", delete).await;
    assert_eq!(refused.code().as_str(), "NOT_FOUND");
    let refused = desk.refusal_as(&team, "svids/rotate", json!({})).await;
    assert_eq!(refused.code().as_str(), "FORBIDDEN");
}

#[tokio::test]
async fn an_entry_holds_on_all_hosts_or_on_one_or_by_tag() {
    let desk = Desk::open().await;
    let (one, two) = (StandIn::enrol(&desk).await, StandIn::enrol(&desk).await);
    desk.call("entries/create", web()).await;
    let named = with(with(web(), "host", one.id.as_str()), "spiffe_id", "/one");
    desk.call("entries/create", named).await;
    let tagged = with(with(web(), "tag", "front"), "spiffe_id", "/front");
    desk.call("entries/create", tagged).await;
    assert_eq!(ids(&desk, &one).await, [id("/web"), id("/one")]);
    assert_eq!(ids(&desk, &two).await, [id("/web")]);
    desk.call("hosts/tags-add", json!({"id": two.id, "tag": "front"}))
        .await;
    assert_eq!(ids(&desk, &two).await, [id("/web"), id("/front")]);
}

#[tokio::test]
async fn a_machine_that_a_team_brought_gets_only_what_names_it() {
    let desk = Desk::open().await;
    let (_, owner) = desk.team("own", &["hosts:read", "hosts:write"]).await;
    let made = desk
        .call_as(
            &owner,
            "hosts/create",
            json!({"type": "byoc", "tags": ["front"]}),
        )
        .await;
    let host = StandIn::enrol_by(&desk, &text(&made["registration_token"]), 4, 4096).await;
    desk.call("entries/create", web()).await;
    // The team itself gave the host its tag.
    desk.call("entries/create", with(web(), "tag", "front"))
        .await;
    assert_eq!(ids(&desk, &host).await, [""; 0]);
    let refused = mint(&desk, &host, &id("/web")).await;
    assert_eq!(refused.expect_err("refused"), "FORBIDDEN");
    let named = with(with(web(), "host", host.id.as_str()), "spiffe_id", "/one");
    desk.call("entries/create", named).await;
    assert_eq!(ids(&desk, &host).await, [id("/one")]);
}

async fn mint(desk: &Desk, host: &StandIn, spiffe_id: &str) -> Result<Value, String> {
    let me = host.identity(desk).await;
    let input = json!({"id": host.id, "spiffe_id": spiffe_id, "audience": ["x"]});
    let minted = desk.try_call("svids/mint", Some(&me), input).await;
    minted.map_err(|error| error.code().as_str().to_owned())
}

#[tokio::test]
async fn a_host_is_given_what_an_entry_on_it_says_and_for_the_time_that_it_says() {
    let desk = Desk::open().await;
    let host = StandIn::enrol(&desk).await;
    desk.call("entries/create", with(web(), "ttl_secs", 60))
        .await;
    let me = host.identity(&desk).await;
    let own = KeyAndCsr::generate(None).expect("a key");
    let input = json!({"id": host.id, "spiffe_id": id("/web"), "csr": own.csr_pem});
    let signed = desk.call_as(&me, "svids/sign", input.clone()).await;
    let svid = Svid::from_pem(&text(&signed["svid"]), &own.key_pem).expect("an SVID");
    assert_eq!(svid.id().to_string(), id("/web"));
    desk.call_as(&me, "svids/sign", input.clone()).await;
    let line = format!(
        "audit WHERE action = 'svid.sign' AND object = '{}'",
        id("/web")
    );
    assert_eq!(desk.count(&line).await, 1, "renewals do not bury it");
    let left = svid.not_after().duration_since(Timestamp::now()).as_secs();
    assert!((50..=60).contains(&left), "{left} s");
    let token = mint(&desk, &host, &id("/web")).await.expect("a token");
    assert!(text(&token["token"]).split('.').count() == 3);

    for refused in [
        id("/api"),
        id(&format!("/host/{}", host.id)),
        id("/WEB"),
        "x".to_owned(),
    ] {
        let code = mint(&desk, &host, &refused).await.expect_err(&refused);
        assert_eq!(code, "FORBIDDEN", "{refused}");
        let sign = with(input.clone(), "spiffe_id", refused.as_str());
        let code = desk.refusal_as(&me, "svids/sign", sign).await;
        assert_eq!(code.code().as_str(), "FORBIDDEN", "{refused}");
    }
    let no_request = with(input.clone(), "csr", "no request");
    let refused = desk.refusal_as(&me, "svids/sign", no_request).await;
    assert_eq!(refused.code().as_str(), "INVALID_INPUT");
    let other = StandIn::enrol(&desk).await;
    for operation in ["svids/sign", "entries/sync"] {
        let mut theirs = json!({"id": other.id});
        if operation == "svids/sign" {
            theirs = with(input.clone(), "id", other.id.as_str());
        }
        let refused = desk.refusal_as(&me, operation, theirs.clone()).await;
        assert_eq!(refused.code().as_str(), "FORBIDDEN", "{operation}");
        // Nor is an administrator a host.
        let refused = desk.refusal(operation, theirs).await;
        assert_eq!(refused.code().as_str(), "FORBIDDEN", "{operation}");
    }
}

#[tokio::test]
async fn a_host_that_waits_hears_of_a_change_at_once() {
    let desk = Arc::new(Desk::open().await);
    let host = StandIn::enrol(&desk).await;
    let me = host.identity(&desk).await;
    let mut known = told(&desk, &host).await;
    let same = told(&desk, &host).await;
    assert_eq!(known, same, "the same state has the same name");
    let made = desk.call("entries/create", web()).await;
    for (operation, input) in [
        ("entries/create", with(web(), "spiffe_id", "/api")),
        ("entries/delete", json!({"id": made["id"]})),
        ("svids/rotate", json!({"overlap_secs": 5})),
    ] {
        known = told(&desk, &host).await;
        let request = Request {
            input: json!({"id": host.id, "after": known["revision"]}),
            identity: Some(me.clone()),
            ..Request::default()
        };
        let registry = Arc::clone(&desk.registry);
        let waiting = tokio::spawn(async move { registry.invoke("entries/sync", request).await });
        // It waits, as far as can be told.
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert!(!waiting.is_finished(), "{operation}");
        desk.call(operation, input).await;
        let news = tokio::time::timeout(SOON, waiting).await.expect(operation);
        let news = news.expect("no panic").expect("news").output;
        assert_ne!(news["revision"], known["revision"], "{operation}");
    }
    let bundles = told(&desk, &host).await;
    let keys = bundles["bundles"][TRUST_DOMAIN]["keys"].as_array();
    assert_eq!(
        keys.map(Vec::len),
        Some(4),
        "two roots and two keys: {bundles}"
    );
    assert_eq!(text(&bundles["bundle"]).matches("BEGIN CERT").count(), 2);
}

#[tokio::test]
async fn a_deleted_host_is_told_nothing_and_its_entries_go_with_it() {
    let desk = Desk::open().await;
    let host = StandIn::enrol(&desk).await;
    desk.call("entries/create", web()).await;
    let named = with(with(web(), "host", host.id.as_str()), "spiffe_id", "/one");
    let named = desk.call("entries/create", named).await;
    let peer = id(&format!("/host/{}", host.id)).parse().expect("an id");
    assert!(desk.fleet.admits(&peer));
    let dismissals = desk.fleet.watch_dismissals();
    let me = host.identity(&desk).await;
    assert!(!dismissals.has_changed().expect("open"));
    desk.call("hosts/delete", json!({"id": host.id})).await;
    assert!(dismissals.has_changed().expect("open"));
    assert!(!desk.fleet.admits(&peer));
    let sync = json!({"id": host.id});
    let refused = desk.refusal_as(&me, "entries/sync", sync).await;
    assert_eq!(refused.code().as_str(), "NOT_FOUND");
    let refused = mint(&desk, &host, &id("/web")).await;
    assert_eq!(refused.expect_err("refused"), "NOT_FOUND");
    let left = desk.call("entries/list", json!({})).await;
    assert!(!left.to_string().contains(&text(&named["id"])), "{left}");
    let line = format!(
        "audit WHERE action = 'entry.delete' AND object = '{}'",
        text(&named["id"])
    );
    assert_eq!(desk.count(&line).await, 1);
}

#[tokio::test]
async fn the_machines_door_is_for_enrolled_hosts_and_replicas() {
    let desk = Desk::open().await;
    let (pending, token) = desk.pending().await;
    let admits = |desk: &Desk, id: &str| desk.fleet.admits(&id.parse().expect("an id"));
    let host = id(&format!("/host/{pending}"));
    assert!(!admits(&desk, &host), "it is announced and not yet there");
    let registered = desk.try_call("hosts/register", None, machine(&token)).await;
    registered.expect("registered");
    assert!(admits(&desk, &host));
    let desk = desk.reopen().await;
    assert!(admits(&desk, &host), "a restart forgets nobody");
    assert!(admits(&desk, &id("/control-plane/2")));
    for other in [
        id("/control-plane"),
        id("/web"),
        id("/host/x"),
        id(&format!("/host/{pending}/x")),
        id(&format!("/host/host-{}", "0".repeat(25))),
        format!("spiffe://other.test/host/{pending}"),
        "spiffe://other.test/control-plane/1".to_owned(),
    ] {
        assert!(!admits(&desk, &other), "{other}");
    }
}

#[tokio::test]
async fn a_rotation_is_in_the_audit_trail_and_one_that_is_under_way_is_left_alone() {
    let desk = Desk::open().await;
    let before = desk.call("bundle/get", json!({})).await;
    let rotation = desk
        .call("svids/rotate", json!({"overlap_secs": 600}))
        .await;
    let again = desk.call("svids/rotate", json!({"overlap_secs": 5})).await;
    assert_eq!(rotation, again);
    let after = desk.call("bundle/get", json!({})).await;
    assert!(after["spiffe_sequence"].as_u64() > before["spiffe_sequence"].as_u64());
    assert_eq!(after["keys"].as_array().map(Vec::len), Some(4));
    assert_eq!(desk.count("audit WHERE action = 'svid.rotate'").await, 2);
    let clerk = json!({"name": "clerk", "scopes": ["keys:write", "hosts:write"]});
    let clerk = desk.holder(clerk).await;
    let refused = desk.refusal_as(&clerk, "svids/rotate", json!({})).await;
    assert_eq!(refused.code().as_str(), "FORBIDDEN");
}

#[tokio::test]
async fn a_workloads_token_opens_nothing_at_the_control_plane() {
    let desk = Desk::open().await;
    let host = StandIn::enrol(&desk).await;
    desk.call("entries/create", web()).await;
    let token: SecretString =
        text(&mint(&desk, &host, &id("/web")).await.expect("minted")["token"]).into();
    let found = desk.fleet.identify(Some(&token), None, None).await;
    assert!(found.is_err());
    let found = desk.fleet.identify(None, Some(&token), None).await;
    assert!(found.is_err(), "a workload's token is no host token");
}
