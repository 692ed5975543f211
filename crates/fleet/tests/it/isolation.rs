//! Teams do not see each other: what belongs to another team is answered as what does not exist.

use std::collections::BTreeSet;
use std::time::Duration;

use futures::TryStreamExt;
use futures::stream::BoxStream;
use hostler_operations::{CallError, Identity, Kind};
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

/// What a field of an operation's input names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Names {
    Host,
    Vm,
    Team,
    User,
    Key,
    Entry,
    /// Something of the caller's own making, such as what a new VM is to be called, or something
    /// within what another field names.
    OwnText,
    /// Users are the platform's, and whoever may put one into a team learns whether there is one.
    AnyUser,
}

/// `None`: a field of this name may be anything, and nobody has said yet what it is there.
fn names(operation: &str, field: &str) -> Option<Names> {
    let (service, verb) = operation.split_once('/').expect("a name");
    Some(match (service, verb, field) {
        ("vms", "create", "name") => Names::OwnText,
        ("vms" | "snapshots", _, "name") => Names::Vm,
        ("vms", "exec-input" | "exec-resize", "id") => Names::OwnText,
        ("images" | "kernels" | "auth" | "services", _, "name") => Names::OwnText,
        ("teams" | "users" | "api-keys", "create" | "update", "name") => Names::OwnText,
        ("teams", "members-add", "user") => Names::AnyUser,
        ("hosts", _, "id") => Names::Host,
        ("entries", "sync", "id") | ("svids", _, "id") => Names::Host,
        ("entries", _, "id") => Names::Entry,
        ("api-keys", _, "id") => Names::Key,
        (_, _, "host" | "host_id") => Names::Host,
        (_, _, "team" | "team_id") => Names::Team,
        (_, _, "user" | "user_id") => Names::User,
        _ => return None,
    })
}

/// Fields that may name something; others are numbers, texts and choices.
const MAY_NAME: [&str; 12] = [
    "entry", "entry_id", "host", "host_id", "id", "key", "key_id", "name", "team", "team_id",
    "user", "user_id",
];

/// What fields hold that are not tried, so that the operation gets as far as it can.
fn filler(operation: &str, field: &str, own_team: &str) -> Option<Value> {
    Some(match (operation, field) {
        ("hosts/create", "type") => json!("byoc"),
        ("vms/create", "host") => return None,
        // Everything that has happened until now.
        (_, "after") => json!(0),
        (_, "tag") => json!("t"),
        (_, "host_port") => json!(8080),
        (_, "guest_port") => json!(80),
        (_, "source" | "path") => json!("/x"),
        (_, "name" | "id" | "snapshot") => json!("x"),
        (_, "spiffe_id") => json!("/x"),
        (_, "selectors") => json!(["unix:uid:0"]),
        (_, "argv") => json!(["true"]),
        (_, "data") => json!(""),
        (_, "rows" | "columns") => json!(1),
        (_, "scopes") => json!(["vms:read"]),
        (_, "role") => json!("member"),
        (_, "password" | "current" | "new") => json!("correct horse battery"),
        (_, "is_admin") => json!(true),
        ("teams/update", "is_byoc") => json!(true),
        (_, "team") => json!(own_team),
        (_, "user") => json!("ada"),
        _ => return None,
    })
}

/// All that a stream tells, which must end: nobody waits for news of what does not exist.
async fn told(
    outputs: BoxStream<'static, Result<Value, CallError>>,
) -> Result<Vec<Value>, CallError> {
    let all = tokio::time::timeout(Duration::from_secs(60), outputs.try_collect());
    all.await.expect("the stream ends")
}

/// What comes of a call, without what names the thing, to compare two.
async fn outcome(
    desk: &Desk,
    who: &Identity,
    operation: &str,
    input: Value,
    object: &str,
) -> (String, String) {
    let kind = desk.registry.find(operation).map(|found| found.kind());
    let done = match kind {
        Some(Kind::Subscription) => match desk.subscribe(who, operation, input).await {
            Ok(outputs) => told(outputs).await.map(Value::Array),
            Err(error) => Err(error),
        },
        _ => desk.try_call(operation, Some(who), input).await,
    };
    let (code, message) = match done {
        Ok(output) => ("OK".to_owned(), output.to_string()),
        Err(error) => (error.code().as_str().to_owned(), error.message().to_owned()),
    };
    (code, message.replace(object, "NAME"))
}

#[tokio::test]
async fn every_object_of_another_team_is_answered_as_one_that_does_not_exist() {
    let desk = Desk::open().await;
    let (team, owner) = desk.team("owner", &ALL).await;
    let (own_team, stranger) = desk.team("stranger", &ALL).await;
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
    let user = desk.user("ada").await;
    let member = json!({"team": team, "user": user, "role": "owner"});
    desk.call("teams/members-add", member).await;
    let entry = json!({"spiffe_id": "/web", "selectors": ["unix:uid:0"]});
    let entry = text(&desk.call("entries/create", entry).await["id"]);

    let nothing = |prefix: &str| format!("{prefix}-{}", "0".repeat(25));
    let objects = |names: Names| match names {
        Names::Host => vec![(host.id.clone(), nothing("host"))],
        Names::Vm => vec![
            (text(&vm["id"]), nothing("vm")),
            ("web".into(), "none".into()),
        ],
        Names::Team => vec![
            (team.clone(), nothing("team")),
            ("owner".into(), "nobody".into()),
        ],
        Names::User => vec![
            (user.clone(), nothing("user")),
            ("ada".into(), "nobody".into()),
        ],
        Names::Key => vec![(text(&key["api_key"]["id"]), nothing("key"))],
        Names::Entry => vec![(entry.clone(), nothing("entry"))],
        Names::OwnText | Names::AnyUser => Vec::new(),
    };
    let (mut not_found, mut unexpected) = (BTreeSet::new(), Vec::new());
    for operation in desk.registry.external() {
        let name = operation.name().as_str();
        let properties = operation.input_schema().get("properties");
        let fields = properties.and_then(Value::as_object);
        let fields: Vec<&String> = fields.into_iter().flat_map(|all| all.keys()).collect();
        for field in &fields {
            if !MAY_NAME.contains(&field.as_str()) {
                continue;
            }
            let kind =
                names(name, field).unwrap_or_else(|| panic!("what does {name} {field} name?"));
            let input = |object: &str| {
                let mut input = json!({ *field: object });
                for other in fields.iter().filter(|other| other != &field) {
                    if let Some(value) = filler(name, other, &own_team) {
                        input[*other] = value;
                    }
                }
                input
            };
            for (theirs, none) in objects(kind) {
                let seen = outcome(&desk, &stranger, name, input(&theirs), &theirs).await;
                let missing = outcome(&desk, &stranger, name, input(&none), &none).await;
                assert_eq!(seen, missing, "{name} by {field}");
                match seen.0.as_str() {
                    "NOT_FOUND" => _ = not_found.insert(name.to_owned()),
                    "OK" if seen.1 == "[]" => {}
                    // What only hosts and strangers do is refused before anything is looked at.
                    "FORBIDDEN" | "UNAUTHORIZED" => {}
                    other => unexpected.push(format!("{name} by {field}: {other} {}", seen.1)),
                }
            }
        }
    }
    assert!(unexpected.is_empty(), "{unexpected:#?}");
    assert!(not_found.len() >= 50, "only {not_found:?} were tried");

    for list in ["hosts/list", "vms/list"] {
        assert_eq!(
            desk.call_as(&stranger, list, json!({})).await,
            json!([]),
            "{list}"
        );
        let owned = desk.call_as(&owner, list, json!({})).await;
        assert_eq!(owned.as_array().map(Vec::len), Some(1), "{list}");
    }
    let counted = desk.call_as(&stranger, "status/get", json!({})).await;
    assert_eq!(
        (&counted["hosts"], &counted["vms"]),
        (&json!({}), &json!({}))
    );
    for list in ["api-keys/list", "teams/list"] {
        let seen = desk.call_as(&stranger, list, json!({})).await;
        assert!(!seen.to_string().contains(&team), "{seen}");
    }
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
