//! Teams and who is in them: what each role may do, and what ends with a membership.

use hostler_operations::Identity;
use serde_json::{Value, json};

use crate::desk::{self, Desk, text};
use crate::standin::StandIn;
use crate::users::PASSWORD;

impl Desk {
    /// A new user in this team, who has logged in for it.
    async fn member(&self, team: &str, name: &str, role: &str) -> Identity {
        self.user(name).await;
        let member = json!({"team": team, "user": name, "role": role});
        self.call("teams/members-add", member).await;
        self.signed_in(name, Some(team)).await
    }

    async fn code(&self, who: &Identity, operation: &str, input: Value) -> String {
        match self.try_call(operation, Some(who), input).await {
            Ok(_) => "OK".to_owned(),
            Err(error) => error.code().as_str().to_owned(),
        }
    }
}

#[tokio::test]
async fn each_role_may_do_what_is_its_own_and_no_more() {
    let desk = Desk::open().await;
    desk.team("ours", &["vms:read"]).await;
    let _host = StandIn::enrol(&desk).await;
    desk.user("new").await;
    let owner = desk.member("ours", "owner", "owner").await;
    let admin = desk.member("ours", "admin", "admin").await;
    let member = desk.member("ours", "member", "member").await;
    let key = json!({"name": "k", "scopes": ["vms:read"]});
    let add = |role: &str| json!({"team": "ours", "user": "new", "role": role});
    let remove = json!({"team": "ours", "user": "new"});
    let cases: [(&str, Value, [&str; 3]); 11] = [
        (
            "hosts/create",
            json!({}),
            ["FORBIDDEN", "FORBIDDEN", "FORBIDDEN"],
        ),
        (
            "hosts/create",
            json!({"type": "byoc"}),
            ["OK", "OK", "FORBIDDEN"],
        ),
        ("hosts/list", json!({}), ["OK", "OK", "OK"]),
        ("vms/list", json!({}), ["OK", "OK", "OK"]),
        ("api-keys/create", key, ["OK", "OK", "FORBIDDEN"]),
        ("api-keys/list", json!({}), ["OK", "OK", "FORBIDDEN"]),
        (
            "teams/members-list",
            json!({"team": "ours"}),
            ["OK", "OK", "OK"],
        ),
        (
            "teams/update",
            json!({"team": "ours", "is_byoc": false}),
            ["FORBIDDEN"; 3],
        ),
        ("teams/delete", json!({"team": "ours"}), ["FORBIDDEN"; 3]),
        ("users/list", json!({}), ["FORBIDDEN"; 3]),
        ("audit/list", json!({}), ["FORBIDDEN"; 3]),
    ];
    for (operation, input, expected) in cases {
        let mut codes = Vec::new();
        for who in [&owner, &admin, &member] {
            codes.push(desk.code(who, operation, input.clone()).await);
        }
        assert_eq!(codes, expected, "{operation} {input}");
    }
    for (who, name) in [(&owner, "o"), (&admin, "a"), (&member, "m")] {
        let made = desk.code(who, "vms/create", json!({"name": name})).await;
        assert_eq!(made, "OK", "{name} works with VMs");
    }
    for (role, expected) in [
        ("member", ["OK", "OK", "FORBIDDEN"]),
        ("admin", ["OK", "OK", "FORBIDDEN"]),
        ("owner", ["OK", "FORBIDDEN", "FORBIDDEN"]),
    ] {
        for (who, expected) in [&owner, &admin, &member].into_iter().zip(expected) {
            assert_eq!(
                desk.code(who, "teams/members-add", add(role)).await,
                expected,
                "{role}"
            );
            if expected == "OK" {
                desk.call("teams/members-remove", remove.clone()).await;
            }
        }
    }
    // Whoever cannot give a role cannot take it either.
    let demote = json!({"team": "ours", "user": "owner", "role": "member"});
    assert_eq!(
        desk.code(&admin, "teams/members-set-role", demote).await,
        "FORBIDDEN"
    );
    let evict = json!({"team": "ours", "user": "owner"});
    assert_eq!(
        desk.code(&admin, "teams/members-remove", evict).await,
        "FORBIDDEN"
    );
    let raise = json!({"team": "ours", "user": "admin", "role": "owner"});
    assert_eq!(
        desk.code(&admin, "teams/members-set-role", raise).await,
        "FORBIDDEN"
    );
}

#[tokio::test]
async fn a_key_gives_no_role_that_comes_to_more_than_itself() {
    let desk = Desk::open().await;
    let (_, clerk) = desk.team("ours", &["members:write", "vms:read"]).await;
    desk.user("ada").await;
    let add = json!({"team": "ours", "user": "ada", "role": "member"});
    assert_eq!(
        desk.code(&clerk, "teams/members-add", add).await,
        "FORBIDDEN"
    );
}

#[tokio::test]
async fn the_last_owner_stays_one() {
    let desk = Desk::open().await;
    desk.team("ours", &["vms:read"]).await;
    let ada = desk.member("ours", "ada", "owner").await;
    let leave = json!({"team": "ours", "user": "ada"});
    let step_down = json!({"team": "ours", "user": "ada", "role": "member"});
    for who in [&ada, &desk.admin] {
        let left = desk.code(who, "teams/members-remove", leave.clone()).await;
        assert_eq!(left, "CONFLICT");
        let changed = desk
            .code(who, "teams/members-set-role", step_down.clone())
            .await;
        assert_eq!(changed, "CONFLICT");
    }
    desk.member("ours", "eve", "owner").await;
    desk.call_as(&ada, "teams/members-remove", leave).await;
    let left = desk
        .call("teams/members-list", json!({"team": "ours"}))
        .await;
    assert_eq!(
        (left.as_array().map(Vec::len), &left[0]["name"]),
        (Some(1), &json!("eve"))
    );
}

#[tokio::test]
async fn everybody_may_leave_and_nobody_may_make_others_leave() {
    let desk = Desk::open().await;
    desk.team("ours", &["vms:read"]).await;
    let ada = desk.member("ours", "ada", "member").await;
    let eve = desk.member("ours", "eve", "member").await;
    let out = |user: &str| json!({"team": "ours", "user": user});
    assert_eq!(
        desk.code(&ada, "teams/members-remove", out("eve")).await,
        "FORBIDDEN"
    );
    assert_eq!(
        desk.code(&eve, "teams/members-remove", out("eve")).await,
        "OK"
    );
}

#[tokio::test]
async fn who_is_taken_out_of_a_team_is_out_at_once_with_their_keys_for_it() {
    let desk = Desk::open().await;
    let (_, other_team) = (
        desk.team("ours", &["vms:read"]).await,
        desk.team("other", &["vms:read"]).await,
    );
    let ada = desk.member("ours", "ada", "admin").await;
    let member = json!({"team": "other", "user": "ada", "role": "admin"});
    desk.call("teams/members-add", member).await;
    let key = json!({"name": "k", "scopes": ["vms:read"]});
    let ours = text(&desk.call_as(&ada, "api-keys/create", key.clone()).await["secret"]);
    let elsewhere = desk.signed_in("ada", Some("other")).await;
    let theirs = desk.call_as(&elsewhere, "api-keys/create", key).await;
    assert_eq!(theirs["api_key"]["team_id"], json!(other_team.0));
    let token = desk.login("ada", Some("ours")).await;
    desk.call(
        "teams/members-remove",
        json!({"team": "ours", "user": "ada"}),
    )
    .await;
    assert!(desk.is_refused(&ours).await && desk.is_refused(&token).await);
    assert!(
        !desk.is_refused(&text(&theirs["secret"])).await,
        "she is in the other team still"
    );
}

#[tokio::test]
async fn a_role_that_shrinks_takes_its_tokens_and_keys_with_it() {
    let desk = Desk::open().await;
    desk.team("ours", &["vms:read"]).await;
    let ada = desk.member("ours", "ada", "admin").await;
    let key = json!({"name": "k", "scopes": ["vms:read", "hosts:write"]});
    let key = text(&desk.call_as(&ada, "api-keys/create", key).await["secret"]);
    let token = desk.login("ada", Some("ours")).await;
    let byoc = json!({"type": "byoc"});
    for secret in [&key, &token] {
        let who = desk::identify(&desk.fleet, secret).await;
        assert_eq!(desk.code(&who, "hosts/create", byoc.clone()).await, "OK");
    }
    let shrink = json!({"team": "ours", "user": "ada", "role": "member"});
    desk.call("teams/members-set-role", shrink).await;
    for secret in [&key, &token] {
        let who = desk::identify(&desk.fleet, secret).await;
        assert_eq!(
            desk.code(&who, "hosts/create", byoc.clone()).await,
            "FORBIDDEN"
        );
        assert_eq!(desk.code(&who, "vms/list", json!({})).await, "OK");
    }
}

#[tokio::test]
async fn an_admin_who_is_none_any_more_has_keys_that_are_good_for_nothing() {
    let desk = Desk::open().await;
    let admin = json!({"name": "ada", "password": PASSWORD, "is_admin": true});
    desk.call("users/create", admin).await;
    let ada = desk.signed_in("ada", None).await;
    let key = json!({"name": "k", "scopes": ["admin"]});
    let key = text(&desk.call_as(&ada, "api-keys/create", key).await["secret"]);
    assert!(!desk.is_refused(&key).await);
    let token = desk.login("ada", None).await;
    desk.call("users/set-admin", json!({"user": "ada", "is_admin": false}))
        .await;
    assert!(desk.is_refused(&key).await);
    let now = desk::identify(&desk.fleet, &token).await;
    assert_eq!(desk.code(&now, "hosts/list", json!({})).await, "FORBIDDEN");
}

#[tokio::test]
async fn a_team_is_deleted_when_it_has_nothing_left_and_its_keys_end_with_it() {
    let desk = Desk::open().await;
    let (team, _) = desk.team("ours", &["vms:read"]).await;
    let key = json!({"name": "k", "scopes": ["vms:read"], "team_id": team});
    let key = text(&desk.call("api-keys/create", key).await["secret"]);
    let ada = desk.member("ours", "ada", "owner").await;
    let token = desk.login("ada", Some("ours")).await;
    let made = desk
        .call_as(&ada, "hosts/create", json!({"type": "byoc"}))
        .await;
    let host = StandIn::enrol_by(&desk, &text(&made["registration_token"]), 4, 4096).await;
    let vm = desk
        .call_as(&ada, "vms/create", json!({"name": "web"}))
        .await;
    let refused = desk.refusal("teams/delete", json!({"team": "ours"})).await;
    assert_eq!(
        (refused.code().as_str(), refused.code().status().as_u16()),
        ("TEAM_NOT_EMPTY", 409)
    );
    let listed = json!({"host_ids": [host.id], "vm_ids": [vm["id"]]});
    assert_eq!(refused.details(), Some(&listed));

    desk.call_as(&ada, "vms/delete", json!({"name": "web", "force": true}))
        .await;
    desk.call_as(&ada, "hosts/delete", json!({"id": host.id}))
        .await;
    desk.call("teams/delete", json!({"team": "ours"})).await;
    assert!(desk.is_refused(&key).await && desk.is_refused(&token).await);
    let gone = desk.refusal("teams/get", json!({"team": team})).await;
    assert_eq!(gone.code().as_str(), "NOT_FOUND");
    let lines = desk
        .call("audit/list", json!({"action": "team.delete"}))
        .await;
    assert_eq!(lines[0]["object"], json!(format!("{team} ours")));
}

#[tokio::test]
async fn a_team_may_be_renamed_and_allowed_to_bring_hosts() {
    let desk = Desk::open().await;
    for name in ["ours", "theirs"] {
        desk.call("teams/create", json!({"name": name})).await;
    }
    let ada = desk.member("ours", "ada", "owner").await;
    let byoc = json!({"type": "byoc"});
    assert_eq!(
        desk.code(&ada, "hosts/create", byoc.clone()).await,
        "FORBIDDEN"
    );
    let changed = json!({"team": "ours", "is_byoc": true, "name": "mine"});
    let team = desk.call("teams/update", changed).await;
    assert_eq!(
        (&team["name"], &team["is_byoc"]),
        (&json!("mine"), &json!(true))
    );
    assert_eq!(desk.code(&ada, "hosts/create", byoc).await, "OK");
    let taken = json!({"team": "mine", "name": "theirs"});
    assert_eq!(
        desk.refusal("teams/update", taken).await.code().as_str(),
        "CONFLICT"
    );
}

#[tokio::test]
async fn members_are_in_a_team_once_and_are_users() {
    let desk = Desk::open().await;
    desk.team("ours", &["vms:read"]).await;
    desk.member("ours", "ada", "member").await;
    let again = json!({"team": "ours", "user": "ada"});
    assert_eq!(
        desk.refusal("teams/members-add", again)
            .await
            .code()
            .as_str(),
        "CONFLICT"
    );
    for (operation, input) in [
        ("teams/members-add", json!({"team": "ours", "user": "eve"})),
        (
            "teams/members-remove",
            json!({"team": "ours", "user": "eve"}),
        ),
        (
            "teams/members-set-role",
            json!({"team": "ours", "user": "eve", "role": "owner"}),
        ),
    ] {
        let refused = desk.refusal(operation, input).await;
        assert_eq!(refused.code().as_str(), "NOT_FOUND", "{operation}");
    }
}
