//! VMs, from the desk to the host and back.

use std::sync::Arc;

use futures::future::join_all;
use serde_json::json;

use crate::desk::{Desk, text};
use crate::standin::{Mood, StandIn};

#[tokio::test]
async fn a_vm_lives_on_its_host_and_goes_by_its_owners_name() {
    let desk = Desk::open().await;
    let host = StandIn::enrol(&desk).await;
    let input = json!({
        "name": "web", "cpus": 2, "memory_mb": 1024, "ssh_public_key": "ssh-ed25519 AAAA me",
        "port_forwards": [{"host_port": 8080, "guest_port": 80}],
    });
    let vm = desk.call("vms/create", input).await;
    let id = text(&vm["id"]);
    assert_eq!((&vm["name"], &vm["host"]), (&json!("web"), &json!(host.id)));
    assert_eq!(
        (&vm["state"], &vm["driver"]),
        (&json!("created"), &json!("qemu"))
    );
    assert_eq!(vm["image"], "debian-minimal", "the host chose it");
    let told = host.inside().vms[&id].clone();
    assert_eq!(
        (&told["cpus"], &told["memory_mb"]),
        (&json!(2), &json!(1024))
    );
    assert_eq!(told["ssh_public_key"], "ssh-ed25519 AAAA me");

    let name = json!({"name": "web"});
    assert_eq!(
        desk.call("vms/start", name.clone()).await["state"],
        "running"
    );
    assert_eq!(
        desk.call("vms/list", json!({})).await[0]["state"],
        "running"
    );
    let forward = json!({"name": "web", "host_port": 2222, "guest_port": 22});
    let forwarded = desk.call("vms/port-forward", forward).await;
    assert_eq!(forwarded["port_forwards"][0]["host_port"], 2222);
    let refused = desk.refusal("vms/delete", name.clone()).await;
    assert_eq!(refused.code().as_str(), "INVALID_STATE");
    assert_eq!(
        refused.message(),
        "web is running; stop it first, or use force"
    );
    assert_eq!(
        desk.call("vms/stop", name.clone()).await["state"],
        "stopped"
    );
    assert_eq!(desk.call("vms/get", name.clone()).await["state"], "stopped");
    desk.call("vms/delete", name.clone()).await;
    assert!(host.inside().vms.is_empty());
    assert_eq!(
        desk.refusal("vms/get", name).await.code().as_str(),
        "NOT_FOUND"
    );
}

#[tokio::test]
async fn what_cannot_be_is_refused_before_anything_changes() {
    let desk = Desk::open().await;
    let host = StandIn::enrol(&desk).await;
    desk.call("vms/create", json!({"name": "web"})).await;
    let calls = host.inside().calls.len();
    let id_like = format!("vm-{}", "0".repeat(25));
    for (input, code) in [
        (json!({"name": "web"}), "CONFLICT"),
        (json!({"name": "Web"}), "INVALID_INPUT"),
        (json!({"name": id_like}), "INVALID_INPUT"),
        (json!({"name": "b", "cpus": 33}), "INVALID_INPUT"),
        (json!({"name": "b", "memory_mb": 64}), "INVALID_INPUT"),
        (json!({"name": "b", "memory": 64}), "INVALID_INPUT"),
        (json!({"name": "b", "team_id": "team-none"}), "NOT_FOUND"),
        (json!({"name": "b", "host": "host-none"}), "NOT_FOUND"),
        (
            json!({"name": "b", "memory_mb": 65536}),
            "NO_HOSTS_AVAILABLE",
        ),
        (
            json!({"name": "b", "required_tags": ["gpu"]}),
            "NO_HOSTS_AVAILABLE",
        ),
        (
            json!({"name": "b", "arch": "aarch64"}),
            "NO_HOSTS_AVAILABLE",
        ),
    ] {
        let refused = desk.refusal("vms/create", input.clone()).await;
        assert_eq!(refused.code().as_str(), code, "{input}: {refused}");
    }
    assert_eq!(
        host.inside().calls.len(),
        calls,
        "the host was not bothered"
    );
    assert_eq!(desk.count("vms").await, 1);
    let none = desk
        .refusal("vms/create", json!({"name": "b", "memory_mb": 65536}))
        .await;
    assert!(none.code().is_retryable());
    assert!(
        none.message().contains("1 has too little free memory"),
        "{none}"
    );
}

#[tokio::test]
async fn a_cordoned_host_gets_no_new_vm_until_it_is_opened_again() {
    let desk = Desk::open().await;
    let host = StandIn::enrol(&desk).await;
    assert_eq!(
        desk.call("hosts/cordon", json!({"id": host.id})).await["cordoned"],
        true
    );
    let refused = desk.refusal("vms/create", json!({"name": "web"})).await;
    assert!(refused.message().contains("1 is cordoned"), "{refused}");
    assert_eq!(
        desk.call("hosts/uncordon", json!({"id": host.id})).await["cordoned"],
        false
    );
    desk.call("vms/create", json!({"name": "web"})).await;
}

#[tokio::test]
async fn vms_spread_over_the_hosts_that_have_room() {
    let desk = Desk::open().await;
    let (one, other) = (StandIn::enrol(&desk).await, StandIn::enrol(&desk).await);
    for n in 0..4 {
        desk.call("vms/create", json!({"name": format!("web-{n}")}))
            .await;
    }
    assert_eq!((one.inside().vms.len(), other.inside().vms.len()), (2, 2));
    let named = json!({"name": "here", "host": one.id});
    assert_eq!(
        desk.call("vms/create", named).await["host"],
        one.id.as_str()
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn racing_creations_never_promise_more_than_there_is() {
    let desk = Arc::new(Desk::open().await);
    let host = StandIn::enrol_with(&desk, 8, 4096).await;
    let race = (0..30).map(|n| {
        let desk = Arc::clone(&desk);
        let input = json!({"name": format!("web-{n}"), "memory_mb": 512});
        tokio::spawn(async move { desk.try_call("vms/create", Some(&desk.admin), input).await })
    });
    let mut made = 0;
    for outcome in join_all(race).await {
        match outcome.expect("no panic") {
            Ok(_) => made += 1,
            Err(error) => assert_eq!(error.code().as_str(), "NO_HOSTS_AVAILABLE", "{error}"),
        }
    }
    assert_eq!(made, 8, "4096 MiB hold 8 VMs of 512 MiB");
    assert_eq!(host.inside().vms.len(), 8);
}

#[tokio::test]
async fn a_creation_that_the_host_refuses_leaves_nothing_behind() {
    let desk = Desk::open().await;
    let host = StandIn::enrol(&desk).await;
    let input = json!({"name": "web", "image": "nowhere"});
    for (status, code) in [
        (422, "INVALID_INPUT"),
        (409, "INSUFFICIENT_CAPACITY"),
        (409, "PORT_IN_USE"),
        (422, "UNSUPPORTED"),
        (507, "STORAGE_FULL"),
    ] {
        let error = json!({"code": code, "message": "because", "retryable": false});
        host.be(Mood::Refuses(status, error));
        let refused = desk.refusal("vms/create", input.clone()).await;
        assert_eq!(refused.code().as_str(), code);
        assert_eq!(refused.message(), "because");
        assert_eq!(desk.count("vms").await, 0, "{code}");
    }
    host.be(Mood::Well);
    desk.call("vms/create", json!({"name": "web"})).await;
}

#[tokio::test]
async fn an_error_that_a_host_may_not_pass_on_stays_here() {
    let desk = Desk::open().await;
    let host = StandIn::enrol(&desk).await;
    desk.call("vms/create", json!({"name": "web"})).await;
    let error = json!({"code": "FORBIDDEN", "message": "secret plans", "retryable": false});
    host.be(Mood::Refuses(403, error));
    let refused = desk.refusal("vms/start", json!({"name": "web"})).await;
    assert_eq!(refused.code().as_str(), "INTERNAL");
    assert!(!refused.message().contains("secret"), "{refused}");
}

#[tokio::test]
async fn a_lost_answer_to_a_creation_is_cleared_up_by_asking() {
    let desk = Desk::open().await;
    let host = StandIn::enrol(&desk).await;
    host.be(Mood::Mumbles);
    let vm = desk.call("vms/create", json!({"name": "web"})).await;
    assert_eq!(vm["state"], "created");
    let calls: Vec<String> = host
        .inside()
        .calls
        .iter()
        .map(|(name, ..)| name.clone())
        .collect();
    assert_eq!(calls, ["vms/create", "vms/get"], "it is never sent twice");
}

#[tokio::test]
async fn a_creation_of_which_nobody_knows_is_shown_and_not_repeated() {
    let desk = Desk::open().await;
    let host = StandIn::enrol(&desk).await;
    host.be(Mood::Raves);
    desk.refusal("vms/create", json!({"name": "web"})).await;
    let creations = |host: &StandIn| {
        host.inside()
            .calls
            .iter()
            .filter(|(name, ..)| name == "vms/create")
            .count()
    };
    assert_eq!(creations(&host), 1);
    let listed = desk.call("vms/list", json!({})).await;
    assert_eq!(
        (&listed[0]["name"], &listed[0]["state"]),
        (&json!("web"), &json!("error"))
    );
    assert!(
        text(&listed[0]["state_reason"]).contains("did not say"),
        "{listed}"
    );
    // It can be deleted, though the host does not have it.
    host.be(Mood::Well);
    desk.call("vms/delete", json!({"name": "web"})).await;
    assert_eq!(desk.count("vms").await, 0);
}

#[tokio::test]
async fn a_host_that_cannot_be_reached_leaves_nothing_behind() {
    let desk = Desk::open().await;
    let host = StandIn::enrol(&desk).await;
    desk.tamper("UPDATE hosts SET address = '127.0.0.1:1'")
        .await;
    let refused = desk.refusal("vms/create", json!({"name": "web"})).await;
    assert_eq!(refused.code().as_str(), "HOST_UNREACHABLE");
    assert!(refused.code().is_retryable());
    assert_eq!(desk.count("vms").await, 0);
    assert!(host.inside().calls.is_empty());
}

#[tokio::test]
async fn another_machine_at_a_hosts_address_is_told_nothing() {
    let desk = Desk::open().await;
    let host = StandIn::enrol(&desk).await;
    let other = StandIn::enrol(&desk).await;
    desk.call("hosts/cordon", json!({"id": other.id})).await;
    host.be_replaced_by(&desk, &format!("host/{}", other.id));
    let refused = desk.refusal("vms/create", json!({"name": "web"})).await;
    assert_eq!(refused.code().as_str(), "HOST_UNREACHABLE", "{refused}");
    assert!(
        host.inside().calls.is_empty(),
        "not a byte of the request was sent"
    );
    assert!(!refused.message().contains(&host.address), "{refused}");
}

#[tokio::test]
async fn a_repeated_request_with_its_key_creates_no_second_vm() {
    let desk = Desk::open().await;
    let host = StandIn::enrol(&desk).await;
    let input = json!({"name": "web", "cpus": 2, "idempotency_key": "abc"});
    let first = desk.call("vms/create", input.clone()).await;
    let again = desk.call("vms/create", input).await;
    assert_eq!(first["id"], again["id"]);
    assert_eq!(host.inside().vms.len(), 1);
    let other = json!({"name": "web", "cpus": 3, "idempotency_key": "abc"});
    assert_eq!(
        desk.refusal("vms/create", other).await.code().as_str(),
        "CONFLICT"
    );
    // The key is its team's own.
    let (_, team) = desk.team("team", &["vms:write"]).await;
    let theirs = json!({"name": "web", "cpus": 2, "idempotency_key": "abc"});
    assert_ne!(
        desk.call_as(&team, "vms/create", theirs).await["id"],
        first["id"]
    );
}

#[tokio::test]
async fn a_failed_request_may_be_repeated_with_its_key() {
    let desk = Desk::open().await;
    let host = StandIn::enrol(&desk).await;
    let error = json!({"code": "STORAGE_FULL", "message": "full", "retryable": false});
    host.be(Mood::Refuses(507, error));
    let input = json!({"name": "web", "idempotency_key": "abc"});
    desk.refusal("vms/create", input.clone()).await;
    host.be(Mood::Well);
    assert_eq!(desk.call("vms/create", input).await["state"], "created");
}

#[tokio::test]
async fn a_vm_whose_host_is_silent_is_shown_as_missing_with_what_is_known() {
    let desk = Desk::open().await;
    let _host = StandIn::enrol(&desk).await;
    desk.call("vms/create", json!({"name": "web", "memory_mb": 1024}))
        .await;
    desk.tamper("UPDATE hosts SET address = '127.0.0.1:1'")
        .await;
    let vm = desk.call("vms/get", json!({"name": "web"})).await;
    assert_eq!(
        (&vm["state"], &vm["memory_mb"]),
        (&json!("missing"), &json!(1024))
    );
    assert!(
        text(&vm["state_reason"]).contains("does not answer"),
        "{vm}"
    );
    for operation in ["vms/start", "vms/stop", "vms/delete"] {
        let refused = desk.refusal(operation, json!({"name": "web"})).await;
        assert_eq!(refused.code().as_str(), "HOST_UNREACHABLE", "{operation}");
    }
    assert_eq!(desk.count("vms").await, 1, "nothing was forgotten");
}
