//! What breaks, and what must hold when it does.

use serde_json::Value;
use std::path::Path;

use crate::support::{Plane, SmallDisk, free_port, hostler, wait_for};

/// A host's token, and the host.
fn announced(plane: &Plane) -> (String, String) {
    let created = plane.ask(&["host", "create"]);
    let text = |value: &Value| value.as_str().expect("text").to_owned();
    (
        text(&created["registration_token"]),
        text(&created["host"]["id"]),
    )
}

fn register(plane: &Plane, token: &str) -> u16 {
    let body = serde_json::json!({ "token": token, "address": "127.0.0.1:9" }).to_string();
    plane
        .curl(None, &["--json", &body], "/v1/hosts/register")
        .status
}

fn status_of(plane: &Plane, host: &str) -> String {
    plane.ask(&["host", "show", host])["status"]
        .as_str()
        .expect("a status")
        .to_owned()
}

#[test]
fn a_server_killed_during_a_registration_leaves_a_token_or_a_host_and_never_both() {
    for (point, enrolled) in [
        ("register.before-commit", false),
        ("register.after-commit", true),
    ] {
        let mut plane = Plane::start_with(&[("HOSTLER_FAULT_POINT", point)]);
        let (token, host) = announced(&plane);
        assert_eq!(
            register(&plane, &token),
            0,
            "{point}: it answered and should have died"
        );
        let mut daemon = plane.daemon().take();
        let ended = wait_for("the server's death", || daemon.take().map(|d| d.end()));
        assert_eq!(
            ended.0, None,
            "{point}: it was not killed but ended: {}",
            ended.1
        );

        plane.restart(&[]);
        if enrolled {
            assert_eq!(status_of(&plane, &host), "online");
            assert_eq!(
                register(&plane, &token),
                401,
                "{point}: the token lives beside its host"
            );
        } else {
            assert_eq!(status_of(&plane, &host), "pending");
            assert_eq!(
                register(&plane, &token),
                201,
                "{point}: neither token nor host is left"
            );
        }
    }
}

#[test]
fn of_many_racing_registrations_one_wins() {
    let plane = Plane::start();
    let (token, host) = announced(&plane);
    let answers: Vec<u16> = std::thread::scope(|scope| {
        let racers: Vec<_> = (0..12)
            .map(|_| scope.spawn(|| register(&plane, &token)))
            .collect();
        racers
            .into_iter()
            .map(|racer| racer.join().expect("no panic"))
            .collect()
    });
    assert_eq!(
        answers.iter().filter(|status| **status == 201).count(),
        1,
        "{answers:?}"
    );
    assert!(
        answers.iter().all(|status| [201, 401].contains(status)),
        "{answers:?}"
    );
    assert_eq!(status_of(&plane, &host), "online");
}

#[test]
fn an_old_token_dies_when_a_new_one_is_made() {
    let plane = Plane::start();
    let (old, host) = announced(&plane);
    let answer = plane.ask(&["host", "token", &host]);
    let new = answer["registration_token"].as_str().expect("a token");
    assert_eq!(register(&plane, &old), 401);
    assert_eq!(register(&plane, new), 201);
    assert!(plane.refused(&["host", "token", &host]).contains("409"));
}

/// Starts a server on this directory, which must fail; its complaint.
fn server_fails_on(directory: &Path) -> String {
    let output = hostler()
        .args(["server", "--listen", &format!("127.0.0.1:{}", free_port())])
        .args([
            "--fleet-listen",
            &format!("127.0.0.1:{}", free_port()),
            "--data-dir",
        ])
        .arg(directory)
        .output()
        .expect("it runs");
    assert_eq!(output.status.code(), Some(1));
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    let complaints = told.lines().filter(|line| line.starts_with("error: "));
    let complaints: Vec<&str> = complaints.collect();
    assert_eq!(complaints.len(), 1, "one line that says why: {told}");
    complaints[0].to_owned()
}

#[test]
fn an_unusable_data_directory_is_named_in_the_error() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("file");
    std::fs::write(&file, "in the way").expect("written");
    let told = server_fails_on(&file.join("data"));
    assert!(told.contains(file.to_str().expect("text")), "{told}");

    let garbage = directory.path().join("garbage");
    std::fs::create_dir(&garbage).expect("made");
    std::fs::write(
        garbage.join("hostler.db"),
        "this is no database, whatever its name",
    )
    .expect("written");
    let told = server_fails_on(&garbage);
    assert!(told.contains("hostler.db"), "{told}");
}

#[test]
fn a_port_in_use_is_named_in_the_error() {
    let directory = tempfile::tempdir().expect("a directory");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("its address").to_string();
    let output = hostler()
        .args(["server", "--listen", &address, "--data-dir"])
        .arg(directory.path())
        .output()
        .expect("it runs");
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1));
    assert!(told.contains(&address), "{told}");
}

#[test]
fn a_server_on_a_full_disk_says_so_and_starts_when_there_is_room() {
    let Some(disk) = SmallDisk::mount("16k") else {
        return;
    };
    let data = disk.path().join("server");
    let told = server_fails_on(&data);
    assert!(
        told.contains("No space left") || told.contains("full"),
        "{told}"
    );
    disk.resize("64m");
    let mut plane = Plane::start_in(data);
    assert_eq!(plane.curl(Some(plane.key()), &[], "/v1/hosts").status, 200);
    plane.daemon().take();
}

#[test]
fn a_host_on_a_full_disk_refuses_and_keeps_nothing_half() {
    let Some(disk) = SmallDisk::mount("24m") else {
        return;
    };
    let plane = Plane::start();
    let mut agent = plane.enrol_in(disk.path().join("agent"));
    let told = plane.refused(&["image", "pull"]);
    assert!(told.contains("space") || told.contains("full"), "{told}");
    assert_eq!(plane.ask(&["image", "list"]), serde_json::json!([]));
    assert_eq!(plane.ask(&["kernel", "list"]), serde_json::json!([]));

    disk.resize("1g");
    plane.ask(&["image", "pull"]);
    let images = plane.ask(&["image", "list"]);
    assert_eq!(images.as_array().map(Vec::len), Some(1), "{images}");
    agent.daemon().take();
}

#[test]
fn a_registry_that_is_away_is_not_the_callers_mistake() {
    let plane = Plane::start();
    let agent = plane.enrol("host");
    let path = format!("/v1/hosts/{}/images/import", agent.id);
    let nobody = r#"{"source":"127.0.0.1:1/nobody:1","name":"a"}"#;
    let answer = plane.curl(Some(plane.key()), &["--json", nobody], &path);
    assert_eq!(
        (answer.status, answer.code().as_str()),
        (502, "registry_unavailable"),
        "{answer:?}"
    );
    assert!(answer.message().contains("cannot be reached"), "{answer:?}");
    assert_eq!(answer.json()["error"]["retryable"], true);
}
