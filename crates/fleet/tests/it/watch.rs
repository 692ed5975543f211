//! Who watches sees everything that they may see, in order, and is told when they were away for too
//! long.

use std::time::Duration;

use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt};
use hostler_operations::{CallError, Identity, Request};
use serde_json::{Value, json};

use crate::desk::{Desk, text};
use crate::standin::StandIn;

type Stream = BoxStream<'static, Result<Value, CallError>>;

async fn next(stream: &mut Stream) -> Value {
    let next = tokio::time::timeout(Duration::from_secs(10), stream.next()).await;
    next.expect("something happened")
        .expect("the stream goes on")
        .expect("an event")
}

/// What happened, and to what: the next `count` events.
async fn told(stream: &mut Stream, count: usize, field: &str) -> Vec<(String, String)> {
    let mut told = Vec::new();
    for _ in 0..count {
        let event = next(stream).await;
        let state = event["host"]["status"]
            .as_str()
            .or_else(|| event["vm"]["state"].as_str());
        let what = format!("{} {}", text(&event["change"]), state.unwrap_or("-"));
        told.push((what, event[field]["id"].as_str().unwrap_or("-").to_owned()));
    }
    told
}

fn quiet(stream: &mut Stream) -> bool {
    stream.next().now_or_never().is_none()
}

async fn watch(desk: &Desk, who: &Identity, operation: &str, input: Value) -> Stream {
    let stream = desk.subscribe(who, operation, input).await;
    stream.expect(operation)
}

#[tokio::test]
async fn every_change_of_a_host_is_told_in_order() {
    let desk = Desk::open().await;
    let mut events = watch(&desk, &desk.admin, "hosts/watch", json!({})).await;
    let host = StandIn::enrol(&desk).await;
    let about = json!({"id": host.id});
    desk.call("hosts/cordon", about.clone()).await;
    // It is so already: nothing happens.
    desk.call("hosts/cordon", about.clone()).await;
    let me = host.identity(&desk).await;
    let goodbye = json!({"id": host.id, "goodbye": true});
    desk.call_as(&me, "hosts/heartbeat", goodbye).await;
    host.heartbeat(&desk, json!([])).await;
    // Nothing but a time.
    host.heartbeat(&desk, json!([])).await;
    desk.call("hosts/delete", about).await;
    let said = told(&mut events, 6, "host").await;
    let what: Vec<&str> = said.iter().map(|(what, _)| what.as_str()).collect();
    assert_eq!(
        what,
        [
            "created pending",
            "updated online",
            "updated online",
            "updated offline",
            "updated online",
            "deleted online",
        ]
    );
    assert!(said.iter().all(|(_, id)| *id == host.id));
    assert!(quiet(&mut events));
}

#[tokio::test]
async fn every_change_of_a_vm_is_told_and_those_of_a_silent_host_are_missing() {
    let desk = Desk::open().await;
    let host = StandIn::enrol(&desk).await;
    let mut events = watch(&desk, &desk.admin, "vms/watch", json!({})).await;
    let vm = desk.call("vms/create", json!({"name": "web"})).await;
    desk.call("vms/start", json!({"name": "web"})).await;
    let me = host.identity(&desk).await;
    let goodbye = json!({"id": host.id, "goodbye": true});
    desk.call_as(&me, "hosts/heartbeat", goodbye).await;
    let running = json!([{"name": vm["id"], "state": "running"}]);
    host.heartbeat(&desk, running).await;
    desk.call("vms/delete", json!({"name": "web", "force": true}))
        .await;
    let said = told(&mut events, 5, "vm").await;
    let what: Vec<&str> = said.iter().map(|(what, _)| what.as_str()).collect();
    assert_eq!(
        what,
        [
            "created created",
            "updated running",
            "updated missing",
            "updated running",
            "deleted running",
        ]
    );
    assert!(quiet(&mut events));
}

#[tokio::test]
async fn a_team_sees_its_own_and_nothing_of_others() {
    let desk = Desk::open().await;
    let _host = StandIn::enrol(&desk).await;
    let scopes = ["vms:read", "vms:write", "hosts:read", "hosts:write"];
    let (_, ours) = desk.team("ours", &scopes).await;
    let (theirs_id, theirs) = desk.team("theirs", &scopes).await;
    let mut vms = watch(&desk, &ours, "vms/watch", json!({})).await;
    let mut hosts = watch(&desk, &ours, "hosts/watch", json!({})).await;
    let of_theirs = json!({"team_id": theirs_id});
    let mut none = watch(&desk, &ours, "vms/watch", of_theirs.clone()).await;
    assert!(
        none.next().await.is_none(),
        "another team's stream is empty"
    );
    let mut platforms = watch(&desk, &desk.admin, "vms/watch", of_theirs).await;

    desk.call_as(&theirs, "vms/create", json!({"name": "a"}))
        .await;
    let byoc = json!({"type": "byoc"});
    desk.call_as(&theirs, "hosts/create", byoc.clone()).await;
    desk.call("hosts/create", json!({})).await;
    let vm = desk
        .call_as(&ours, "vms/create", json!({"name": "b"}))
        .await;
    let host = desk.call_as(&ours, "hosts/create", byoc).await;
    assert_eq!(next(&mut vms).await["vm"]["id"], vm["id"]);
    assert_eq!(next(&mut hosts).await["host"]["id"], host["host"]["id"]);
    assert!(quiet(&mut vms) && quiet(&mut hosts));
    assert_eq!(next(&mut platforms).await["vm"]["name"], "a");
    assert!(quiet(&mut platforms));
}

#[tokio::test]
async fn a_stream_goes_on_where_it_was_left_and_says_so_when_it_cannot() {
    let desk = Desk::open().await;
    let mut events = watch(&desk, &desk.admin, "hosts/watch", json!({})).await;
    for _ in 0..5 {
        desk.pending().await;
    }
    let second = {
        next(&mut events).await;
        next(&mut events).await["seq"].as_u64().expect("a number")
    };
    let resume = async |after: u64| {
        let request = Request {
            input: json!({}),
            identity: Some(desk.admin.clone()),
            resume_after: Some(after),
            ..Request::default()
        };
        let stream = desk.registry.subscribe("hosts/watch", request).await;
        stream.expect("a stream").boxed()
    };
    let mut resumed = resume(second).await;
    for expected in second + 1..=second + 3 {
        assert_eq!(next(&mut resumed).await["seq"], expected);
    }
    assert!(quiet(&mut resumed));

    desk.tamper(&format!("DELETE FROM events WHERE seq <= {}", second + 1))
        .await;
    // What is in memory is known still; to a server that starts it is not.
    drop((events, resumed));
    let admin = desk.admin.clone();
    let desk = desk.reopen().await;
    let mut resumed = watch(&desk, &admin, "hosts/watch", json!({"after": second})).await;
    let gap = next(&mut resumed).await;
    assert_eq!(gap["change"], "gap");
    assert_eq!(gap["seq"], second + 1);
    assert_eq!(next(&mut resumed).await["seq"], second + 2);

    // A number that was never given out: these are other books.
    let mut lost = watch(&desk, &admin, "hosts/watch", json!({"after": 999_999})).await;
    assert_eq!(next(&mut lost).await["change"], "gap");
    desk.fleet.close().await;
    assert!(
        lost.next().await.is_none(),
        "a server that stops ends its streams"
    );
}
