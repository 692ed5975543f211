//! Subscriptions that are relayed: from the host to the desk, and what becomes of them on the way.

use std::time::Duration;

use futures::StreamExt;
use serde_json::{Value, json};

use crate::desk::{Desk, text};
use crate::standin::{Mood, StandIn};

const LONG: Duration = Duration::from_secs(60);

fn event(output: &Value) -> String {
    format!("id: 1\ndata: {output}\n\n")
}

fn exec() -> Value {
    json!({"name": "web", "argv": ["true"], "env": {"SECRET": "s"}, "stdin": true})
}

/// A fleet with a VM called web on a host.
async fn with_vm() -> (Desk, StandIn, String) {
    let desk = Desk::open().await;
    let host = StandIn::enrol(&desk).await;
    let vm = desk.call("vms/create", json!({"name": "web"})).await;
    let id = text(&vm["id"]);
    (desk, host, id)
}

#[tokio::test]
async fn outputs_come_through_one_by_one_and_the_end_after_them() {
    let (desk, host, id) = with_vm().await;
    let outputs = [
        json!({"type": "started", "id": "7"}),
        json!({"type": "stdout", "data": "aGk="}),
        json!({"type": "exit", "code": 3}),
    ];
    let (one, two) = (event(&outputs[0]), event(&outputs[1]));
    let (half, rest) = two.split_at(9);
    let pieces = [": still here\n\n", &one, half, rest, &event(&outputs[2])].map(str::to_owned);
    host.be(Mood::Streams(pieces.to_vec(), true));
    let stream = desk
        .subscribe(&desk.admin, "vms/exec", exec())
        .await
        .expect("a stream");
    let read = tokio::time::timeout(LONG, stream.collect::<Vec<_>>())
        .await
        .expect("an end");
    let read: Vec<Value> = read
        .into_iter()
        .map(|output| output.expect("an output"))
        .collect();
    assert_eq!(read, outputs);

    let (operation, told, _) = host.inside().calls.last().cloned().expect("a call");
    assert_eq!(operation, "vms/exec");
    assert_eq!(
        (&told["name"], &told["env"]["SECRET"]),
        (&json!(id), &json!("s"))
    );
    assert!(told.get("team_id").is_none());
    let who = "audit WHERE action = 'vm.exec'";
    assert_eq!(desk.count(who).await, 1, "it is written down who went in");
    assert_eq!(desk.count(&format!("{who} AND object = '{id}'")).await, 1);
}

#[tokio::test]
async fn who_leaves_takes_the_stream_on_the_host_along() {
    let (desk, host, _) = with_vm().await;
    let started = event(&json!({"type": "started", "id": "7"}));
    host.be(Mood::Streams(vec![started], false));
    let mut stream = desk
        .subscribe(&desk.admin, "vms/exec", exec())
        .await
        .expect("a stream");
    stream.next().await.expect("one").expect("an output");
    assert_eq!(host.inside().streams, (1, 0));
    drop(stream);
    tokio::time::timeout(LONG, async {
        while host.inside().streams != (1, 1) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await
    .expect("the host learns that nobody listens");
}

#[tokio::test]
async fn a_failure_comes_through_by_the_owners_name() {
    let (desk, host, id) = with_vm().await;
    let error = json!({"code": "INVALID_STATE", "message": format!("VM {id} is stopped"),
        "retryable": false});
    host.be(Mood::Refuses(409, error.clone()));
    let refused = desk.refusal_as(&desk.admin, "vms/exec", exec()).await;
    assert_eq!(refused.code().as_str(), "INVALID_STATE");
    assert_eq!(refused.message(), "VM web is stopped");

    // The same in the middle of a stream.
    let begun = event(&json!({"type": "started", "id": "7"}));
    let failed = format!("event: error\ndata: {error}\n\n");
    let never = event(&json!({"type": "exit", "code": 0}));
    host.be(Mood::Streams(vec![begun, failed, never], false));
    let stream = desk
        .subscribe(&desk.admin, "vms/exec", exec())
        .await
        .expect("a stream");
    let read = tokio::time::timeout(LONG, stream.collect::<Vec<_>>())
        .await
        .expect("an end");
    assert_eq!(read.len(), 2);
    let failure = read[1].as_ref().expect_err("the failure");
    assert_eq!(failure.code().as_str(), "INVALID_STATE");
    assert_eq!(failure.message(), "VM web is stopped");
}

#[tokio::test]
async fn what_is_no_stream_is_not_taken_for_one() {
    let (desk, host, _) = with_vm().await;
    let endless = "x".repeat(3 << 20);
    let streams = [
        "data: {\n\n".to_owned(),
        "data: {\"type\":\"dance\"}\n\n".to_owned(),
        "event: party\ndata: 1\n\n".to_owned(),
        "event: error\ndata: {\"code\":\"MADE_UP\",\"message\":\"m\",\"retryable\":true}\n\n"
            .to_owned(),
        endless,
    ];
    for stream in streams {
        let began: String = stream.chars().take(40).collect();
        host.be(Mood::Streams(vec![stream], false));
        let stream = desk
            .subscribe(&desk.admin, "vms/exec", exec())
            .await
            .expect("a stream");
        let read = tokio::time::timeout(LONG, stream.collect::<Vec<_>>()).await;
        let read = read.unwrap_or_else(|_| panic!("{began:?} was read on"));
        let failure = read
            .last()
            .expect("a failure")
            .as_ref()
            .expect_err("a failure");
        assert_eq!(failure.code().as_str(), "INTERNAL", "{began:?}");
    }
    host.be(Mood::Raves);
    let refused = desk.refusal_as(&desk.admin, "vms/exec", exec()).await;
    assert_eq!(refused.code().as_str(), "INTERNAL");
}

#[tokio::test]
async fn streams_keep_no_call_waiting_and_there_are_only_so_many() {
    let (desk, host, _) = with_vm().await;
    // More than an HTTP/2 connection holds unread, on every stream.
    let line = event(&json!({"type": "stdout", "data": "x".repeat(100_000)}));
    host.be(Mood::Streams(vec![line; 40], false));
    let mut open = Vec::new();
    let refused = loop {
        match desk.subscribe(&desk.admin, "vms/exec", exec()).await {
            Ok(stream) => open.push(stream),
            Err(refused) => break refused,
        }
        assert!(open.len() < 200, "there is no end to them");
    };
    assert_eq!(refused.code().as_str(), "BUSY");
    assert!(refused.code().is_retryable());
    host.be(Mood::Well);
    let seen = tokio::time::timeout(LONG, desk.call("vms/get", json!({"name": "web"}))).await;
    assert_eq!(seen.expect("an answer")["state"], "created");
    // One that is read gets all of it, whatever the others do.
    let last = open.pop().expect("a stream");
    let read = last.take(40).collect::<Vec<_>>();
    let read = tokio::time::timeout(LONG, read).await.expect("all of it");
    assert!(read.iter().all(Result::is_ok) && read.len() == 40);
}

#[tokio::test]
async fn a_scope_of_its_own_lets_into_vms() {
    let (desk, host, _) = with_vm().await;
    let (team, _) = desk.team("team", &["vms:read"]).await;
    let key = |scopes: &[&str]| json!({"name": "k", "scopes": scopes, "team_id": team});
    let writer = desk.holder(key(&["vms:read", "vms:write"])).await;
    let calls = host.inside().calls.len();
    for (operation, input) in [
        ("vms/run", json!({"name": "web", "argv": ["true"]})),
        ("vms/exec", exec()),
        ("vms/exec-input", json!({"name": "web", "id": "1"})),
        (
            "vms/read-file",
            json!({"name": "web", "path": "/etc/shadow"}),
        ),
        (
            "vms/write-file",
            json!({"name": "web", "path": "/x", "data": ""}),
        ),
    ] {
        let refused = desk.refusal_as(&writer, operation, input).await;
        assert_eq!(refused.code().as_str(), "FORBIDDEN", "{operation}");
        assert!(refused.message().contains("vms:exec"), "{refused}");
    }
    assert_eq!(
        host.inside().calls.len(),
        calls,
        "the host was not bothered"
    );
}
