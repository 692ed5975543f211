//! Where VMs go: what is asked beforehand is what then happens, and whatever changes is seen by the
//! next question.

use serde_json::{Value, json};

use crate::desk::{Desk, text};
use crate::standin::StandIn;

async fn place(desk: &Desk, wanted: Value) -> Value {
    desk.call("vms/place", wanted).await
}

#[tokio::test]
async fn a_question_where_reserves_nothing_and_is_answered_as_a_creation_is() {
    let desk = Desk::open().await;
    let (small, large) = (
        StandIn::enrol_with(&desk, 2, 2048).await,
        StandIn::enrol_with(&desk, 8, 8192).await,
    );
    for _ in 0..3 {
        let said = place(&desk, json!({"memory_mb": 2048})).await;
        assert_eq!(said["host"], large.id);
        assert_eq!(
            (&said["considered"], &said["fitting"]),
            (&json!(2), &json!(2))
        );
        assert_eq!(said["others"], json!([{"id": small.id, "lacks": []}]));
    }
    assert_eq!(desk.count("vms").await, 0);
    let vm = desk
        .call("vms/create", json!({"name": "web", "memory_mb": 2048}))
        .await;
    assert_eq!(vm["host"], large.id);

    let said = place(&desk, json!({"memory_mb": 7000})).await;
    assert_eq!(said.get("host"), None);
    assert_eq!(said["lacking"], json!({"memory": 2}));
    let free = json!([{"what": "memory", "wanted": 7000, "free": 6144}]);
    assert_eq!(said["others"][1], json!({"id": large.id, "lacks": free}));
    let change = json!({"host": large.id, "steps": ["ask for at most 6144 MiB of memory"]});
    assert_eq!(said["smallest_change"], change);
    assert_eq!(
        place(&desk, json!({"memory_mb": 6144})).await["host"],
        large.id
    );
}

#[tokio::test]
async fn whatever_changes_a_host_is_seen_by_the_next_question() {
    let desk = Desk::open().await;
    let host = StandIn::enrol(&desk).await;
    let lacking = async |wanted: Value| {
        let said = place(&desk, wanted).await;
        said.get("lacking").cloned().unwrap_or_default()
    };
    assert_eq!(lacking(json!({})).await, Value::Null);
    let about = json!({"id": host.id});
    desk.call("hosts/cordon", about.clone()).await;
    assert_eq!(lacking(json!({})).await, json!({"uncordoned": 1}));
    desk.call("hosts/uncordon", about.clone()).await;
    assert_eq!(lacking(json!({})).await, Value::Null);

    let gpu = json!({"required_tags": ["gpu"]});
    assert_eq!(lacking(gpu.clone()).await, json!({"tags": 1}));
    let tag = json!({"id": host.id, "tag": "gpu"});
    desk.call("hosts/tags-add", tag.clone()).await;
    assert_eq!(lacking(gpu.clone()).await, Value::Null);
    desk.call("hosts/tags-remove", tag).await;
    assert_eq!(lacking(gpu).await, json!({"tags": 1}));

    let whole = json!({"memory_mb": 4096});
    desk.call("vms/create", json!({"name": "a", "memory_mb": 1024}))
        .await;
    assert_eq!(lacking(whole.clone()).await, json!({"memory": 1}));
    desk.call("vms/delete", json!({"name": "a"})).await;
    assert_eq!(lacking(whole).await, Value::Null);

    let me = host.identity(&desk).await;
    let goodbye = json!({"id": host.id, "goodbye": true});
    desk.call_as(&me, "hosts/heartbeat", goodbye).await;
    assert_eq!(lacking(json!({})).await, json!({"online": 1}));
    host.heartbeat(&desk, json!([])).await;
    assert_eq!(lacking(json!({})).await, Value::Null);

    desk.call("hosts/delete", about).await;
    assert_eq!(place(&desk, json!({})).await["considered"], 0);
    let another = StandIn::enrol(&desk).await;
    assert_eq!(place(&desk, json!({})).await["host"], another.id);
}

#[tokio::test]
async fn vms_of_a_group_are_put_apart() {
    let desk = Desk::open().await;
    let mut zones = std::collections::BTreeMap::new();
    for zone in ["a", "a", "b"] {
        let made = desk
            .call("hosts/create", json!({"availability_zone": zone}))
            .await;
        let token = text(&made["registration_token"]);
        let host = StandIn::enrol_by(&desk, &token, 4, 4096).await;
        zones.insert(host.id.clone(), (zone, host));
    }
    let mut went = Vec::new();
    for n in 0..4 {
        let wanted = json!({"name": format!("web-{n}"), "spread_group": "web"});
        let vm = desk.call("vms/create", wanted).await;
        went.push(text(&vm["host"]));
    }
    let in_zone = |zone| went.iter().filter(|id| zones[*id].0 == zone).count();
    assert_eq!((in_zone("a"), in_zone("b")), (2, 2), "{went:?}");
    let hosts: std::collections::BTreeSet<_> = went.iter().collect();
    assert_eq!(
        hosts.len(),
        3,
        "and on different hosts of one zone: {went:?}"
    );
    // Another group's VMs do not count.
    let other = place(&desk, json!({"spread_group": "db"})).await;
    assert!(text(&other["why"]).contains("fits on 3 of 3"), "{other}");
}

#[tokio::test]
async fn a_team_is_told_of_its_own_hosts_and_not_of_the_platforms() {
    let desk = Desk::open().await;
    let (team_id, team) = desk.team("ours", &["vms:read", "hosts:write"]).await;
    let platform = StandIn::enrol(&desk).await;
    desk.call("hosts/cordon", json!({"id": platform.id})).await;
    let said = desk.call_as(&team, "vms/place", json!({})).await;
    assert_eq!(
        (&said["considered"], &said["others"]),
        (&json!(1), &json!([]))
    );
    let steps = json!(["open a host of the platform to new VMs (hosts/uncordon)"]);
    assert_eq!(said["smallest_change"], json!({ "steps": steps }));
    assert!(!said.to_string().contains(&platform.id), "{said}");

    let made = json!({"type": "byoc", "team_id": team_id});
    let made = desk.call("hosts/create", made).await;
    let token = text(&made["registration_token"]);
    let own = StandIn::enrol_by(&desk, &token, 4, 4096).await;
    let said = desk.call_as(&team, "vms/place", json!({})).await;
    assert_eq!(said["host"], own.id);
    let refused = desk
        .refusal_as(&team, "vms/place", json!({"host": platform.id}))
        .await;
    assert_eq!(refused.code().as_str(), "NOT_FOUND");
}

#[tokio::test]
async fn heartbeats_that_come_together_are_each_heard() {
    let desk = Desk::open().await;
    let mut hosts = Vec::new();
    for _ in 0..12 {
        hosts.push(StandIn::enrol(&desk).await);
    }
    let vm = desk
        .call("vms/create", json!({"name": "web", "host": hosts[3].id}))
        .await;
    desk.tamper("UPDATE hosts SET last_heartbeat_at = 1000")
        .await;
    let gone = &hosts[5];
    let me = gone.identity(&desk).await;
    desk.call("hosts/delete", json!({"id": gone.id})).await;
    let beats = hosts.iter().map(|host| async {
        let vms = match host.id == hosts[3].id {
            true => json!([{"name": vm["id"], "state": "running"}]),
            false => json!([]),
        };
        let beat = json!({"id": host.id, "vms": vms});
        let who = match host.id == gone.id {
            true => me.clone(),
            false => host.identity(&desk).await,
        };
        desk.try_call("hosts/heartbeat", Some(&who), beat).await
    });
    let answers = futures::future::join_all(beats).await;
    for (host, answer) in hosts.iter().zip(answers) {
        match answer {
            Ok(_) => assert_ne!(host.id, gone.id),
            Err(error) => {
                assert_eq!(host.id, gone.id, "{error}");
                assert_eq!(error.code().as_str(), "NOT_FOUND");
            }
        }
    }
    assert_eq!(desk.count("hosts WHERE last_heartbeat_at = 1000").await, 0);
    let listed = desk.call("vms/list", json!({})).await;
    assert_eq!(listed[0]["state"], "running", "the news were heard");
}
