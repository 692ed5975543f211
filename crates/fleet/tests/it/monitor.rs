//! Who falls silent is noticed, and who comes back is welcome.

use std::time::Duration;

use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::desk::{Desk, text};
use crate::standin::StandIn;

/// Lets the monitor look until the host has this status.
async fn look_until(desk: &Desk, host: &StandIn, status: &str) {
    let is = async || desk.call("hosts/get", json!({"id": host.id})).await["status"] == status;
    look_until_so(desk, is).await;
}

/// Starts the monitor, waits until something is so, and stops it.
async fn look_until_so(desk: &Desk, so: impl AsyncFn() -> bool) {
    let stop = CancellationToken::new();
    let fleet = std::sync::Arc::clone(&desk.fleet);
    let monitor = tokio::spawn({
        let stop = stop.clone();
        async move { fleet.run_monitor(stop).await }
    });
    let seen = tokio::time::timeout(Duration::from_secs(60), async {
        while !so().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    seen.await.expect("it became so");
    stop.cancel();
    monitor.await.expect("the monitor ends when it is told to");
}

async fn states(desk: &Desk) -> Vec<Value> {
    let vms = desk.call("vms/list", json!({})).await;
    vms.as_array()
        .expect("a list")
        .iter()
        .map(|vm| vm["state"].clone())
        .collect()
}

#[tokio::test]
async fn a_silent_host_is_unreachable_and_its_vms_missing_until_it_is_heard_again() {
    let desk = Desk::open().await;
    let (host, lively) = (StandIn::enrol(&desk).await, StandIn::enrol(&desk).await);
    let vm = desk
        .call("vms/create", json!({"name": "web", "host": host.id}))
        .await;
    desk.call("vms/start", json!({"name": "web"})).await;
    let silent = format!(
        "UPDATE hosts SET last_heartbeat_at = last_heartbeat_at - 91000 WHERE id = '{}'",
        host.id
    );
    desk.tamper(&silent).await;
    look_until(&desk, &host, "unreachable").await;
    let other = desk.call("hosts/get", json!({"id": lively.id})).await;
    assert_eq!(other["status"], "online", "only the silent one");
    assert_eq!(states(&desk).await, ["missing"]);
    assert_eq!(
        desk.call("vms/get", json!({"name": "web"})).await["state"],
        "missing"
    );
    let refused = desk
        .refusal("vms/create", json!({"name": "b", "host": host.id}))
        .await;
    assert!(refused.message().contains("1 is not online"), "{refused}");

    host.heartbeat(&desk, json!([{"name": vm["id"], "state": "running"}]))
        .await;
    let back = desk.call("hosts/get", json!({"id": host.id})).await;
    assert_eq!(back["status"], "online");
    assert_eq!(states(&desk).await, ["running"]);
    let lines = "audit WHERE action IN ('host.unreachable', 'host.online')";
    assert_eq!(desk.count(lines).await, 2, "one line for each change");
}

#[tokio::test]
async fn a_heartbeat_brings_the_books_in_line_with_the_host() {
    let desk = Desk::open().await;
    let host = StandIn::enrol(&desk).await;
    let mut ids = Vec::new();
    for name in ["a", "b", "c"] {
        ids.push(text(
            &desk.call("vms/create", json!({"name": name})).await["id"],
        ));
    }
    // The report knows nothing of c, which was made while it was under way.
    let report = json!([
        {"name": ids[0], "state": "running"},
        {"name": "somebody-else", "state": "running"},
    ]);
    desk.tamper(&format!(
        "UPDATE vms SET updated_at = 1 WHERE id = '{}'",
        ids[1]
    ))
    .await;
    host.heartbeat(&desk, report.clone()).await;
    assert_eq!(states(&desk).await, ["running", "missing", "created"]);
    let vms = desk.call("vms/list", json!({})).await;
    assert_eq!(vms[1]["state_reason"], "its host does not have it");
    // It turns up again, and has run meanwhile.
    desk.tamper(&format!(
        "UPDATE vms SET observed = '{{\"started_at\":\"2026-01-01T00:00:00Z\"}}' WHERE id = '{}'",
        ids[1]
    ))
    .await;
    let report = |state| json!([{"name": ids[1], "state": state}]);
    host.heartbeat(&desk, report("running")).await;
    let vms = desk.call("vms/list", json!({})).await;
    assert_eq!(vms[1]["started_at"], "2026-01-01T00:00:00Z");
    host.heartbeat(&desk, report("stopped")).await;
    assert_eq!(states(&desk).await, ["running", "stopped", "created"]);
    let vms = desk.call("vms/list", json!({})).await;
    assert_eq!(vms[1]["started_at"], json!(null), "it does not run");
}

#[tokio::test]
async fn a_host_that_says_goodbye_is_offline_until_it_comes_back() {
    let desk = Desk::open().await;
    let host = StandIn::enrol(&desk).await;
    let me = host.identity(&desk).await;
    desk.call_as(
        &me,
        "hosts/heartbeat",
        json!({"id": host.id, "goodbye": true}),
    )
    .await;
    assert_eq!(
        desk.call("hosts/get", json!({"id": host.id})).await["status"],
        "offline"
    );
    desk.call_as(&me, "hosts/heartbeat", json!({"id": host.id}))
        .await;
    assert_eq!(
        desk.call("hosts/get", json!({"id": host.id})).await["status"],
        "online"
    );
}

#[tokio::test]
async fn a_creation_that_nobody_finished_comes_to_light() {
    let desk = Desk::open().await;
    let host = StandIn::enrol(&desk).await;
    desk.call("vms/create", json!({"name": "web"})).await;
    // As if the server had died while the host was making it.
    desk.tamper("UPDATE vms SET placed = FALSE, created_at = 1")
        .await;
    assert_eq!(states(&desk).await, [] as [Value; 0]);
    let silent = "UPDATE hosts SET last_heartbeat_at = 1";
    desk.tamper(silent).await;
    look_until(&desk, &host, "unreachable").await;
    // Which is another thing that it does at each look.
    look_until_so(&desk, async || {
        desk.count("vms WHERE placed = FALSE").await == 0
    })
    .await;
    host.heartbeat(&desk, Value::Null).await;
    assert_eq!(states(&desk).await, ["error"]);
    // The host has it after all.
    assert_eq!(
        desk.call("vms/get", json!({"name": "web"})).await["state"],
        "created"
    );
}

#[tokio::test]
async fn a_host_that_has_moved_says_where_it_is_now() {
    let desk = Desk::open().await;
    let host = StandIn::enrol(&desk).await;
    let me = host.identity(&desk).await;
    let moved = json!({"id": host.id, "address": "10.9.8.7:9443"});
    for _ in 0..2 {
        desk.call_as(&me, "hosts/heartbeat", moved.clone()).await;
    }
    let seen = desk.call("hosts/get", json!({"id": host.id})).await;
    assert_eq!(seen["address"], "10.9.8.7:9443");
    let audited = desk.count("audit WHERE action = 'host.moved'").await;
    assert_eq!(audited, 1, "a change is one line");
    let nowhere = json!({"id": host.id, "address": "0.0.0.0:9443"});
    let error = desk.refusal_as(&me, "hosts/heartbeat", nowhere).await;
    assert_eq!(error.code().as_str(), "INVALID_INPUT");
}

#[tokio::test]
async fn a_creation_that_the_last_server_left_open_is_seen_when_the_next_one_starts() {
    let desk = Desk::open().await;
    let _host = StandIn::enrol(&desk).await;
    desk.call("vms/create", json!({"name": "web"})).await;
    // On shared books it may be another replica's, for as long as a request can live.
    let begun = match crate::ON_POSTGRES {
        true => "created_at - 300000",
        false => "created_at",
    };
    desk.tamper(&format!(
        "UPDATE vms SET placed = FALSE, created_at = {begun}"
    ))
    .await;
    let desk = desk.reopen().await;
    let shown = desk.count("vms WHERE placed AND state = 'error'").await;
    assert_eq!(shown, 1);
}

#[tokio::test]
async fn a_vm_that_was_made_unheard_is_there_with_the_next_heartbeat() {
    let desk = Desk::open().await;
    let host = StandIn::enrol(&desk).await;
    let vm = desk.call("vms/create", json!({"name": "web"})).await;
    // As if the server had died before it heard that the host has made it.
    desk.tamper("UPDATE vms SET placed = FALSE").await;
    host.heartbeat(&desk, json!([])).await;
    assert_eq!(states(&desk).await, [] as [Value; 0]);
    let report = json!([{"name": vm["id"], "state": "created"}]);
    host.heartbeat(&desk, report).await;
    assert_eq!(states(&desk).await, ["created"]);
    desk.call("vms/delete", json!({"name": "web"})).await;
}

#[tokio::test]
async fn a_fleet_whose_books_are_gone_says_that_it_is_not_well() {
    let desk = Desk::open().await;
    assert!(desk.fleet.healthy());
    desk.execute("ALTER TABLE hosts RENAME TO elsewhere").await;
    look_until_so(&desk, async || !desk.fleet.healthy()).await;
    desk.execute("ALTER TABLE elsewhere RENAME TO hosts").await;
    look_until_so(&desk, async || desk.fleet.healthy()).await;
}

#[tokio::test]
async fn hundreds_that_fall_silent_at_once_are_all_noticed_each_once() {
    let desk = Desk::open().await;
    let host = StandIn::enrol(&desk).await;
    let many = "WITH RECURSIVE numbers (n) AS
                    (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < 450)
                INSERT INTO hosts (id, kind, status, address, last_heartbeat_at, cordoned,
                                   created_by, created_at, updated_at)
                SELECT 'host-' || n, 'regular', 'online', '192.0.2.1:9', 1000, FALSE, 'test', 1, 1
                FROM numbers";
    desk.tamper(many).await;
    let all = async || desk.count("hosts WHERE status = 'unreachable'").await == 450;
    look_until_so(&desk, all).await;
    let lines = "audit WHERE action = 'host.unreachable'";
    assert_eq!(desk.count(lines).await, 450);
    let events = "events WHERE change = 'updated' AND document LIKE '%unreachable%'";
    assert_eq!(desk.count(events).await, 450);
    let lively = desk.call("hosts/get", json!({"id": host.id})).await;
    assert_eq!(lively["status"], "online");
}
