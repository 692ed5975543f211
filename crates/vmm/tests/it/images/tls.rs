//! A registry behind TLS: one that is trusted, and one that is not.

use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::Command;

use super::makers::{Registry, Workshop, import, run};
use crate::support::Host;

/// Where the process that imports finds from where.
const SOURCE: &str = "IMAGES_TEST_TLS_SOURCE";

/// An address of this machine that is none of its loopback, over which registries are asked with TLS.
/// Nothing is sent to find it.
pub(super) fn own_address() -> Option<Ipv4Addr> {
    let socket = UdpSocket::bind("0.0.0.0:0").ok()?;
    // For documentation, so nobody's (RFC 5737).
    socket.connect("203.0.113.1:9").ok()?;
    match socket.local_addr().ok()?.ip() {
        IpAddr::V4(ip) if !ip.is_loopback() => Some(ip),
        _ => None,
    }
}

/// An authority, and a certificate of its own for this address.
fn papers(dir: &Path, ip: Ipv4Addr) -> (PathBuf, PathBuf, PathBuf) {
    let at = |name: &str| dir.join(name);
    let text = |path: &Path| path.to_str().unwrap().to_owned();
    let key = "ec_paramgen_curve:prime256v1";
    let (ca, ca_key) = (text(&at("ca.pem")), text(&at("ca.key")));
    run(
        "openssl",
        &[
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            key,
            "-nodes",
            "-days",
            "2",
            "-subj",
            "/CN=registry authority",
            "-keyout",
            &ca_key,
            "-out",
            &ca,
        ],
    );
    let (leaf, leaf_key) = (text(&at("leaf.pem")), text(&at("leaf.key")));
    let name = format!("subjectAltName=IP:{ip}");
    run(
        "openssl",
        &[
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            key,
            "-nodes",
            "-days",
            "2",
            "-subj",
            "/CN=registry",
            "-addext",
            &name,
            "-addext",
            "basicConstraints=critical,CA:FALSE",
            "-CA",
            &ca,
            "-CAkey",
            &ca_key,
            "-keyout",
            &leaf_key,
            "-out",
            &leaf,
        ],
    );
    (at("ca.pem"), at("leaf.pem"), at("leaf.key"))
}

/// Not a test of its own: what the one below runs in a process that trusts others.
#[tokio::test]
async fn import_over_tls() {
    let Ok(source) = std::env::var(SOURCE) else {
        return;
    };
    let host = Host::bare().await;
    if let Err(error) = import(&host.machines, source, "a").await {
        panic!("refused: {error}");
    }
}

#[tokio::test]
async fn a_registry_is_asked_over_tls_and_one_that_is_not_trusted_is_told_nothing() {
    let Some(ip) = own_address() else {
        eprintln!("skipped: this machine has no address but its loopback");
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let (ca, leaf, key) = papers(dir.path(), ip);
    let tls = format!(
        ", tls: {{certificate: \"{}\", key: \"{}\"}}",
        leaf.display(),
        key.display()
    );
    let registry = Registry::start_at(ip, &tls, "");
    let workshop = Workshop::open();
    workshop.layer(&[("sbin/init", 0o755, b"#!/bin/sh\n")]);
    workshop.copy_to(&format!("docker://{}", registry.name("servant:1")));

    let importing = |trusted: &Path| {
        let output = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "images::tls::import_over_tls", "--nocapture"])
            .env(SOURCE, registry.name("servant:1"))
            .env("SSL_CERT_FILE", trusted)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        (output.status.success(), said)
    };
    let (imported, said) = importing(&ca);
    assert!(imported, "{said}");
    // Its own certificate vouches for nobody.
    let (imported, said) = importing(&leaf);
    assert!(!imported);
    assert!(said.contains("refused: the registry of"), "{said}");
    assert!(
        said.to_lowercase().contains("certificate"),
        "it says why: {said}"
    );
}
