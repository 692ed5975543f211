//! A host that nobody can dial: it keeps a connection of its own, and everything works over that as
//! over one that was dialled.

use std::process::Output;
use std::time::{Duration, Instant};

use crate::postgres::Postgres;
use crate::support::{Plane, Stopwatch, free_port, wait_for};

/// From the return of a server until a host is reached again.
const SOON: Duration = Duration::from_secs(10);

fn text(output: &Output) -> String {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// How long it takes until this succeeds.
fn until(plane: &Plane, arguments: &[&str]) -> Duration {
    let watch = Stopwatch::start();
    wait_for(&arguments.join(" "), || {
        plane.cli(arguments).status.success().then_some(())
    });
    watch.elapsed()
}

#[test]
fn a_host_that_nobody_can_dial_does_everything_over_a_connection_of_its_own() {
    let mut plane = Plane::start();
    let mut agent = plane.enrol_without_address("host");
    let host = plane.ask(&["host", "show", &agent.id]);
    assert!(host.get("address").is_none(), "{host}");
    let listed = text(&plane.cli(&["host", "list"]));
    assert!(listed.contains("reverse"), "{listed}");
    until(&plane, &["host", "status", &agent.id]);

    plane.ask(&["image", "pull"]);
    plane.ask(&["vm", "create", "demo", "--memory-mb", "256", "--start"]);
    let said = text(&plane.cli(&["vm", "exec", "demo", "--", "echo", "over", "there"]));
    assert_eq!(said, "over there");
    // More than fits on its way at once.
    let many = ["vm", "exec", "demo", "--", "seq", "1", "200000"];
    let said = text(&plane.cli(&many));
    assert_eq!(said.lines().count(), 200_000);
    assert!(said.ends_with("200000"));

    // The server goes and comes back: the host finds it, and its VM has run on.
    plane.restart(&[]);
    let took = until(&plane, &["vm", "exec", "demo", "--", "true"]);
    assert!(took < SOON, "reached again after {took:?}");

    // It gets an address, and loses it again: what it is started with holds.
    for door in [free_port(), 0] {
        agent.daemon().take().expect("it runs").stop();
        agent.door = door;
        agent.launch(&plane, None);
        let host = plane.ask(&["host", "show", &agent.id]);
        let expected = (door != 0).then(|| format!("127.0.0.1:{door}"));
        assert_eq!(host["address"].as_str(), expected.as_deref());
        until(&plane, &["vm", "exec", "demo", "--", "true"]);
    }
    plane.ask(&["vm", "delete", "demo", "--force"]);

    // It is out like any other.
    plane.ask(&["host", "delete", &agent.id]);
    let log = wait_for("the agent ends", || {
        let daemon = agent.daemon().take()?;
        Some(daemon.end().1)
    });
    assert!(log.contains("there is no host"), "{log}");
}

#[test]
fn a_call_finds_the_server_that_holds_the_hosts_connection() {
    let books = Postgres::start(&["fsync=off", "max_connections=100"]);
    let one = Plane::start_with(&[("HOSTLER_DATABASE_URL", &books.url("postgres"))]);
    let mut other = one.replica();
    let agent = one.enrol_without_address("host");
    let status = ["host", "status", &agent.id, "--output", "json"];
    until(&one, &status);
    // It is not connected here, and nobody can dial it.
    let said = text(&other.cli(&status));
    assert!(said.contains("qemu"), "{said}");
    // Whoever has stopped and started again passes nothing on, and finds the other one.
    let environment = [("HOSTLER_DATABASE_URL", books.url("postgres"))];
    let environment: Vec<(&str, &str)> = environment.iter().map(|(n, v)| (*n, &**v)).collect();
    other.restart(&environment);
    text(&other.cli(&status));
    drop(one);
    // The host knows of no other server, so it cannot be reached; and that is said.
    let told = other.refused(&status[..3]);
    assert!(told.contains("cannot be reached"), "{told}");
}

#[test]
fn a_connection_is_followed_by_another_before_its_certificate_ends() {
    let plane = Plane::start_with(&[("HOSTLER_SVID_TTL", "10")]);
    let agent = plane.enrol_without_address("host");
    let status = ["host", "status", &agent.id];
    until(&plane, &status);
    // Beyond the life of the certificate with which it connected, twice.
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(25) {
        text(&plane.cli(&status));
    }
}
