//! Keeping hosts.

use std::sync::Arc;
use std::time::Duration;

use hostler_operations::{Access, Identity, Scope};
use serde_json::{Value, json};
use tokio::sync::Notify;

use crate::desk::{Desk, text};
use crate::standin::{Mood, StandIn};

#[tokio::test]
async fn a_new_host_is_pending_and_leaves_out_what_is_not_known() {
    let desk = Desk::open().await;
    let input =
        json!({"provider": "acme", "availability_zone": "a", "tags": ["ssd", "gpu", "ssd"]});
    let made = desk.call("hosts/create", input).await;
    let (host, id) = (&made["host"], text(&made["host"]["id"]));
    assert!(
        id.len() == "host-".len() + 25 && id.starts_with("host-"),
        "{id}"
    );
    let mut fields: Vec<&str> = host
        .as_object()
        .expect("fields")
        .keys()
        .map(|k| &**k)
        .collect();
    fields.sort_unstable();
    assert_eq!(
        fields,
        [
            "availability_zone",
            "cordoned",
            "created_at",
            "created_by",
            "id",
            "provider",
            "status",
            "tags",
            "type",
            "updated_at",
        ]
    );
    assert_eq!(host["type"], "regular");
    assert_eq!(host["status"], "pending");
    assert_eq!(host["tags"], json!(["gpu", "ssd"]));
    assert_eq!(host["created_by"], desk.admin.subject());
    assert_eq!(&desk.call("hosts/get", json!({"id": id})).await, host);
}

#[tokio::test]
async fn contradictory_hosts_are_refused() {
    let desk = Desk::open().await;
    let (team, _) = desk.team("own", &["hosts:write"]).await;
    let closed = desk.call("teams/create", json!({"name": "closed"})).await;
    for (input, code) in [
        (json!({"team_id": team}), "INVALID_INPUT"),
        (json!({"type": "byoc"}), "INVALID_INPUT"),
        (
            json!({"type": "byoc", "team_id": "team-nobody"}),
            "NOT_FOUND",
        ),
        (
            json!({"type": "byoc", "team_id": closed["id"]}),
            "FORBIDDEN",
        ),
        (json!({"type": "laptop"}), "INVALID_INPUT"),
        (json!({"tags": ["a b"]}), "INVALID_INPUT"),
        (json!({"token_cidr": "10.0.0.0/64"}), "INVALID_INPUT"),
        (json!({"colour": "red"}), "INVALID_INPUT"),
    ] {
        let refused = desk.refusal("hosts/create", input.clone()).await;
        assert_eq!(refused.code().as_str(), code, "{input}: {refused}");
    }
    assert_eq!(desk.count("hosts").await, 0);
}

#[tokio::test]
async fn a_list_is_filtered_and_paged_in_the_order_of_creation() {
    let desk = Desk::open().await;
    let (team, _) = desk.team("own", &["hosts:read"]).await;
    let mut ids = Vec::new();
    for n in 0..5 {
        let input = match n {
            4 => json!({"type": "byoc", "team_id": team}),
            _ => json!({"tags": if n % 2 == 0 { vec!["even"] } else { vec![] }}),
        };
        ids.push(text(&desk.call("hosts/create", input).await["host"]["id"]));
    }
    let listed = async |filter: Value| -> Vec<String> {
        let hosts = desk.call("hosts/list", filter).await;
        hosts
            .as_array()
            .expect("a list")
            .iter()
            .map(|host| text(&host["id"]))
            .collect()
    };
    assert_eq!(listed(json!({})).await, ids);
    assert_eq!(
        listed(json!({"tag": "even"})).await,
        [ids[0].clone(), ids[2].clone()]
    );
    assert_eq!(listed(json!({"type": "byoc"})).await, ids[4..]);
    assert_eq!(listed(json!({"team_id": team})).await, ids[4..]);
    assert_eq!(listed(json!({"status": "online"})).await, [] as [String; 0]);

    let (mut pages, mut cursor) = (Vec::new(), None);
    loop {
        let mut input = json!({"limit": 2});
        if let Some(cursor) = &cursor {
            input["cursor"] = json!(cursor);
        }
        let page = desk
            .reply("hosts/list", Some(&desk.admin), input)
            .await
            .expect("a page");
        let hosts = page.output.as_array().expect("a list").clone();
        pages.push(
            hosts
                .iter()
                .map(|host| text(&host["id"]))
                .collect::<Vec<_>>(),
        );
        cursor = page.next_cursor;
        if cursor.is_none() {
            break;
        }
    }
    assert_eq!(pages, [&ids[..2], &ids[2..4], &ids[4..]]);
    for limit in [0, 1001] {
        let refused = desk.refusal("hosts/list", json!({"limit": limit})).await;
        assert_eq!(refused.code().as_str(), "INVALID_INPUT");
    }
}

#[tokio::test]
async fn tags_come_and_go_and_asking_twice_changes_nothing() {
    let desk = Desk::open().await;
    let (id, _) = desk.pending().await;
    for tag in ["b", "a", "a"] {
        desk.call("hosts/tags-add", json!({"id": id, "tag": tag}))
            .await;
    }
    assert_eq!(
        desk.call("hosts/tags-list", json!({"id": id})).await,
        json!(["a", "b"])
    );
    for tag in ["a", "a", "never/there"] {
        desk.call("hosts/tags-remove", json!({"id": id, "tag": tag}))
            .await;
    }
    assert_eq!(
        desk.call("hosts/tags-list", json!({"id": id})).await,
        json!(["b"])
    );
    let lines = desk.count("audit WHERE action LIKE 'host.tag-%'").await;
    assert_eq!(lines, 3, "only what changed is in the trail");
    let refused = desk
        .refusal("hosts/tags-add", json!({"id": id, "tag": "no/slash"}))
        .await;
    assert_eq!(refused.code().as_str(), "INVALID_INPUT");
}

#[tokio::test]
async fn a_host_with_vms_is_deleted_only_by_force() {
    let desk = Desk::open().await;
    let host = StandIn::enrol(&desk).await;
    let vm = desk.call("vms/create", json!({"name": "web"})).await;
    let preview = desk
        .call("hosts/delete-preview", json!({"id": host.id}))
        .await;
    assert_eq!(preview["vm_names"], json!(["web"]));
    assert_eq!(preview["host"]["id"], host.id.as_str());
    let refused = desk.refusal("hosts/delete", json!({"id": host.id})).await;
    assert_eq!(refused.code().as_str(), "HAS_VMS");
    assert_eq!(refused.details(), Some(&json!({"vm_ids": [vm["id"]]})));
    desk.call("hosts/delete", json!({"id": host.id, "force": true}))
        .await;
    assert_eq!(desk.call("hosts/list", json!({})).await, json!([]));
    assert_eq!(desk.call("vms/list", json!({})).await, json!([]));
}

#[tokio::test]
async fn what_does_not_exist_is_not_found() {
    let desk = Desk::open().await;
    for operation in [
        "hosts/get",
        "hosts/delete",
        "hosts/delete-preview",
        "hosts/token",
        "hosts/cordon",
        "hosts/uncordon",
        "hosts/tags-list",
    ] {
        let refused = desk.refusal(operation, json!({"id": "host-nowhere"})).await;
        assert_eq!(refused.code().as_str(), "NOT_FOUND", "{operation}");
    }
}

#[tokio::test]
async fn operations_of_a_host_are_passed_on_to_it() {
    let desk = Desk::open().await;
    let host = StandIn::enrol(&desk).await;
    for (operation, rest) in [
        ("images/pull", json!({})),
        (
            "images/import",
            json!({"source": "/srv/rootfs.tar", "name": "web"}),
        ),
        ("images/delete", json!({"name": "web"})),
        (
            "kernels/import",
            json!({"source": "/boot/vmlinuz", "name": "own"}),
        ),
        ("kernels/delete", json!({"name": "own"})),
        ("host/status", json!({})),
        ("host/config", json!({})),
        ("host/health", json!({})),
    ] {
        let mut input = rest.clone();
        input["host"] = json!(host.id);
        let answer = desk.call(operation, input).await;
        assert_eq!(answer, json!({"did": operation, "with": rest}));
    }
    let calls = host.inside().calls.clone();
    assert!(
        calls.iter().all(|(.., request_id)| !request_id.is_empty()),
        "{calls:?}"
    );
    for operation in ["images/list", "kernels/list"] {
        let input = json!({"host": host.id, "limit": 1, "cursor": "a"});
        let page = desk
            .reply(operation, Some(&desk.admin), input)
            .await
            .expect("a page");
        assert_eq!(page.output, json!([{"name": "b", "of": operation}]));
        assert_eq!(page.next_cursor.as_deref(), Some("b"));
        let all = desk.call(operation, json!({"host": host.id})).await;
        assert_eq!(all.as_array().map(Vec::len), Some(3));
    }
    let (pending, _) = desk.pending().await;
    let refused = desk.refusal("images/list", json!({"host": pending})).await;
    assert_eq!(refused.code().as_str(), "INVALID_STATE", "{refused}");
}

/// Each operation asks for exactly the scope of its kind of thing; what is open is open on purpose.
#[tokio::test]
async fn every_operation_asks_for_the_scope_of_its_thing() {
    let desk = Desk::open().await;
    let of_hosts = [
        "hosts/heartbeat",
        "hosts/renew",
        "entries/sync",
        "svids/sign",
        "svids/mint",
    ];
    let about_oneself = ["auth/logout", "users/change-password", "users/me"];
    let open = [
        "auth/login",
        "bundle/get",
        "hosts/register",
        "services/list",
        "services/schema",
    ];
    let inside = [
        "vms/exec",
        "vms/exec-input",
        "vms/exec-resize",
        "vms/read-file",
        "vms/run",
        "vms/write-file",
    ];
    for operation in desk.registry.external() {
        let name = operation.name().as_str();
        let verb = match operation.kind() {
            hostler_operations::Kind::Mutation => "write",
            _ => "read",
        };
        let expected = match operation.name().service() {
            _ if open.contains(&name) => None,
            _ if of_hosts.contains(&name) => Some("host:self".into()),
            _ if name == "svids/rotate" => Some("authority:write".into()),
            _ if name == "hosts/delete-preview" => Some("hosts:write".into()),
            _ if inside.contains(&name) => Some("vms:exec".into()),
            "snapshots" => Some(format!("vms:{verb}")),
            _ if about_oneself.contains(&name) => Some("user:self".into()),
            _ if name == "teams/members-remove" => Some("members:write or user:self".into()),
            _ if name.starts_with("teams/members-") && verb == "write" => {
                Some("members:write".into())
            }
            "teams" if verb == "read" => Some("teams:read or keys:write".into()),
            "api-keys" | "teams" => Some("keys:write".into()),
            "token-keys" => Some("authority:write".into()),
            "images" | "kernels" => Some(format!("images:{verb}")),
            "host" | "metrics" | "status" => Some("hosts:read".into()),
            service => Some(format!("{service}:{verb}")),
        };
        let asked = match operation.access() {
            Access::Open => None,
            Access::AllOf(scopes) => {
                assert_eq!(scopes.len(), 1, "{name}");
                Some(scopes[0].to_string())
            }
            Access::AnyOf(scopes) => {
                let scopes: Vec<&str> = scopes.iter().map(Scope::as_str).collect();
                Some(scopes.join(" or "))
            }
        };
        assert_eq!(asked, expected, "{name}");
        if asked.is_some() {
            let refused = desk.try_call(name, None, json!({})).await.expect_err(name);
            assert_eq!(refused.message(), "authentication required", "{name}");
            let powerless = Identity::new("powerless", std::iter::empty().collect());
            let refused = desk.refusal_as(&powerless, name, json!({})).await;
            assert_eq!(refused.code().as_str(), "FORBIDDEN", "{name}");
        }
    }
}

#[tokio::test]
async fn anyone_may_read_the_bundle() {
    let desk = Desk::open().await;
    let bundle = desk
        .try_call("bundle/get", None, json!({}))
        .await
        .expect("a bundle");
    assert_eq!(bundle["keys"][0]["use"], "x509-svid");
    assert_eq!(bundle["keys"][1]["use"], "jwt-svid");
    assert!(bundle["spiffe_sequence"].is_u64(), "{bundle}");
    assert_eq!(bundle["spiffe_refresh_hint"], 24 * 3600, "{bundle}");
}

#[tokio::test]
async fn the_status_counts_hosts_and_vms() {
    let desk = Desk::open().await;
    let _host = StandIn::enrol(&desk).await;
    desk.pending().await;
    desk.call("vms/create", json!({"name": "web"})).await;
    let status = desk.call("status/get", json!({})).await;
    assert_eq!(status["hosts"], json!({"online": 1, "pending": 1}));
    assert_eq!(status["vms"], json!({"created": 1}));
    assert_eq!(status["version"], env!("CARGO_PKG_VERSION"));
}

#[tokio::test]
async fn a_host_that_drains_stops_its_vms_and_takes_no_new_ones_until_it_is_opened_again() {
    let desk = Desk::open().await;
    let host = StandIn::enrol(&desk).await;
    for name in ["a", "b", "c"] {
        desk.call("vms/create", json!({ "name": name })).await;
    }
    for name in ["a", "b"] {
        desk.call("vms/start", json!({ "name": name })).await;
    }
    let about = json!({"id": host.id});
    let drained = desk.call("hosts/drain", about.clone()).await;
    assert_eq!(drained["status"], "draining");
    assert_eq!(drained["vms_stopped"].as_array().map(Vec::len), Some(2));
    assert_eq!(drained["vms_running"], json!([]));
    let stopped = desk.call("vms/list", json!({})).await;
    assert_eq!(stopped[0]["state"], "stopped");
    assert_eq!(stopped[2]["state"], "created");
    let refused = desk.refusal("vms/create", json!({"name": "d"})).await;
    assert_eq!(refused.code().as_str(), "NO_HOSTS_AVAILABLE");
    // It says that it is there, and drains on.
    host.heartbeat(&desk, json!(null)).await;
    let still = desk.call("hosts/get", about.clone()).await;
    assert_eq!(still["status"], "draining");

    // Nothing that it has is started again behind the drain's back.
    for (operation, about) in [
        ("vms/start", json!({"name": "a"})),
        ("vms/start", json!({"name": "c"})),
        ("vms/restore", json!({"name": "a", "snapshot": "s"})),
    ] {
        let refused = desk.refusal(operation, about).await;
        assert_eq!(refused.code().as_str(), "INVALID_STATE");
        assert!(refused.message().contains("is draining"), "{refused:?}");
        assert!(refused.message().contains("hosts/uncordon"), "{refused:?}");
    }
    // A cordoned host does: what is there stays there.
    desk.call("hosts/uncordon", about.clone()).await;
    desk.call("hosts/cordon", about.clone()).await;
    desk.call("vms/start", json!({"name": "a"})).await;
    let kept = json!({"id": host.id, "keep_vms": true});
    let again = desk.call("hosts/drain", kept).await;
    assert_eq!(again["status"], "draining");
    // What runs stays as it is, and is none that is started.
    desk.call("vms/start", json!({"name": "a"})).await;
    assert_eq!(again["vms_stopped"], json!([]));
    host.be(Mood::Raves);
    let again = desk.call("hosts/drain", about.clone()).await;
    // Of those that do not run nobody knows whether they stay so.
    assert_eq!(again["vms_running"].as_array().map(Vec::len), Some(3));
    host.be(Mood::Well);

    let open = desk.call("hosts/uncordon", about.clone()).await;
    assert_eq!(open["status"], "online");
    desk.call("vms/create", json!({"name": "d"})).await;

    let me = host.identity(&desk).await;
    let goodbye = json!({"id": host.id, "goodbye": true});
    desk.call_as(&me, "hosts/heartbeat", goodbye).await;
    let refused = desk.refusal("hosts/drain", about).await;
    assert_eq!(refused.code().as_str(), "INVALID_STATE");
}

#[tokio::test]
async fn a_host_that_drains_calls_off_the_restarts_that_are_due() {
    let desk = Desk::open().await;
    let host = StandIn::enrol(&desk).await;
    desk.call("vms/create", json!({"name": "web"})).await;
    desk.call("vms/start", json!({"name": "web"})).await;
    // Its guest shut down, and its restart policy is `always`.
    for vm in host.inside().vms.values_mut() {
        vm["state"] = json!("stopped");
        vm["next_restart_at"] = json!("2026-01-01T00:00:10Z");
    }
    let due = desk.call("vms/get", json!({"name": "web"})).await;
    assert_eq!(due["state"], "stopped");
    assert_eq!(due["next_restart_at"], "2026-01-01T00:00:10Z");

    // Who is to leave the VMs alone leaves this one too.
    let kept = json!({"id": host.id, "keep_vms": true});
    desk.call("hosts/drain", kept).await;
    let due = desk.call("vms/get", json!({"name": "web"})).await;
    assert_eq!(due["next_restart_at"], "2026-01-01T00:00:10Z");

    let drained = desk.call("hosts/drain", json!({"id": host.id})).await;
    assert_eq!(drained["vms_stopped"], json!([]), "it did not run");
    assert_eq!(drained["vms_running"], json!([]));
    let called_off = desk.call("vms/list", json!({})).await;
    assert_eq!(called_off[0]["next_restart_at"], json!(null));
    let inside = host.inside();
    let vm = inside.vms.values().next().expect("the VM");
    assert_eq!(vm["next_restart_at"], json!(null));
}

#[tokio::test]
async fn a_vm_that_is_being_started_when_its_host_begins_to_drain_is_stopped_again() {
    let desk = Desk::open().await;
    let host = StandIn::enrol(&desk).await;
    desk.call("vms/create", json!({"name": "web"})).await;
    let about = json!({"id": host.id});
    let start = ("vms/start", json!({"name": "web"}));
    let restore = ("vms/restore", json!({"name": "web", "snapshot": "s"}));
    for ((operation, input), is_heard) in [
        (start.clone(), true),
        (restore.clone(), true),
        // Nobody hears whether it was started.
        (start, false),
        (restore, false),
    ] {
        let go = Arc::new(Notify::new());
        host.be(match is_heard {
            true => Mood::Hesitates(Arc::clone(&go)),
            false => Mood::HesitatesAndMumbles(Arc::clone(&go)),
        });
        host.inside().calls.clear();
        let drain = async {
            while !host.inside().calls.iter().any(|call| call.0 == operation) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            let drained = desk.call("hosts/drain", about.clone()).await;
            go.notify_one();
            drained
        };
        let (refused, drained) = tokio::join!(desk.refusal(operation, input), drain);
        assert_eq!(drained["vms_running"], json!([]));
        match is_heard {
            true => {
                assert_eq!(refused.code().as_str(), "INVALID_STATE");
                assert!(refused.message().contains("is draining"), "{refused:?}");
            }
            false => assert_eq!(refused.code().as_str(), "INTERNAL"),
        }
        let state = |vm: &Value| vm["state"].clone();
        let at_the_host: Vec<_> = host.inside().vms.values().map(state).collect();
        assert_eq!(at_the_host, ["stopped"]);
        let listed = desk.call("vms/list", json!({})).await;
        assert_eq!(listed[0]["state"], "stopped");
        desk.call("hosts/uncordon", about.clone()).await;
    }
    // On a host that does not drain it runs, whatever was heard of it.
    host.be(Mood::Mumbles);
    host.inside().calls.clear();
    desk.refusal("vms/start", json!({"name": "web"})).await;
    assert!(!host.inside().calls.iter().any(|call| call.0 == "vms/stop"));
    // Nothing stands in its way any more.
    host.be(Mood::Well);
    let started = desk.call("vms/start", json!({"name": "web"})).await;
    assert_eq!(started["state"], "running");
}
