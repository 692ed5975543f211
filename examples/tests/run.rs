//! The examples, run as their README says.

use std::path::Path;
use std::process::{Command, Stdio};

#[test]
fn the_client_is_answered_and_a_stranger_is_refused_in_one_command() {
    let programs = Path::new(env!("CARGO_BIN_EXE_mtls-server")).parent();
    let mut run = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/run"));
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("HOSTLER_")) {
        run.env_remove(name);
    }
    let output = run
        .arg("--programs")
        .arg(programs.expect("a directory"))
        .stdin(Stdio::null())
        .output()
        .expect("it runs");
    let (answer, told) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    assert!(output.status.success(), "{told}");
    assert_eq!(answer, "200 hello, spiffe://example.org/service/client\n");
    let refused = "reason=spiffe://example.org/service/stranger is not authorized";
    assert!(told.contains(refused), "{told}");
}
