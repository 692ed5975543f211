//! What may be wrong with a server of books, and what must hold whatever its defaults are.

use std::time::Duration;

use hostler_fleet::{Database, SharedKeys};
use serde_json::{Value, json};

use crate::cluster::{Cluster, cluster};
use crate::desk::Desk;
use crate::standin::StandIn;

async fn refusal(url: &str) -> String {
    let database: Database = url.parse().expect("a URL");
    let refused = SharedKeys::open(&database).await.err();
    refused.expect("it cannot be used").to_string()
}

#[tokio::test]
async fn a_server_that_cannot_be_used_is_named_without_its_password() {
    let nobody_listens = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = nobody_listens.local_addr().expect("an address").port();
    drop(nobody_listens);
    let away = refusal(&format!(
        "postgres://ada:open-sesame@127.0.0.1:{port}/books"
    ))
    .await;
    let wanted = format!("postgres://ada@127.0.0.1:{port}/books: the database cannot be reached");
    assert!(away.contains(&wanted), "{away}");
    assert!(!away.contains("sesame"), "{away}");

    let none = refusal(&cluster().url("no_such_database")).await;
    assert!(
        none.contains("\"no_such_database\" does not exist"),
        "{none}"
    );

    let mut db = cluster().connect("postgres").await;
    for statement in [
        "CREATE ROLE ada LOGIN PASSWORD 'open-sesame'",
        "CREATE DATABASE hers TEMPLATE template0 ENCODING 'UTF8'",
        "CREATE DATABASE latin TEMPLATE template0 ENCODING 'LATIN1' LOCALE 'C'",
    ] {
        cluster().execute(&mut db, statement).await;
    }
    let mut hers = cluster().connect("hers").await;
    let revoke = "REVOKE CREATE ON SCHEMA public FROM PUBLIC";
    cluster().execute(&mut hers, revoke).await;
    let url = cluster()
        .url("hers")
        .replace("hostler@", "ada:open-sesame@");
    let rightless = refusal(&url).await;
    assert!(rightless.contains("lacks a right"), "{rightless}");
    assert!(!rightless.contains("sesame"), "{rightless}");

    let latin = refusal(&cluster().url("latin")).await;
    assert!(
        latin.contains("its encoding is LATIN1; make one with"),
        "{latin}"
    );
}

#[tokio::test]
async fn text_is_compared_bytewise_whatever_the_locale_of_the_database() {
    let desk = Desk::open().await;
    let others = "information_schema.columns WHERE table_schema = 'public' AND data_type = 'text' \
                  AND table_name <> '_sqlx_migrations' AND collation_name IS DISTINCT FROM 'C'";
    assert_eq!(desk.count(others).await, 0);
    let all = "information_schema.columns WHERE table_schema = 'public' AND collation_name = 'C'";
    assert!(desk.count(all).await > 30, "there are columns");
}

#[tokio::test]
async fn connections_that_were_cut_are_replaced_and_nobody_notices() {
    let desk = Desk::open().await;
    let host = StandIn::enrol(&desk).await;
    for _ in 0..3 {
        desk.call("hosts/list", json!({})).await;
        let cut = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
                   WHERE datname = current_database() AND pid <> pg_backend_pid()";
        desk.execute(cut).await;
        // Whatever lay idle for a tenth of a second is asked first whether it lives.
        tokio::time::sleep(Duration::from_millis(200)).await;
        desk.call("hosts/create", json!({})).await;
        desk.call("hosts/list", json!({})).await;
        host.heartbeat(&desk, Value::Null).await;
    }
}

#[tokio::test]
async fn a_heartbeat_that_changes_nothing_waits_for_no_other_change() {
    let desk = Desk::open().await;
    let host = StandIn::enrol(&desk).await;
    desk.tamper("UPDATE hosts SET last_heartbeat_at = 1").await;
    let mut other = desk.on_the_server().await;
    let begin = "BEGIN; SELECT pg_advisory_xact_lock(4848390912774)";
    cluster().execute(&mut other, begin).await;
    let beat = host.heartbeat(&desk, Value::Null);
    tokio::time::timeout(Duration::from_secs(5), beat)
        .await
        .expect("it does not wait");
    assert_eq!(desk.count("hosts WHERE last_heartbeat_at > 1").await, 1);
    // Whoever writes does.
    let create = desk.call("hosts/create", json!({}));
    let waited = tokio::time::timeout(Duration::from_secs(1), create).await;
    assert!(waited.is_err(), "two wrote at once");
    cluster().execute(&mut other, "ROLLBACK").await;
    desk.call("hosts/create", json!({})).await;
}

#[tokio::test]
async fn while_the_server_is_away_callers_are_told_to_try_again() {
    let own = Cluster::start();
    let dir = tempfile::tempdir().expect("a directory");
    let url = own.database().await;
    std::fs::write(dir.path().join("database-url"), url).expect("noted");
    let desk = Desk::open_existing(dir.path()).await;
    desk.pending().await;
    own.stop();
    let calls = ["hosts/list", "hosts/create"].map(|name| desk.refusal(name, json!({})));
    for refused in futures::future::join_all(calls).await {
        assert_eq!(refused.code().as_str(), "STORAGE_UNAVAILABLE", "{refused}");
        assert!(refused.code().is_retryable());
    }
}
