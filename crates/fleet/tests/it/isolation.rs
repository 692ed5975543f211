//! Teams do not see each other: what belongs to another team is answered as what does not exist.

use hostler_operations::{CallError, Identity};
use serde_json::{Value, json};

use crate::desk::{Desk, text};
use crate::standin::StandIn;

const ALL: [&str; 16] = [
    "teams:read",
    "members:write",
    "owners:write",
    "users:read",
    "users:write",
    "audit:read",
    "entries:read",
    "entries:write",
    "hosts:read",
    "hosts:write",
    "vms:read",
    "vms:write",
    "vms:exec",
    "images:read",
    "images:write",
    "keys:write",
];

/// A refusal without what names the thing, to compare two.
fn anonymous(error: &CallError, name: &str) -> (String, String) {
    (
        error.code().as_str().to_owned(),
        error.message().replace(name, "NAME"),
    )
}

#[tokio::test]
async fn every_object_of_another_team_is_answered_as_one_that_does_not_exist() {
    let desk = Desk::open().await;
    let (team, owner) = desk.team("owner", &ALL).await;
    let (_, stranger) = desk.team("stranger", &ALL).await;
    let made = desk
        .call_as(&owner, "hosts/create", json!({"type": "byoc"}))
        .await;
    assert_eq!(made["host"]["team_id"], team.as_str());
    let token = text(&made["registration_token"]);
    let host = StandIn::enrol_by(&desk, &token, 4, 4096).await;
    let vm = desk
        .call_as(&owner, "vms/create", json!({"name": "web"}))
        .await;
    assert_eq!(
        (&vm["host"], &vm["team_id"]),
        (&json!(host.id), &json!(team))
    );
    let key = json!({"name": "k", "scopes": ["vms:read"]});
    let key = desk.call_as(&owner, "api-keys/create", key).await;

    let (no_host, no_vm) = (
        format!("host-{}", "0".repeat(25)),
        format!("vm-{}", "0".repeat(25)),
    );
    let no_key = format!("key-{}", "0".repeat(25));
    let no_team = format!("team-{}", "0".repeat(25));
    let no_user = format!("user-{}", "0".repeat(25));
    let user_id = desk.user("ada").await;
    let member = json!({"team": team, "user": user_id, "role": "owner"});
    desk.call("teams/members-add", member).await;
    let no_entry = format!("entry-{}", "0".repeat(25));
    let entry = json!({"spiffe_id": "/web", "selectors": ["unix:uid:0"]});
    let entry_id = text(&desk.call("entries/create", entry).await["id"]);
    let vm_id = text(&vm["id"]);
    let key_id = text(&key["api_key"]["id"]);
    let mut seen = 0;
    for operation in desk.registry.external() {
        let name = operation.name().as_str();
        let properties = operation
            .input_schema()
            .get("properties")
            .cloned()
            .unwrap_or_default();
        let (field, real, none) = match operation.name().service() {
            "hosts" if !["hosts/heartbeat", "hosts/renew"].contains(&name) => {
                ("id", &host.id, &no_host)
            }
            "images" | "kernels" | "host" => ("host", &host.id, &no_host),
            "vms" if name != "vms/create" => ("name", &vm_id, &no_vm),
            "api-keys" => ("id", &key_id, &no_key),
            "teams" if name != "teams/create" => ("team", &team, &no_team),
            "users" => ("user", &user_id, &no_user),
            "entries" if name != "entries/sync" => ("id", &entry_id, &no_entry),
            _ => continue,
        };
        if properties.get(field).is_none() || name == "vms/list" {
            continue;
        }
        let input = |object: &str| {
            let mut input = json!({ field: object });
            for (other, value) in [
                ("tag", json!("t")),
                ("host_port", json!(8080)),
                ("guest_port", json!(80)),
                ("source", json!("/x")),
                ("name", json!("x")),
                ("argv", json!(["true"])),
                ("path", json!("/x")),
                ("data", json!("")),
                ("id", json!("x")),
                ("rows", json!(1)),
                ("columns", json!(1)),
                ("snapshot", json!("x")),
                ("user", json!(user_id)),
                ("role", json!("member")),
                ("password", json!("correct horse battery")),
                ("is_admin", json!(true)),
            ] {
                if properties.get(other).is_some() && other != field {
                    input[other] = value;
                }
            }
            input
        };
        let theirs = desk.refusal_as(&stranger, name, input(real)).await;
        let missing = desk.refusal_as(&stranger, name, input(none)).await;
        assert_eq!(
            anonymous(&theirs, real),
            anonymous(&missing, none),
            "{name}"
        );
        assert_eq!(theirs.code().as_str(), "NOT_FOUND", "{name}");
        seen += 1;
    }
    assert!(seen >= 20, "only {seen} operations were tried");

    for list in ["hosts/list", "vms/list"] {
        assert_eq!(
            desk.call_as(&stranger, list, json!({})).await,
            json!([]),
            "{list}"
        );
        let asked = desk
            .call_as(&stranger, list, json!({"team_id": team}))
            .await;
        assert_eq!(asked, json!([]), "{list}");
        let owned = desk.call_as(&owner, list, json!({})).await;
        assert_eq!(owned.as_array().map(Vec::len), Some(1), "{list}");
    }
    let counted = desk.call_as(&stranger, "status/get", json!({})).await;
    assert_eq!(
        (&counted["hosts"], &counted["vms"]),
        (&json!({}), &json!({}))
    );
    let keys = desk.call_as(&stranger, "api-keys/list", json!({})).await;
    assert!(!keys.to_string().contains(&team), "{keys}");
    assert_eq!(host.inside().vms.len(), 1, "the VM is still there");
}

#[tokio::test]
async fn a_team_cannot_act_for_another_or_for_the_platform() {
    let desk = Desk::open().await;
    let _regular = StandIn::enrol(&desk).await;
    let (other, _) = desk.team("other", &ALL).await;
    let (_, me) = desk.team("me", &ALL).await;
    let refused = async |operation: &str, input: Value| {
        let error = desk.refusal_as(&me, operation, input).await;
        error.code().as_str().to_owned()
    };
    assert_eq!(refused("hosts/create", json!({})).await, "FORBIDDEN");
    let theirs = json!({"type": "byoc", "team_id": other});
    assert_eq!(refused("hosts/create", theirs).await, "NOT_FOUND");
    let theirs = json!({"name": "web", "team_id": other});
    assert_eq!(refused("vms/create", theirs).await, "NOT_FOUND");
    let theirs = json!({"name": "k", "scopes": ["vms:read"], "team_id": other});
    assert_eq!(refused("api-keys/create", theirs).await, "NOT_FOUND");
    assert_eq!(
        refused("teams/create", json!({"name": "mine"})).await,
        "FORBIDDEN"
    );
    let mount = json!({"host_path": "/", "guest_tag": "root"});
    let mounting = json!({"name": "web", "mounts": [mount]});
    assert_eq!(refused("vms/create", mounting).await, "FORBIDDEN");
    // The platform's own hosts run a team's VMs, and are still not the team's to look at.
    let vm = desk
        .call_as(&me, "vms/create", json!({"name": "web"}))
        .await;
    assert_eq!(desk.call_as(&me, "hosts/list", json!({})).await, json!([]));
    assert_eq!(
        refused("hosts/get", json!({"id": vm["host"]})).await,
        "NOT_FOUND"
    );
    let named = json!({"name": "web-2", "host": vm["host"]});
    assert_eq!(refused("vms/create", named).await, "NOT_FOUND");
}

#[tokio::test]
async fn two_teams_may_call_their_vms_alike() {
    let desk = Desk::open().await;
    let host = StandIn::enrol(&desk).await;
    let (_, one) = desk.team("one", &ALL).await;
    let (other_id, other) = desk.team("other", &ALL).await;
    let made = async |who: &Identity| {
        desk.call_as(who, "vms/create", json!({"name": "web"}))
            .await
    };
    let (first, second, third) = (
        made(&one).await,
        made(&other).await,
        made(&desk.admin).await,
    );
    assert_ne!(first["id"], second["id"]);
    // On the host nobody's name is known.
    let on_host: Vec<String> = host.inside().vms.keys().cloned().collect();
    assert_eq!(
        on_host,
        [text(&first["id"]), text(&second["id"]), text(&third["id"])]
    );
    let seen = desk
        .call_as(&other, "vms/get", json!({"name": "web"}))
        .await;
    assert_eq!(seen["id"], second["id"]);
    let by_platform = json!({"name": "web", "team_id": other_id});
    assert_eq!(desk.call("vms/get", by_platform).await["id"], second["id"]);
    assert_eq!(
        desk.call("vms/get", json!({"name": "web"})).await["id"],
        third["id"]
    );
    assert_eq!(
        desk.call("vms/get", json!({"name": first["id"]})).await["id"],
        first["id"]
    );
}
