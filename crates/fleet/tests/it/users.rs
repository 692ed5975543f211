//! Users: logging in and out, what a token is worth, and when it ends.

use std::collections::BTreeSet;

use hostler_fleet::IdentifyError;
use hostler_operations::{CallError, Grants, Identity, Scope};
use secrecy::SecretString;
use serde_json::{Value, json};

use crate::desk::{self, Desk, text};
use crate::standin::StandIn;

pub(crate) const PASSWORD: &str = "correct horse battery";

impl Desk {
    /// A user, made by the administrator; their id.
    pub(crate) async fn user(&self, name: &str) -> String {
        let user = json!({"name": name, "password": PASSWORD});
        text(&self.call("users/create", user).await["id"])
    }

    /// Logs in as this user from an address of theirs.
    pub(crate) async fn try_login(&self, login: Value) -> Result<Value, CallError> {
        self.call_from("192.0.2.10:4000", "auth/login", login).await
    }

    /// The token of a user who logs in and must be let in.
    pub(crate) async fn login(&self, name: &str, team: Option<&str>) -> String {
        let login = json!({"name": name, "password": PASSWORD, "team": team});
        text(&self.try_login(login).await.expect("they are let in")["token"])
    }

    /// A user who has logged in.
    pub(crate) async fn signed_in(&self, name: &str, team: Option<&str>) -> Identity {
        let token = self.login(name, team).await;
        desk::identify(&self.fleet, &token).await
    }

    pub(crate) async fn is_refused(&self, bearer: &str) -> bool {
        let bearer: SecretString = bearer.into();
        let found = self.fleet.identify(Some(&bearer), None, None).await;
        matches!(found, Err(IdentifyError::Refused))
    }
}

fn scopes(identity: &Identity) -> BTreeSet<String> {
    match identity.grants() {
        Grants::All => BTreeSet::from(["admin".to_owned()]),
        Grants::Only(scopes) => scopes.iter().map(Scope::to_string).collect(),
    }
}

#[tokio::test]
async fn a_user_logs_in_and_is_who_they_say() {
    let desk = Desk::open().await;
    let admin = json!({"name": "ada", "password": PASSWORD, "is_admin": true});
    let ada = desk.call("users/create", admin).await;
    let login = json!({"name": "ada", "password": PASSWORD});
    let answer = desk.try_login(login).await.expect("she is let in");
    assert_eq!(answer["user"], ada);
    let token = desk::identify(&desk.fleet, &text(&answer["token"])).await;
    assert_eq!(token.subject(), text(&ada["id"]));
    assert_eq!(token.grants(), &Grants::All);
    let me = desk.call_as(&token, "users/me", json!({})).await;
    assert_eq!((&me["user"], &me["scopes"]), (&ada, &json!(["admin"])));
    // What she does is hers in the books.
    let host = desk.call_as(&token, "hosts/create", json!({})).await;
    assert_eq!(host["host"]["created_by"], ada["id"]);
}

#[tokio::test]
async fn an_unknown_name_and_a_wrong_password_get_the_same_answer() {
    let desk = Desk::open().await;
    let id = desk.user("ada").await;
    let mut answers = Vec::new();
    for (name, password) in [
        ("ada", "wrong horse battery"),
        ("eve", PASSWORD),
        ("eve", "wrong horse battery"),
        (&id, PASSWORD),
    ] {
        let login = json!({"name": name, "password": password});
        let refused = desk.try_login(login).await.expect_err("nobody is let in");
        let code = refused.code();
        answers.push((code.as_str().to_owned(), code.status(), refused.to_string()));
    }
    answers.dedup();
    assert_eq!(answers.len(), 1, "{answers:?}");
    assert_eq!(
        (answers[0].0.as_str(), answers[0].1.as_u16()),
        ("UNAUTHORIZED", 401)
    );
}

#[tokio::test]
async fn a_name_cannot_be_guessed_at_without_end_and_others_get_in_meanwhile() {
    let desk = Desk::open().await;
    for name in ["ada", "eve"] {
        desk.user(name).await;
    }
    let wrong = json!({"name": "ada", "password": "wrong horse battery"});
    let mut codes = Vec::new();
    for _ in 0..12 {
        let refused = desk
            .try_login(wrong.clone())
            .await
            .expect_err("it is wrong");
        codes.push(refused.code().as_str().to_owned());
    }
    assert_eq!(&codes[..10], ["UNAUTHORIZED"; 10]);
    assert_eq!(&codes[10..], ["RATE_LIMITED"; 2]);
    let right = json!({"name": "ada", "password": PASSWORD});
    let refused = desk
        .try_login(right)
        .await
        .expect_err("it could be a guess");
    assert_eq!(refused.code().status().as_u16(), 429);
    assert!(refused.code().is_retryable());
    let wait = refused.details().expect("details")["retry_after_secs"].as_u64();
    assert!(wait.is_some_and(|wait| (1..=6).contains(&wait)), "{wait:?}");
    assert!(!desk.is_refused(&desk.login("eve", None).await).await);
    // The same of a name that nobody has.
    let nobody = json!({"name": "nobody", "password": "wrong horse battery"});
    let from = |n: u32| format!("192.0.2.20:{}", 4000 + n);
    let mut limited = 0;
    for n in 0..12 {
        let refused = desk.call_from(&from(n), "auth/login", nobody.clone()).await;
        let refused = refused.expect_err("nobody");
        limited += usize::from(refused.code().as_str() == "RATE_LIMITED");
    }
    assert_eq!(limited, 2);
}

#[tokio::test]
async fn who_logs_in_rightly_may_do_so_as_often_as_they_like() {
    let desk = Desk::open().await;
    desk.user("ada").await;
    for _ in 0..12 {
        desk.login("ada", None).await;
    }
}

#[tokio::test]
async fn a_user_in_no_team_may_do_nothing_but_look_who_they_are() {
    let desk = Desk::open().await;
    let id = desk.user("ada").await;
    let ada = desk.signed_in("ada", None).await;
    assert_eq!(scopes(&ada), BTreeSet::from(["user:self".to_owned()]));
    let me = desk.call_as(&ada, "users/me", json!({})).await;
    assert_eq!((&me["user"]["id"], &me["teams"]), (&json!(id), &json!([])));
    for (operation, input) in [
        ("vms/list", json!({})),
        ("users/list", json!({})),
        (
            "api-keys/create",
            json!({"name": "k", "scopes": ["vms:read"]}),
        ),
        ("teams/list", json!({})),
    ] {
        let refused = desk.refusal_as(&ada, operation, input).await;
        assert_eq!(refused.code().as_str(), "FORBIDDEN", "{operation}");
    }
}

#[tokio::test]
async fn a_token_is_for_the_team_that_was_named_or_the_only_one() {
    let desk = Desk::open().await;
    desk.user("ada").await;
    let (one, _) = desk.team("one", &["vms:read"]).await;
    let member = |team: &str| json!({"team": team, "user": "ada"});
    desk.call("teams/members-add", member("one")).await;
    let ada = desk.signed_in("ada", None).await;
    let team_of = async |who: &Identity| {
        let me = desk.call_as(who, "users/me", json!({})).await;
        me["team_id"].clone()
    };
    assert_eq!(team_of(&ada).await, json!(one));

    let (other, _) = desk.team("other", &["vms:read"]).await;
    desk.call("teams/members-add", member("other")).await;
    let unclear = json!({"name": "ada", "password": PASSWORD});
    let refused = desk.try_login(unclear).await.expect_err("which?");
    assert_eq!(refused.code().as_str(), "TEAM_REQUIRED");
    assert_eq!(refused.details(), Some(&json!({"teams": ["one", "other"]})));
    let for_other = desk.signed_in("ada", Some("other")).await;
    assert_eq!(team_of(&for_other).await, json!(other));
    let by_id = desk.signed_in("ada", Some(&one)).await;
    assert_eq!(team_of(&by_id).await, json!(one));

    desk.team("strange", &["vms:read"]).await;
    for strange in ["strange", "no such team"] {
        let login = json!({"name": "ada", "password": PASSWORD, "team": strange});
        let refused = desk.try_login(login).await.expect_err("not hers");
        let said = refused.to_string().replace(strange, "NAME");
        assert_eq!(said, "you are in no team \"NAME\"");
    }
}

#[tokio::test]
async fn an_admin_who_logs_in_for_a_team_sees_that_team_and_no_more() {
    let desk = Desk::open().await;
    let admin = json!({"name": "ada", "password": PASSWORD, "is_admin": true});
    desk.call("users/create", admin).await;
    let (ours, _) = desk.team("ours", &["vms:read"]).await;
    desk.team("theirs", &["vms:read"]).await;
    desk.pending().await;
    let ada = desk.signed_in("ada", Some("ours")).await;
    assert_eq!(desk.call_as(&ada, "hosts/list", json!({})).await, json!([]));
    let teams = desk.call_as(&ada, "teams/list", json!({})).await;
    assert_eq!(
        (teams.as_array().map(Vec::len), &teams[0]["id"]),
        (Some(1), &json!(ours))
    );
    let key = json!({"name": "k", "scopes": ["admin"]});
    let refused = desk.refusal_as(&ada, "api-keys/create", key).await;
    assert_eq!(refused.code().as_str(), "FORBIDDEN");
}

#[tokio::test]
async fn another_password_ends_all_tokens_and_the_old_password() {
    let desk = Desk::open().await;
    desk.user("ada").await;
    let (one, two) = (desk.login("ada", None).await, desk.login("ada", None).await);
    let ada = desk::identify(&desk.fleet, &one).await;
    let change = |current: &str| json!({"current": current, "new": "another horse battery"});
    let wrong = desk
        .refusal_as(&ada, "users/change-password", change("wrong horse"))
        .await;
    assert_eq!(wrong.code().as_str(), "FORBIDDEN");
    assert!(!desk.is_refused(&one).await, "nothing has changed");
    desk.call_as(&ada, "users/change-password", change(PASSWORD))
        .await;
    assert!(desk.is_refused(&one).await && desk.is_refused(&two).await);
    let old = json!({"name": "ada", "password": PASSWORD});
    desk.try_login(old).await.expect_err("it is the old one");
    let new = json!({"name": "ada", "password": "another horse battery"});
    let token = text(&desk.try_login(new).await.expect("it is the new one")["token"]);

    let reset = json!({"user": "ada", "password": PASSWORD});
    desk.call("users/set-password", reset).await;
    assert!(desk.is_refused(&token).await);
    desk.login("ada", None).await;
}

#[tokio::test]
async fn a_logout_ends_all_tokens_of_one_user_and_of_no_other() {
    let desk = Desk::open().await;
    for name in ["ada", "eve"] {
        desk.user(name).await;
    }
    let (one, two) = (desk.login("ada", None).await, desk.login("ada", None).await);
    let other = desk.login("eve", None).await;
    let ada = desk::identify(&desk.fleet, &one).await;
    desk.call_as(&ada, "auth/logout", json!({})).await;
    assert!(desk.is_refused(&one).await && desk.is_refused(&two).await);
    assert!(!desk.is_refused(&other).await);
    assert!(!desk.is_refused(&desk.login("ada", None).await).await);
}

#[tokio::test]
async fn a_user_who_is_deleted_is_out_with_their_tokens_and_keys() {
    let desk = Desk::open().await;
    let id = desk.user("ada").await;
    let (team, _) = desk.team("ours", &["vms:read"]).await;
    let owner = json!({"team": team, "user": "ada", "role": "owner"});
    desk.call("teams/members-add", owner).await;
    let token = desk.login("ada", None).await;
    let ada = desk::identify(&desk.fleet, &token).await;
    let key = json!({"name": "k", "scopes": ["vms:read", "keys:write"]});
    let key = desk.call_as(&ada, "api-keys/create", key).await;
    assert_eq!(key["api_key"]["user_id"], json!(id));
    let key = text(&key["secret"]);
    let by_key = desk::identify(&desk.fleet, &key).await;
    let child = json!({"name": "child", "scopes": ["vms:read"]});
    let child = desk.call_as(&by_key, "api-keys/create", child).await;
    assert_eq!(
        child["api_key"]["user_id"],
        json!(id),
        "a key of hers makes keys of hers"
    );
    desk.call("users/delete", json!({"user": "ada"})).await;
    for secret in [&token, &key, &text(&child["secret"])] {
        assert!(desk.is_refused(secret).await);
    }
    let left = desk
        .count(&format!("api_keys WHERE user_id = '{id}'"))
        .await;
    assert_eq!(left + desk.count("members").await, 0);
    let gone = desk.refusal("users/get", json!({"user": id})).await;
    assert_eq!(gone.code().as_str(), "NOT_FOUND");
    // Whoever gets the name is somebody else.
    desk.user("ada").await;
    assert!(desk.is_refused(&token).await && desk.is_refused(&key).await);
}

#[tokio::test]
async fn a_password_is_kept_as_argon2id_and_shown_nowhere() {
    let desk = Desk::open().await;
    desk.user("ada").await;
    let kept = "users WHERE password LIKE '$argon2id$v=19$m=19456,t=2,p=1$%'";
    assert_eq!(desk.count(kept).await, 1);
    let seen = [
        desk.call("users/list", json!({})).await,
        desk.call("users/get", json!({"user": "ada"})).await,
        desk.call("audit/list", json!({})).await,
    ];
    for answer in seen {
        let answer = answer.to_string();
        assert!(
            !answer.contains("argon2") && !answer.contains("horse"),
            "{answer}"
        );
    }
    for short in ["", "eleven char"] {
        let user = json!({"name": "eve", "password": short});
        let refused = desk.refusal("users/create", user).await;
        assert_eq!(refused.code().as_str(), "INVALID_INPUT");
        assert!(
            short.is_empty() || !format!("{refused:?}").contains(short),
            "{refused:?}"
        );
    }
}

#[tokio::test]
async fn a_hash_with_less_work_in_it_is_made_anew_at_the_next_login() {
    let desk = Desk::open().await;
    desk.user("ada").await;
    desk.tamper(&format!("UPDATE users SET password = '{WEAK}'"))
        .await;
    desk.login("ada", None).await;
    assert_eq!(
        desk.count("users WHERE password LIKE '%$m=19456,t=2,p=1$%'")
            .await,
        1
    );
    desk.login("ada", None).await;
}

/// The same password with m = 8 MiB and t = 1, by another implementation (argon2-cffi).
const WEAK: &str = "$argon2id$v=19$m=8192,t=1,p=1$aML3ne1AaTz0mjD/g05qSw$TUxMfPY3e9XoeJu1F3hTn8WBXIbE8ZgAXeXJ0QVQyj0";

#[tokio::test]
async fn each_verifier_refuses_the_others_tokens() {
    let desk = Desk::open().await;
    desk.user("ada").await;
    let token = desk.login("ada", None).await;
    let host = StandIn::enrol(&desk).await;
    assert!(
        desk.is_refused(&host.host_token).await,
        "a host's is no user's"
    );
    let as_host = desk
        .fleet
        .identify(None, Some(&token.as_str().into()), None)
        .await;
    assert!(
        matches!(as_host, Err(IdentifyError::Refused)),
        "a user's is no host's"
    );
    let desk = desk.reopen().await;
    assert!(
        !desk.is_refused(&token).await,
        "the keys that sign are in the books"
    );
}

#[tokio::test]
async fn the_last_who_may_do_everything_stays() {
    let desk = Desk::open().await;
    let keys = desk.call("api-keys/list", json!({})).await;
    let first_key = json!({"id": keys[0]["id"]});
    let admin = json!({"name": "ada", "password": PASSWORD, "is_admin": true});
    desk.call("users/create", admin).await;
    let ada = desk.signed_in("ada", None).await;
    desk.call_as(&ada, "api-keys/delete", first_key).await;
    for (operation, input) in [
        ("users/delete", json!({"user": "ada"})),
        ("users/set-admin", json!({"user": "ada", "is_admin": false})),
    ] {
        let refused = desk.refusal_as(&ada, operation, input).await;
        assert_eq!(refused.code().as_str(), "CONFLICT", "{operation}");
    }
    // A start makes no key where an admin can log in.
    let token = desk.login("ada", None).await;
    let desk = desk.reopen().await;
    assert!(desk.first_key.is_none());
    let ada = desk::identify(&desk.fleet, &token).await;
    // A key of hers is not the platform's: it would go with her.
    let key = json!({"name": "mine", "scopes": ["admin"]});
    desk.call_as(&ada, "api-keys/create", key).await;
    let refused = desk
        .refusal_as(&ada, "users/delete", json!({"user": "ada"}))
        .await;
    assert_eq!(refused.code().as_str(), "CONFLICT");
    let key = json!({"name": "ours", "scopes": ["admin"], "of_platform": true});
    let made = desk.call_as(&ada, "api-keys/create", key).await;
    assert!(made["api_key"].get("user_id").is_none(), "{made}");
    desk.call_as(&ada, "users/delete", json!({"user": "ada"}))
        .await;
    assert!(!desk.is_refused(&text(&made["secret"])).await);
}

#[tokio::test]
async fn only_who_may_do_everything_makes_admins_or_sets_passwords() {
    let desk = Desk::open().await;
    desk.user("eve").await;
    let admin = json!({"name": "ada", "password": PASSWORD, "is_admin": true});
    desk.call("users/create", admin).await;
    let clerk = json!({"name": "clerk", "scopes": ["users:write", "users:read"]});
    let clerk = desk.holder(clerk).await;
    let plain = json!({"name": "bob", "password": PASSWORD});
    desk.call_as(&clerk, "users/create", plain).await;
    desk.call_as(&clerk, "users/delete", json!({"user": "bob"}))
        .await;
    for (operation, input) in [
        (
            "users/create",
            json!({"name": "mal", "password": PASSWORD, "is_admin": true}),
        ),
        ("users/set-admin", json!({"user": "eve", "is_admin": true})),
        (
            "users/set-password",
            json!({"user": "eve", "password": PASSWORD}),
        ),
        ("users/delete", json!({"user": "ada"})),
    ] {
        let refused = desk.refusal_as(&clerk, operation, input).await;
        assert_eq!(refused.code().as_str(), "FORBIDDEN", "{operation}");
    }
    let (_, team) = desk.team("ours", &["users:write", "users:read"]).await;
    let refused = desk
        .refusal_as(&team, "users/get", json!({"user": "eve"}))
        .await;
    assert_eq!(refused.code().as_str(), "NOT_FOUND", "a team sees no users");
    assert_eq!(
        desk.call_as(&team, "users/list", json!({})).await,
        json!([])
    );
}

#[tokio::test]
async fn refused_logins_are_in_the_trail_and_what_was_typed_is_not() {
    let desk = Desk::open().await;
    let id = desk.user("ada").await;
    for name in ["ada", "my password in the wrong field"] {
        let login = json!({"name": name, "password": "wrong horse battery"});
        desk.try_login(login).await.expect_err("it is wrong");
    }
    desk.login("ada", None).await;
    let lines = desk
        .call("audit/list", json!({"action": "auth.login"}))
        .await;
    let seen: Vec<[&Value; 4]> = lines
        .as_array()
        .expect("lines")
        .iter()
        .map(|line| ["subject", "object", "outcome", "remote"].map(|field| &line[field]))
        .collect();
    let from = json!("192.0.2.10");
    assert_eq!(
        seen,
        [
            [&json!("nobody"), &json!(id), &json!("refused"), &from],
            [
                &json!("nobody"),
                &json!("unknown"),
                &json!("refused"),
                &from
            ],
            [&json!(id), &json!("-"), &json!("done"), &from],
        ]
    );
    assert!(
        !desk
            .call("audit/list", json!({}))
            .await
            .to_string()
            .contains("wrong")
    );
}

#[tokio::test]
async fn a_list_of_keys_tells_when_each_was_last_used_to_the_hour() {
    let desk = Desk::open().await;
    let key = json!({"name": "k", "scopes": ["vms:read"]});
    let made = desk.call("api-keys/create", key).await;
    let last_use = async || {
        let keys = desk.call("api-keys/list", json!({})).await;
        let keys = keys.as_array().expect("keys").clone();
        let of = |key: &&Value| key["id"] == made["api_key"]["id"];
        keys.iter().find(of).expect("it is there")["last_used_at"].clone()
    };
    assert_eq!(last_use().await, Value::Null);
    assert!(!desk.is_refused(&text(&made["secret"])).await);
    let used = text(&last_use().await);
    assert!(used.ends_with(":00:00Z"), "{used}");
}
