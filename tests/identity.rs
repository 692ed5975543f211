//! Identities that renew themselves, seen from outside.

use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::Value;

use crate::support::{Agent, Plane, wait_for};

/// The serial number of the certificate that this port presents, as openssl reads it.
fn serial(port: u16) -> Option<String> {
    let handshake = Command::new("openssl")
        .args([
            "s_client",
            "-connect",
            &format!("127.0.0.1:{port}"),
            "-showcerts",
        ])
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output()
        .expect("openssl runs");
    let text = String::from_utf8_lossy(&handshake.stdout).into_owned();
    let begin = text.find("-----BEGIN CERTIFICATE-----")?;
    let certificate = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(certificate.path(), &text[begin..]).expect("written");
    let read = Command::new("openssl")
        .args(["x509", "-noout", "-serial", "-in"])
        .arg(certificate.path())
        .output()
        .expect("openssl runs");
    Some(String::from_utf8_lossy(&read.stdout).trim().to_owned()).filter(|s| !s.is_empty())
}

#[test]
fn svids_renew_at_half_life_and_no_request_fails() {
    let plane = Plane::start_with(&[("HOSTLER_SVID_TTL", "10")]);
    let agent = plane.enrol("host");
    let doors = [plane.machines, agent.door];
    let first = doors.map(|port| serial(port).expect("a certificate"));
    let mut renewals = 0;
    let mut last = first.clone();
    // Three renewals of each: beyond the life of what was there at first.
    wait_for("three renewals at both doors", || {
        // From the people's door through the control plane to the host's door and back.
        let status = plane.ask(&["host", "status", &agent.id]);
        assert!(status["hostname"].is_string(), "{status}");
        let now = doors.map(|port| serial(port).expect("a certificate"));
        renewals += now
            .iter()
            .zip(&last)
            .filter(|(now, last)| now != last)
            .count();
        last = now;
        (renewals >= 6 && last.iter().zip(&first).all(|(last, first)| last != first)).then_some(())
    });
    assert_eq!(plane.ask(&["host", "show", &agent.id])["status"], "online");
}

#[test]
fn a_host_outlives_the_keys_of_its_token_and_comes_back_with_a_new_one() {
    let plane = Plane::start_with(&[("HOSTLER_SVID_TTL", "10")]);
    let mut agent = plane.enrol("host");
    let token = |agent: &Agent| {
        let path = agent.data().join("agent/credentials.json");
        let text = std::fs::read(path).expect("credentials");
        let credentials: Value = serde_json::from_slice(&text).expect("JSON");
        credentials["host_token"]
            .as_str()
            .expect("a token")
            .to_owned()
    };
    let keys = plane.ask(&["token-key", "rotate", "--give-up"]);
    assert_eq!(keys.as_array().map(Vec::len), Some(1), "{keys}");
    let old = token(&agent);
    wait_for("a new host token", || (token(&agent) != old).then_some(()));
    // It is away for longer than its certificate lives, and has only its token then.
    agent.daemon().take().expect("it runs").kill();
    std::thread::sleep(Duration::from_secs(11));
    agent.launch(&plane, None);
    assert!(agent.log().contains("proof=HostToken"), "{}", agent.log());
}
