//! The OpenAPI document and the control plane under the eyes of programs that nobody here wrote.

use std::path::Path;
use std::process::{Command, Stdio};

use crate::support::{Plane, is_long, python};

/// Streams wait for what happens, and these end the token by which the others are tried.
const LEFT_OUT: &str = "watch|logs|exec|progress|entries/sync|token-keys/rotate|logout|password";

#[test]
fn schemathesis_finds_no_answer_that_the_document_does_not_tell() {
    let plane = Plane::start();
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/schemathesis");
    let python = python(&tests.join("requirements.txt"));
    let document = plane.path("openapi.json");
    let served = plane.curl(Some(plane.key()), &[], "/openapi.json").body;
    std::fs::write(&document, served).expect("written");
    let run = |program: &str| {
        let mut command = Command::new(python.with_file_name(program));
        // What it remembers, it remembers there.
        command.current_dir(plane.data()).stdin(Stdio::null());
        command
    };
    let valid = run("openapi-spec-validator").arg(&document).output();
    let valid = valid.expect("it runs");
    let said = String::from_utf8_lossy(&valid.stdout);
    assert!(valid.status.success(), "{said}");

    let examples = if is_long() { "100" } else { "3" };
    let tried = run("schemathesis")
        .arg("--config-file")
        .arg(tests.join("schemathesis.toml"))
        .arg("run")
        .arg(&document)
        .args(["--url", &plane.url()])
        .args([
            "--header",
            &format!("Authorization: Bearer {}", plane.key()),
        ])
        .arg("--tls-verify")
        .arg(plane.ca())
        .args(["--phases", "coverage,fuzzing", "--max-examples", examples])
        .args([
            "--seed",
            "1",
            "--request-timeout",
            "20",
            "--exclude-path-regex",
            LEFT_OUT,
        ])
        .args(["--continue-on-failure", "--no-color"])
        .output()
        .expect("it runs");
    let said = String::from_utf8_lossy(&tried.stdout);
    let told = String::from_utf8_lossy(&tried.stderr);
    assert!(tried.status.success(), "{said}{told}{}", plane.log());
}
