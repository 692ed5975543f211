//! The books: private, durable, and clear about what is wrong with them.

use std::os::unix::fs::PermissionsExt;

use hostler_authority::Authority;
use hostler_fleet::{Config, Database, Fleet, OpenError};
use hostler_identity::TrustDomain;
use serde_json::json;

use crate::desk::{Desk, TRUST_DOMAIN, text};

#[tokio::test]
async fn what_was_acknowledged_is_there_after_a_restart() {
    let desk = Desk::open().await;
    let made = desk.call("hosts/create", json!({"tags": ["ssd"]})).await;
    let admin = desk.admin.clone();
    let desk = desk.reopen().await;
    let host = desk
        .call_as(&admin, "hosts/get", json!({"id": made["host"]["id"]}))
        .await;
    assert_eq!(host, made["host"]);
    let token = text(&made["registration_token"]);
    let registered = desk
        .try_call("hosts/register", None, crate::desk::machine(&token))
        .await;
    let host_token = text(&registered.expect("registered")["token"]).into();
    let desk = desk.reopen().await;
    let known = desk.fleet.identify(None, Some(&host_token), None).await;
    known
        .expect("the signing key is still the same")
        .expect("an identity");
}

#[tokio::test]
async fn nobody_else_may_read_the_books() {
    let desk = Desk::open().await;
    desk.pending().await;
    let Database::Sqlite(books) = desk.books.clone() else {
        return; // Who may read them is the server's affair.
    };
    let mode = |path: &std::path::Path| {
        std::fs::metadata(path)
            .expect("it exists")
            .permissions()
            .mode()
            & 0o777
    };
    assert_eq!(mode(books.parent().expect("a directory")), 0o700);
    for file in std::fs::read_dir(books.parent().expect("a directory")).expect("readable") {
        let path = file.expect("a file").path();
        assert_eq!(mode(&path), 0o600, "{}", path.display());
    }
}

#[tokio::test]
async fn secrets_are_not_in_the_books() {
    let desk = Desk::open().await;
    let (_, token) = desk.pending().await;
    let key = desk.first_key.clone().expect("a key");
    for secret in [token.as_str(), key.reveal()] {
        for table in ["registration_tokens", "api_keys"] {
            let rows = desk
                .count(&format!("{table} WHERE hash = '{secret}'"))
                .await;
            assert_eq!(rows, 0, "a secret is in {table}");
        }
    }
    let Database::Sqlite(file) = &desk.books else {
        return;
    };
    desk.fleet.close().await;
    let books = std::fs::read(file).expect("readable");
    for secret in [token.as_str(), key.reveal()] {
        let found = books
            .windows(secret.len())
            .any(|window| window == secret.as_bytes());
        assert!(!found, "a secret is in the books");
    }
}

async fn open_at(database: Database) -> OpenError {
    let dir = tempfile::tempdir().expect("a directory");
    let domain = TrustDomain::new(TRUST_DOMAIN).expect("a trust domain");
    let authority = Authority::open(dir.path(), domain).expect("an authority");
    let own_id = format!("spiffe://{TRUST_DOMAIN}/control-plane/1")
        .parse()
        .expect("an id");
    let source = authority.source(&own_id).expect("an identity");
    let config = Config {
        database,
        machines_url: "https://127.0.0.1:8444".into(),
        replica_url: "https://127.0.0.1:8444".into(),
        redis: None,
        federation: Vec::new(),
    };
    Fleet::open(config, authority, source)
        .await
        .err()
        .expect("it cannot be opened")
}

#[tokio::test]
async fn what_is_no_database_is_named_and_left_alone() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("fleet.db");
    let letter = "Dear diary, ".repeat(1000);
    std::fs::write(&path, &letter).expect("written");
    let error = open_at(Database::Sqlite(path.clone())).await.to_string();
    assert!(
        error.contains("fleet.db") && error.contains("damaged"),
        "{error}"
    );
    assert_eq!(std::fs::read_to_string(&path).expect("readable"), letter);
}

#[tokio::test]
async fn a_directory_that_cannot_be_made_is_named() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("not-a-directory");
    std::fs::write(&file, "").expect("written");
    let error = open_at(Database::Sqlite(file.join("fleet.db")))
        .await
        .to_string();
    assert!(
        error.contains("not-a-directory") && error.contains("choose another"),
        "{error}"
    );
}

#[tokio::test]
async fn books_of_a_newer_version_are_not_touched() {
    let desk = Desk::open().await;
    desk.tamper(
        "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time)
         VALUES (9999, 'from the future', TRUE, '\\x00', 0)",
    )
    .await;
    desk.fleet.close().await;
    let error = open_at(desk.books.clone()).await.to_string();
    assert!(error.contains("newer version"), "{error}");
}
