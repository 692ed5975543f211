//! VMs, by way of the operations.

mod ends;

use std::net::TcpListener;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hostler_operations::{Grants, Identity, Request};
use serde_json::json;

use crate::desk::{Desk, free_port};

#[tokio::test]
async fn a_vm_is_created_listed_by_the_page_and_deleted() {
    let desk = Desk::with_images().await;
    assert!(desk.names().await.is_empty());
    for name in ["c", "a", "b"] {
        let vm = desk
            .call("vms/create", json!({ "name": name }))
            .await
            .unwrap();
        assert_eq!(
            (&vm["name"], &vm["state"]),
            (&json!(name), &json!("created"))
        );
    }
    assert_eq!(desk.names().await, ["a", "b", "c"]);

    let identity = Some(Identity::new("the control plane", Grants::All));
    let page = |input| Request {
        input,
        identity: identity.clone(),
        ..Request::default()
    };
    let first = desk
        .registry
        .invoke("vms/list", page(json!({ "limit": 2 })))
        .await
        .unwrap();
    assert_eq!(first.output.as_array().unwrap().len(), 2);
    let cursor = first.next_cursor.unwrap();
    let rest = page(json!({ "limit": 2, "cursor": cursor }));
    let rest = desk.registry.invoke("vms/list", rest).await.unwrap();
    assert_eq!(rest.output[0]["name"], "c");
    assert_eq!(rest.next_cursor, None);

    assert_eq!(
        desk.code("vms/create", json!({ "name": "a" })).await,
        "CONFLICT"
    );
    let image = desk.call("vms/get", json!({ "name": "a" })).await.unwrap()["image"].clone();
    assert_eq!(
        desk.code("images/delete", json!({ "name": image })).await,
        "IN_USE"
    );
    for name in ["a", "b", "c"] {
        desk.call("vms/delete", json!({ "name": name }))
            .await
            .unwrap();
    }
    assert!(desk.names().await.is_empty());
    let gone = desk
        .call("images/delete", json!({ "name": image }))
        .await
        .unwrap();
    assert_eq!(gone, json!({ "name": image }));
}

#[tokio::test]
async fn what_does_not_fit_or_is_taken_is_refused_and_leaves_nothing() {
    let desk = Desk::with_images().await;
    let total = desk.host.machines().status().await.unwrap().total;
    if total.memory_mb < 65_536 {
        let huge = json!({ "name": "huge", "memory_mb": 65_536 });
        assert_eq!(desk.code("vms/create", huge).await, "INSUFFICIENT_CAPACITY");
    }
    let huge = json!({ "name": "huge", "disk_size_mb": 1_048_576 });
    if total.disk_mb < 1_048_576 {
        assert_eq!(desk.code("vms/create", huge).await, "INSUFFICIENT_CAPACITY");
    }
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let forward = json!([{ "host_port": port, "guest_port": 80 }]);
    let wants = json!({ "name": "wants", "port_forwards": forward });
    let error = desk.call("vms/create", wants).await.unwrap_err();
    assert_eq!(error.code().as_str(), "PORT_IN_USE");
    assert_eq!(error.details().unwrap()["forward"]["host_port"], port);
    assert!(desk.names().await.is_empty());

    desk.call("vms/create", json!({ "name": "web" }))
        .await
        .unwrap();
    let forward = json!({ "name": "web", "host_port": port, "guest_port": 80 });
    assert_eq!(desk.code("vms/port-forward", forward).await, "PORT_IN_USE");
    let vm = desk
        .call("vms/get", json!({ "name": "web" }))
        .await
        .unwrap();
    assert_eq!(vm["port_forwards"], json!([]));
}

#[tokio::test]
async fn a_vm_boots_runs_and_is_stopped() {
    let desk = Arc::new(Desk::with_images().await);
    // VMs outlive whoever started them, so however this ends, none is left behind.
    let lived = tokio::spawn(live(Arc::clone(&desk))).await;
    let machines = desk.host.machines();
    for vm in machines.list().await {
        machines.delete(vm.name.as_str(), true).await.unwrap();
    }
    lived.unwrap();
}

async fn live(desk: Arc<Desk>) {
    let web = json!({ "name": "web" });
    desk.call("vms/create", json!({ "name": "web", "memory_mb": 256 }))
        .await
        .unwrap();
    let started = desk.call("vms/start", web.clone()).await.unwrap();
    assert_eq!(started["state"], "running");
    let again = desk.call("vms/start", web.clone()).await.unwrap();
    assert_eq!(again["started_at"], started["started_at"]);

    let since = Instant::now();
    while desk.call("vms/get", web.clone()).await.unwrap()["ready_at"].is_null() {
        assert!(
            since.elapsed() < Duration::from_secs(180),
            "the guest does not come up"
        );
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let forward = json!({ "name": "web", "host_port": free_port(), "guest_port": 80 });
    let vm = desk
        .call("vms/port-forward", forward.clone())
        .await
        .unwrap();
    let again = desk.call("vms/port-forward", forward).await.unwrap();
    assert_eq!(vm["port_forwards"], again["port_forwards"]);
    assert_eq!(vm["port_forwards"].as_array().unwrap().len(), 1);

    let paused = desk.call("vms/pause", web.clone()).await.unwrap();
    assert_eq!(paused["state"], "paused");
    let resumed = desk.call("vms/resume", web.clone()).await.unwrap();
    assert_eq!(resumed["state"], "running");
    go_back(&desk).await;

    assert_eq!(desk.code("vms/delete", web.clone()).await, "CONFLICT");
    let stopped = desk.call("vms/stop", web.clone()).await.unwrap();
    assert_eq!(stopped["state"], "stopped");
    desk.call("vms/stop", web.clone()).await.unwrap();

    ends::what_nobody_waits_for_any_more_is_not_done(&desk).await;
    ends::a_crash_ends_what_follows_the_console(&desk).await;
    desk.call("vms/start", web.clone()).await.unwrap();
    let forced = json!({ "name": "web", "force": true });
    desk.call("vms/delete", forced).await.unwrap();
    assert_eq!(desk.code("vms/get", web).await, "NOT_FOUND");
}

/// How often a name was created and deleted, as the answers say.
#[derive(Default)]
struct Told {
    created: usize,
    deleted: usize,
}

#[tokio::test]
async fn two_hundred_racing_creates_and_deletes_of_ten_names_agree_with_each_other() {
    let desk = Arc::new(Desk::with_images().await);
    let racers = (0..200).map(|number| {
        let desk = Arc::clone(&desk);
        tokio::spawn(async move {
            let name = format!("vm-{}", number % 10);
            // Of each name's twenty, ten of each kind, in turns.
            let creates = number / 10 % 2 == 0;
            let outcome = match creates {
                true => {
                    let vm = json!({ "name": name, "memory_mb": 128, "disk_size_mb": 256 });
                    desk.call("vms/create", vm).await
                }
                false => desk.call("vms/delete", json!({ "name": name })).await,
            };
            let outcome = outcome.map_err(|error| error.code().as_str().to_owned());
            (number % 10, creates, outcome)
        })
    });
    let mut told: [Told; 10] = Default::default();
    for racer in racers.collect::<Vec<_>>() {
        match racer.await.unwrap() {
            (name, true, Ok(vm)) => {
                assert_eq!(vm["state"], "created");
                told[name].created += 1;
            }
            (name, false, Ok(_)) => told[name].deleted += 1,
            // Ten small VMs may be more than a small machine has.
            (_, true, Err(code)) => {
                assert!(
                    ["CONFLICT", "INSUFFICIENT_CAPACITY"].contains(&&*code),
                    "{code}"
                );
            }
            (_, false, Err(code)) => assert_eq!(code, "NOT_FOUND"),
        }
    }
    let names = desk.names().await;
    for (name, Told { created, deleted }) in told.into_iter().enumerate() {
        let there = names.contains(&format!("vm-{name}"));
        assert_eq!(created, deleted + usize::from(there), "vm-{name}");
    }
    let vms = desk.host.machines().config().data_dir.join("vms");
    let mut kept: Vec<_> = std::fs::read_dir(vms)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    kept.sort();
    assert_eq!(kept, names);
    assert_eq!(desk.call("host/leaks", json!({})).await.unwrap(), json!([]));
    for name in names {
        desk.call("vms/delete", json!({ "name": name }))
            .await
            .unwrap();
    }
}

/// A VM `web` that runs is saved and restored.
async fn go_back(desk: &Desk) {
    let of_web = |snapshot: &str| json!({ "name": "web", "snapshot": snapshot });
    let taken = desk.call("vms/snapshot", of_web("a")).await.unwrap();
    assert_eq!((&taken["name"], &taken["vm"]), (&json!("a"), &json!("web")));
    assert_eq!(taken["memory"], true);
    desk.call("vms/snapshot", json!({ "name": "web" }))
        .await
        .unwrap();
    assert_eq!(desk.code("vms/snapshot", of_web("a")).await, "CONFLICT");
    let page = json!({ "name": "web", "limit": 1 });
    let listed = desk.call("snapshots/list", page).await.unwrap();
    assert_eq!(listed, json!([taken]));

    assert_eq!(desk.code("vms/restore", of_web("a")).await, "CONFLICT");
    assert_eq!(desk.code("vms/restore", of_web("b")).await, "NOT_FOUND");
    let forced = json!({ "name": "web", "snapshot": "a", "force": true });
    let restored = desk.call("vms/restore", forced).await.unwrap();
    assert_eq!(restored["state"], "running");
    let gone = desk.call("snapshots/delete", of_web("a")).await.unwrap();
    assert_eq!(gone, of_web("a"));
    let gone = desk.code("snapshots/delete", of_web("a")).await;
    assert_eq!(gone, "NOT_FOUND");
}
