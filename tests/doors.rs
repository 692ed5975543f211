//! The doors: who gets in, who does not, and what those who do not are told.

use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::support::{Plane, curl, python};

#[test]
fn the_peoples_door_asks_for_a_token() {
    let plane = Plane::start();
    let admitted = plane.curl(Some(plane.key()), &[], "/v1/hosts");
    assert_eq!(
        (admitted.status, admitted.body.as_str()),
        (200, "[]"),
        "{admitted:?}"
    );
    assert!(admitted.headers.to_lowercase().contains("x-request-id:"));

    let anonymous = plane.curl(None, &[], "/v1/hosts");
    assert_eq!(
        (anonymous.status, anonymous.code().as_str()),
        (401, "unauthorized")
    );
    assert!(
        anonymous
            .headers
            .to_lowercase()
            .contains("www-authenticate: bearer")
    );
    let stranger = plane.curl(
        Some("hst_00000000000000000000000000000000"),
        &[],
        "/v1/hosts",
    );
    assert_eq!(stranger.status, 401);
    assert!(!plane.log().contains(plane.key()), "the key is in the log");
}

#[test]
fn the_peoples_door_speaks_both_http_versions_and_tls_1_3_only() {
    let plane = Plane::start();
    for (flag, version) in [("--http1.1", "HTTP/1.1 200"), ("--http2", "HTTP/2 200")] {
        let answer = plane.curl(None, &[flag], "/healthz");
        assert_eq!((answer.status, answer.body.as_str()), (200, "ok"));
        assert!(answer.headers.contains(version), "{}", answer.headers);
    }
    let old = plane.curl(None, &["--tls-max", "1.2"], "/healthz");
    assert_eq!(old.status, 0, "TLS 1.2 was spoken");
}

#[test]
fn a_scanner_finds_tls_as_it_should_be_and_no_name_of_ours() {
    let plane = Plane::start();
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/sslyze");
    let scanner = python(&tests.join("requirements.txt")).with_file_name("sslyze");
    let report = plane.path("scan.json");
    // Mozilla's "modern": TLS 1.3 alone, its curves, and a certificate that is young and of P-256.
    let scanned = Command::new(scanner)
        .args(["--mozilla_config", "modern", "--early_data", "--json_out"])
        .arg(&report)
        .arg("--certinfo_ca_file")
        .arg(plane.ca())
        .arg(plane.url().trim_start_matches("https://"))
        .stdin(Stdio::null())
        .output()
        .expect("it runs");
    let said = String::from_utf8_lossy(&scanned.stdout);
    assert!(scanned.status.success(), "{said}");
    let report = std::fs::read(report).expect("a report");
    let report: Value = serde_json::from_slice(&report).expect("JSON");
    let found = &report["server_scan_results"][0]["scan_result"];
    let of = |scan: &str| {
        assert_eq!(found[scan]["status"], "COMPLETED", "{scan}");
        &found[scan]["result"]
    };
    assert_eq!(of("tls_1_3_early_data")["supports_early_data"], false);
    assert_eq!(of("tls_compression")["supports_compression"], false);
    assert_eq!(of("heartbleed")["is_vulnerable_to_heartbleed"], false);
    let chain = &of("certificate_info")["certificate_deployments"][0];
    let names = ["subject", "issuer"].iter().flat_map(|name| {
        let chain = chain["received_certificate_chain"].as_array();
        chain
            .into_iter()
            .flatten()
            .map(move |one| one[*name]["rfc4514_string"].to_string())
    });
    let names: Vec<String> = names.collect();
    assert_eq!(names.len(), 4, "a certificate and its CA: {names:?}");
    for name in &names {
        assert!(!name.to_lowercase().contains("hostler"), "{names:?}");
    }
}

#[test]
fn a_browser_shows_the_reference() {
    let plane = Plane::start();
    let profile = plane.path("chromium");
    let browser = Command::new("chromium")
        .args([
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--no-first-run",
        ])
        .args([
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
        ])
        // Its CA is known to nobody.
        .arg("--ignore-certificate-errors")
        .arg(format!("--user-data-dir={}", profile.display()))
        .args(["--virtual-time-budget=20000", "--dump-dom"])
        .arg(format!("{}/docs", plane.url()))
        .output()
        .expect("chromium runs");
    let page = String::from_utf8_lossy(&browser.stdout);
    let told = String::from_utf8_lossy(&browser.stderr);
    // What anybody may do, with its fields and its errors.
    for expected in [
        "<section id=\"auth/login\">",
        "<section id=\"hosts/register\">",
        "<code>/v1/hosts/register</code>",
        "cpu_cores",
        "payload_too_large",
        "What anybody may do",
    ] {
        assert!(page.contains(expected), "{expected}: {page} {told}");
    }
    assert!(!page.contains("vms/create"), "what not everybody may do");
    let page = page.to_lowercase();
    assert!(!page.contains("hostler"), "{page}");
}

#[test]
fn an_unknown_path_meets_a_page_that_names_no_software() {
    let plane = Plane::start();
    let answer = plane.curl(Some(plane.key()), &[], "/wp-login.php");
    assert_eq!(answer.status, 404);
    let told = (answer.headers + &answer.body).to_lowercase();
    assert!(
        !told.contains("hostler") && !told.contains("server:"),
        "{told}"
    );
}

#[test]
fn the_document_describes_what_its_reader_may_use() {
    let plane = Plane::start();
    let paths = |token| {
        let document = plane.curl(token, &[], "/openapi.json").json();
        assert_eq!(document["openapi"], "3.1.0");
        document["paths"]
            .as_object()
            .expect("paths")
            .keys()
            .cloned()
            .collect::<Vec<_>>()
    };
    let all = paths(Some(plane.key()));
    for path in [
        "/v1/hosts",
        "/hosts/create",
        "/v1/vms/{name}/start",
        "/vms/start",
    ] {
        assert!(
            all.iter().any(|p| p == path),
            "{path} is missing from {all:?}"
        );
    }
    assert!(
        !paths(None).iter().any(|p| p == "/v1/vms"),
        "a stranger sees what he may not use"
    );
}

#[test]
fn the_machines_doors_refuse_whoever_has_no_certificate_in_the_handshake() {
    let plane = Plane::start();
    let agent = plane.enrol("host");
    for port in [plane.machines, agent.door] {
        let url = format!("https://127.0.0.1:{port}/healthz");
        let answer = curl(&["--insecure", &url], "");
        assert_eq!(answer.status, 0, "port {port} answered {answer:?}");
        assert!(
            answer.problem.contains("certificate required"),
            "{answer:?}"
        );
    }
}

#[test]
fn a_certificate_of_another_authority_is_refused_in_the_handshake() {
    let plane = Plane::start();
    let agent = plane.enrol("host");
    let (cert, key) = (plane.path("foreign.pem"), plane.path("foreign.key"));
    let made = Command::new("openssl")
        .args([
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-nodes",
        ])
        .args(["-days", "1", "-subj", "/CN=x", "-addext"])
        .arg("subjectAltName=URI:spiffe://hostler.internal/control-plane/evil")
        .args(["-addext", "keyUsage=critical,digitalSignature", "-addext"])
        .args(["basicConstraints=critical,CA:FALSE", "-out"])
        .arg(&cert)
        .arg("-keyout")
        .arg(&key)
        .output()
        .expect("openssl runs");
    assert!(
        made.status.success(),
        "{}",
        String::from_utf8_lossy(&made.stderr)
    );
    for port in [plane.machines, agent.door] {
        let url = format!("https://127.0.0.1:{port}/healthz");
        let (cert, key) = (cert.to_str().expect("text"), key.to_str().expect("text"));
        let answer = curl(&["--insecure", "--cert", cert, "--key", key, &url], "");
        assert_eq!(answer.status, 0, "port {port} answered {answer:?}");
    }
}
