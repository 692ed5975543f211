//! The audit trail: complete, only added to, and a chain.

use hostler_fleet::chain::{self, Broken, Head, Line, Outcome};
use hostler_operations::Kind;
use serde_json::{Value, json};

use crate::desk::Desk;
use crate::standin::StandIn;
use crate::users::PASSWORD;

async fn trail(desk: &Desk) -> Vec<Line> {
    let lines = desk.call("audit/list", json!({"limit": 1000})).await;
    serde_json::from_value(lines).expect("lines")
}

#[tokio::test]
async fn changes_are_a_chain_of_lines_that_say_who_did_what() {
    let desk = Desk::open().await;
    let (host, _) = desk.pending().await;
    desk.call("hosts/cordon", json!({"id": host})).await;
    let lines = trail(&desk).await;
    let head = chain::verify(&lines, None).expect("whole");
    assert_eq!(head.seq, lines.len() as u64);
    let last = lines.last().expect("a line");
    assert_eq!(
        (last.change.action.as_str(), last.change.object.as_str()),
        ("host.cordon", host.as_str())
    );
    assert_eq!(last.change.subject, desk.admin.subject());

    let admin = desk.admin.clone();
    let desk = desk.reopen().await;
    desk.call_as(&admin, "hosts/uncordon", json!({"id": host}))
        .await;
    let lines = desk
        .call_as(&admin, "audit/list", json!({"limit": 1000}))
        .await;
    let lines: Vec<Line> = serde_json::from_value(lines).expect("lines");
    let later = chain::verify(&lines, Some(&head)).expect("the same chain, and longer");
    assert_eq!(later.seq, head.seq + 1);
}

#[tokio::test]
async fn racing_changes_leave_one_chain_without_gaps() {
    let desk = Desk::open().await;
    let before = trail(&desk).await.len();
    let creates = (0..40).map(|_| desk.call("hosts/create", json!({})));
    futures::future::join_all(creates).await;
    let lines = trail(&desk).await;
    assert!(lines.len() >= before + 40);
    chain::verify(&lines, None).expect("whole");
}

#[tokio::test]
async fn no_line_can_be_changed_or_removed_by_an_ordinary_statement() {
    let desk = Desk::open().await;
    desk.pending().await;
    let before = trail(&desk).await;
    for statement in [
        "UPDATE audit SET subject = 'somebody else'",
        "DELETE FROM audit WHERE seq = 1",
    ] {
        let refused = desk.try_execute(statement).await.expect_err(statement);
        assert!(refused.to_string().contains("only added to"), "{refused}");
    }
    assert_eq!(trail(&desk).await, before);
}

#[tokio::test]
async fn whoever_gets_around_that_breaks_the_chain() {
    let desk = Desk::open().await;
    desk.pending().await;
    let unguarded = |statement: &str| match crate::ON_POSTGRES {
        true => format!("ALTER TABLE audit DISABLE TRIGGER ALL; {statement}"),
        false => format!(
            "DROP TRIGGER audit_keeps_lines; DROP TRIGGER audit_changes_no_line; {statement}"
        ),
    };
    let head = chain::verify(&trail(&desk).await, None).expect("whole");
    let statement = "UPDATE audit SET subject = 'somebody else' WHERE seq = 1";
    desk.tamper(&unguarded(statement)).await;
    assert_eq!(
        chain::verify(&trail(&desk).await, None),
        Err(Broken::Changed { seq: 1 })
    );
    let newest = format!("DELETE FROM audit WHERE seq > {}", head.seq - 1);
    desk.tamper(&newest).await;
    let (end, kept) = (head.seq - 1, head.seq);
    let lines = trail(&desk).await;
    assert_eq!(lines.len() as u64, end);
    let rest = chain::verify(&lines[1..], Some(&head));
    let order = Broken::Order {
        expected: 1,
        found: 2,
    };
    assert_eq!(rest, Err(order), "of {kept} lines");
}

#[tokio::test]
async fn lines_from_before_there_was_a_chain_come_into_it_once() {
    let desk = Desk::open().await;
    let admin = desk.admin.clone();
    let old = |n: u32| {
        format!(
            "INSERT INTO audit_unchained (id, at, subject, action, object, request_id)
             VALUES ('old-{n}', {n}, 'ada', 'host.create', 'host-{n}', 'r')"
        )
    };
    for n in [2, 1] {
        desk.tamper(&old(n)).await;
    }
    let before = trail(&desk).await.len();
    let desk = desk.reopen().await.reopen().await;
    let lines = desk
        .call_as(&admin, "audit/list", json!({"limit": 1000}))
        .await;
    let lines: Vec<Line> = serde_json::from_value(lines).expect("lines");
    assert_eq!(lines.len(), before + 2);
    chain::verify(&lines, None).expect("whole");
    let objects: Vec<&str> = lines[before..]
        .iter()
        .map(|l| l.change.object.as_str())
        .collect();
    assert_eq!(objects, ["host-1", "host-2"]);
    assert_eq!(desk.count("audit_unchained").await, 0);
}

#[tokio::test]
async fn pages_and_filters_find_the_lines_that_are_asked_for() {
    let desk = Desk::open().await;
    let (host, _) = desk.pending().await;
    desk.pending().await;
    let all = trail(&desk).await;
    let mut paged = Vec::new();
    let mut input = json!({"limit": 1});
    loop {
        let reply = desk
            .reply("audit/list", Some(&desk.admin), input.clone())
            .await;
        let reply = reply.expect("a page");
        let lines: Vec<Line> = serde_json::from_value(reply.output).expect("lines");
        assert_eq!(lines.len(), 1);
        paged.extend(lines);
        let Some(next) = reply.next_cursor else { break };
        input["cursor"] = next.into();
    }
    assert_eq!(paged, all);
    let found = desk
        .call(
            "audit/list",
            json!({"action": "host.create", "object": host}),
        )
        .await;
    assert_eq!(found.as_array().map(Vec::len), Some(1), "{found}");
    let refused = desk
        .refusal("audit/list", json!({"cursor": "host-1"}))
        .await;
    assert_eq!(refused.code().as_str(), "INVALID_INPUT");
}

#[tokio::test]
async fn the_trail_is_the_platforms_to_read() {
    let desk = Desk::open().await;
    let (_, team) = desk.team("own", &["audit:read", "hosts:write"]).await;
    desk.call_as(&team, "hosts/create", json!({"type": "byoc"}))
        .await;
    let seen = desk.call_as(&team, "audit/list", json!({})).await;
    assert_eq!(seen, json!([]));
}

/// Whose calls they are: hosts speak for themselves, and the other ones leave no line because they
/// change nothing of their own (what an `exec` does has one already).
const BY_HOSTS: [&str; 5] = [
    "hosts/register",
    "hosts/heartbeat",
    "hosts/renew",
    "svids/mint",
    "svids/sign",
];
const OF_A_STREAM: [&str; 2] = ["vms/exec-input", "vms/exec-resize"];

/// One of each change; a new one has to be named here or there.
#[tokio::test]
async fn every_change_that_succeeds_leaves_a_line() {
    let desk = Desk::open().await;
    let host = StandIn::enrol(&desk).await;
    let (pending, _) = desk.pending().await;
    let (spare, _) = desk.pending().await;
    let entry = json!({"spiffe_id": "/web", "selectors": ["unix:uid:0"]});
    let entry_id = desk.call("entries/create", entry).await["id"].clone();
    let key = json!({"name": "k", "scopes": ["vms:read"]});
    let key_id = desk.call("api-keys/create", key.clone()).await["api_key"]["id"].clone();
    for user in ["ada", "eve", "bob"] {
        desk.user(user).await;
    }
    for team in ["old", "gone"] {
        desk.call("teams/create", json!({"name": team})).await;
    }
    let ada = desk.signed_in("ada", None).await;
    let ada_again = json!({"name": "ada", "password": PASSWORD});
    let member = json!({"team": "old", "user": "eve"});
    let promoted = json!({"team": "old", "user": "eve", "role": "admin"});
    let user = json!({"name": "new", "password": PASSWORD});
    let changed = json!({"current": PASSWORD, "new": "another horse battery"});
    let web = json!({"name": "web"});
    let snapshot = json!({"name": "web", "snapshot": "s"});
    let forced = json!({"name": "web", "snapshot": "s", "force": true});
    let forward = json!({"name": "web", "host_port": 8080, "guest_port": 80});
    let run = json!({"name": "web", "argv": ["true"]});
    let write = json!({"name": "web", "path": "/x", "data": ""});
    let on_host = |name: &str| json!({"host": host.id, "name": name});
    let import = |name: &str| json!({"host": host.id, "name": name, "source": "/x"});
    let api = json!({"spiffe_id": "/api", "selectors": ["unix:uid:0"]});
    let inputs: Vec<(&str, Value)> = vec![
        ("vms/create", web.clone()),
        ("vms/start", web.clone()),
        ("vms/pause", web.clone()),
        ("vms/resume", web.clone()),
        ("vms/port-forward", forward),
        ("vms/run", run),
        ("vms/write-file", write),
        ("vms/snapshot", snapshot.clone()),
        ("vms/restore", forced),
        ("snapshots/delete", snapshot),
        ("vms/stop", web.clone()),
        ("vms/delete", web),
        ("images/pull", json!({"host": host.id})),
        ("images/import", import("i")),
        ("images/delete", on_host("i")),
        ("kernels/import", import("k")),
        ("kernels/delete", on_host("k")),
        ("users/create", user),
        (
            "users/set-password",
            json!({"user": "bob", "password": PASSWORD}),
        ),
        ("users/set-admin", json!({"user": "bob", "is_admin": true})),
        ("users/delete", json!({"user": "bob"})),
        ("auth/login", ada_again),
        ("users/change-password", changed),
        ("auth/logout", json!({})),
        ("teams/create", json!({"name": "ours"})),
        ("teams/members-add", member.clone()),
        ("teams/members-set-role", promoted),
        ("teams/members-remove", member),
        ("teams/update", json!({"team": "old", "is_byoc": true})),
        ("teams/delete", json!({"team": "gone"})),
        ("hosts/create", json!({})),
        ("hosts/tags-add", json!({"id": pending, "tag": "ssd"})),
        ("hosts/tags-remove", json!({"id": pending, "tag": "ssd"})),
        ("hosts/cordon", json!({"id": pending})),
        ("hosts/uncordon", json!({"id": pending})),
        ("hosts/token", json!({"id": pending})),
        ("hosts/drain", json!({"id": host.id})),
        ("hosts/delete", json!({"id": spare})),
        ("api-keys/create", key),
        ("api-keys/delete", json!({"id": key_id})),
        ("entries/create", api),
        ("entries/delete", json!({"id": entry_id})),
        ("svids/rotate", json!({})),
        ("token-keys/rotate", json!({})),
    ];
    for operation in desk.registry.external() {
        let name = operation.name().as_str();
        if operation.kind() != Kind::Mutation
            || BY_HOSTS.contains(&name)
            || OF_A_STREAM.contains(&name)
        {
            continue;
        }
        assert!(
            inputs.iter().any(|(known, _)| *known == name),
            "{name} is not tried"
        );
    }
    let mut head = chain::verify(&trail(&desk).await, None).expect("whole");
    for (operation, input) in inputs {
        let who = match operation {
            "users/change-password" | "auth/logout" => &ada,
            _ => &desk.admin,
        };
        let subject = match operation {
            // Whoever logs in is nobody before.
            "auth/login" => ada.subject(),
            _ => who.subject(),
        };
        desk.call_as(who, operation, input).await;
        let lines = trail(&desk).await;
        let after: Head = chain::verify(&lines, Some(&head)).expect("whole");
        assert!(after.seq > head.seq, "{operation} left no line");
        for line in &lines[head.seq as usize..] {
            assert_eq!(line.change.subject, subject, "{operation}");
            assert_eq!(line.change.outcome, Outcome::Done, "{operation}");
        }
        head = after;
    }
}
