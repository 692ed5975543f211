//! Every route of the host door, in both of its modes, with every credential and every malformed
//! input. What an enrolled host and a standalone one answer is the same; who gets in is not.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use hostler_authority::Authority;
use hostler_identity::{KeyAndCsr, TrustDomain};
use jiff::{SignedDuration, Timestamp};
use secrecy::ExposeSecret;

use crate::standalone::{Credential, Standalone, ask, issue, tls_init};
use crate::support::{Answer, Plane, free_port};

/// A host's door and four who knock at it.
struct Door {
    port: u16,
    data: PathBuf,
    right: Credential,
    of_another_ca: Credential,
    expired: Credential,
    scratch: PathBuf,
}

impl Door {
    fn ask(&self, who: Option<&Credential>, arguments: &[&str], path: &str) -> Answer {
        ask(&["--insecure"], self.port, who, arguments, path)
    }

    fn told(&self, arguments: &[&str], path: &str) -> (u16, String) {
        let answer = self.ask(Some(&self.right), arguments, path);
        assert_ne!(answer.status, 0, "{arguments:?} {path}: {answer:?}");
        (answer.status, answer.code())
    }
}

/// The routes of contracts, section 2, in an order in which each can succeed: method, path, body,
/// status. `ROOT`, `KERNEL` and `PORT` stand for a tarball, a kernel's file and a free port.
const ROUTES: [(&str, &str, &str, u16); 17] = [
    ("GET", "/v1/health", "", 200),
    ("GET", "/v1/host/config", "", 200),
    ("GET", "/v1/host/status", "", 200),
    ("POST", "/v1/images/pull", "{}", 200),
    ("GET", "/v1/images", "", 200),
    ("GET", "/v1/kernels", "", 200),
    (
        "POST",
        "/v1/vms",
        r#"{"name":"web-1","memory_mb":128,"disk_size_mb":256}"#,
        201,
    ),
    ("GET", "/v1/vms", "", 200),
    ("GET", "/v1/vms/web-1", "", 200),
    ("POST", "/v1/vms/web-1/start", "", 200),
    (
        "POST",
        "/v1/vms/web-1/port-forward",
        r#"{"host_port":PORT,"guest_port":80}"#,
        200,
    ),
    ("POST", "/v1/vms/web-1/stop", r#"{"timeout_secs":0}"#, 200),
    ("DELETE", "/v1/vms/web-1?force=true", "", 200),
    (
        "POST",
        "/v1/images/import",
        r#"{"source":"ROOT","name":"mine"}"#,
        201,
    ),
    ("DELETE", "/v1/images/mine", "", 200),
    (
        "POST",
        "/v1/kernels/import",
        r#"{"source":"KERNEL","name":"mine"}"#,
        201,
    ),
    ("DELETE", "/v1/kernels/mine", "", 200),
];

/// What no name may be, as a path's segment and as JSON text.
const BAD_NAMES: [(&str, &str); 7] = [
    ("..", ".."),
    ("%2e%2e", ".."),
    ("..%2f..%2fetc", "../../etc"),
    ("a%2Fb", "a/b"),
    ("a%00b", "a\\u0000b"),
    ("Web", "Web"),
    (
        "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
        "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    ),
];

#[test]
fn a_standalone_host_answers_every_route_and_refuses_everything_else() {
    let host = Standalone::start();
    let scratch = host.path("scratch");
    std::fs::create_dir(&scratch).expect("made");
    let other = host.path("other");
    tls_init(&other);
    visit(&Door {
        port: host.door,
        data: host.data(),
        right: host.operator(),
        of_another_ca: Credential {
            certificate: other.join("client/client.crt"),
            key: other.join("client/client.key"),
        },
        expired: issue(&host.tls(), &scratch, "expired", (-2, -1)),
        scratch,
    });
}

#[test]
fn an_enrolled_host_answers_every_route_and_refuses_everything_else() {
    let plane = Plane::start();
    let agent = plane.enrol("host");
    let scratch = plane.path("scratch");
    std::fs::create_dir(&scratch).expect("made");
    let domain = || TrustDomain::new("hostler.internal").expect("a name");
    // A copy of the control plane's authority signs as it does.
    let ours = scratch.join("authority");
    std::fs::create_dir(&ours).expect("made");
    let kept = plane.data().join("authority/authority.json");
    std::fs::copy(kept, ours.join("authority.json")).expect("copied");
    let ours = Authority::open(&ours, domain()).expect("an authority");
    let other = Authority::open(&scratch.join("other"), domain()).expect("an authority");
    visit(&Door {
        port: agent.door,
        data: agent.data().to_owned(),
        right: svid(&ours, &scratch, "right", 0),
        of_another_ca: svid(&other, &scratch, "other", 0),
        expired: svid(&ours, &scratch, "expired", 5),
        scratch,
    });
}

/// A control plane's SVID that expired so many seconds ago, or is valid when that is 0.
fn svid(authority: &Authority, into: &Path, name: &str, ago: i64) -> Credential {
    let id = "spiffe://hostler.internal/control-plane/test";
    let id = id.parse().expect("an id");
    let pair = KeyAndCsr::generate(None).expect("a key");
    let (life, at) = match ago {
        0 => (600, Timestamp::now()),
        ago => (1, Timestamp::now() - SignedDuration::from_secs(ago + 1)),
    };
    let life = SignedDuration::from_secs(life);
    let issued = authority.sign_csr_for(&pair.csr_pem, &id, life, at);
    let credential = Credential {
        certificate: into.join(format!("{name}.crt")),
        key: into.join(format!("{name}.key")),
    };
    let chain = issued.expect("signed").chain_pem;
    std::fs::write(&credential.certificate, chain).expect("written");
    std::fs::write(&credential.key, pair.key_pem.expose_secret()).expect("written");
    credential
}

fn visit(door: &Door) {
    for (method, path, body, _) in ROUTES {
        let arguments = [&["--request", method][..], &json(body)].concat();
        for who in [None, Some(&door.of_another_ca), Some(&door.expired)] {
            let answer = door.ask(who, &arguments, path);
            assert_eq!(answer.status, 0, "{method} {path} let them in: {answer:?}");
        }
    }
    let healthy = door.ask(Some(&door.right), &[], "/healthz");
    assert_eq!((healthy.status, healthy.body.as_str()), (200, "ok"));
    malformed(door);
    succeed(door);
}

fn json(body: &str) -> Vec<&str> {
    if body.is_empty() {
        Vec::new()
    } else {
        vec!["--json", body]
    }
}

fn malformed(door: &Door) {
    let big = door.scratch.join("big.json");
    std::fs::write(&big, format!("{{\"name\":\"{}\"}}", "y".repeat(2 << 20))).expect("written");
    let big = format!("@{}", big.display());
    let invalid = (400, "invalid_request".to_owned());
    for (method, path, body, _) in ROUTES {
        let request = |more: &[&str], path: &str| {
            door.told(&[&["--request", method][..], more].concat(), path)
        };
        let bare = path.split('?').next().unwrap_or(path);
        let route = format!("{method} {bare}");
        assert_eq!(door.told(&["--request", "PUT"], bare).0, 405, "{route}");
        assert_eq!(
            request(&[], &format!("{bare}?no_such_field=1")),
            invalid,
            "{route}"
        );
        assert_eq!(
            request(&[], &format!("{bare}?force=%ff")),
            invalid,
            "{route}"
        );
        if method == "GET" {
            assert_eq!(request(&["--json", "{}"], bare).0, 400, "{route}: a body");
        } else {
            for wrong in ["{\"name\":", "nonsense", "[1]", "{\"no_such_field\":1}"] {
                assert_eq!(
                    request(&["--json", wrong], bare),
                    invalid,
                    "{route} {wrong}"
                );
            }
            assert_eq!(request(&["--json", &big], bare).0, 413, "{route}");
            assert_eq!(request(&["--data", "name=web-1"], bare).0, 415, "{route}");
        }
        if bare.contains("web-1") || bare.contains("mine") {
            for (segment, _) in BAD_NAMES {
                let path = bare.replace("web-1", segment).replace("mine", segment);
                assert_eq!(request(&json(body), &path), invalid, "{route} with {path}");
            }
        }
        if body.contains("\"name\"") {
            for (_, name) in BAD_NAMES {
                let body = body.replace("web-1", name).replace("mine", name);
                assert_eq!(request(&["--json", &body], bare), invalid, "{route} {body}");
            }
            let wrong_type = body.replace("\"web-1\"", "7").replace("\"mine\"", "7");
            assert_eq!(request(&["--json", &wrong_type], bare), invalid, "{route}");
        }
    }
    for (path, body) in [
        ("/v1/vms", r#"{"name":"web-1","memory_mb":"much"}"#),
        ("/v1/vms", r#"{"name":"web-1","cpus":1.5}"#),
        ("/v1/vms/web-1/stop", r#"{"timeout_secs":-1}"#),
        (
            "/v1/vms/web-1/port-forward",
            r#"{"host_port":0,"guest_port":80}"#,
        ),
        (
            "/v1/vms/web-1/port-forward",
            r#"{"host_port":1,"guest_port":80,"bind":"nowhere"}"#,
        ),
    ] {
        assert_eq!(door.told(&["--json", body], path), invalid, "{path} {body}");
    }
    let nothing = door.ask(Some(&door.right), &[], "/v1/vms");
    assert_eq!((nothing.status, nothing.body.as_str()), (200, "[]"));
}

fn succeed(door: &Door) {
    let root = door.scratch.join("root.tar");
    let tree = door.scratch.join("tree");
    std::fs::create_dir_all(tree.join("sbin")).expect("made");
    let init = tree.join("sbin/init");
    std::fs::write(&init, "#!/bin/sh\n").expect("written");
    std::fs::set_permissions(&init, Permissions::from_mode(0o755)).expect("set");
    let mut pack = Command::new("tar");
    pack.arg("-cf").arg(&root).arg("-C").arg(&tree).arg(".");
    assert!(pack.status().expect("tar runs").success());
    let port = free_port().to_string();
    let kernel = door.scratch.join("kernel");
    for (method, path, body, status) in ROUTES {
        if path == "/v1/kernels/import" {
            let ours = door.data.join("kernels/debian-cloud/kernel");
            std::fs::copy(ours, &kernel).expect("copied");
        }
        let body = body
            .replace("ROOT", root.to_str().expect("text"))
            .replace("KERNEL", kernel.to_str().expect("text"))
            .replace("PORT", &port);
        let arguments = [&["--request", method][..], &json(&body)].concat();
        let answer = door.ask(Some(&door.right), &arguments, path);
        assert_eq!(answer.status, status, "{method} {path} {body}: {answer:?}");
        answer.json();
        assert!(answer.headers.to_lowercase().contains("x-request-id:"));
    }
    for (method, path) in [
        ("GET", "/v1/vms/web-1"),
        ("DELETE", "/v1/vms/web-1"),
        ("POST", "/v1/vms/web-1/start"),
        ("POST", "/v1/vms/web-1/stop"),
        ("DELETE", "/v1/images/mine"),
        ("DELETE", "/v1/kernels/mine"),
    ] {
        let told = door.told(&["--request", method], path);
        assert_eq!(told, (404, "not_found".to_owned()), "{method} {path}");
    }
}
