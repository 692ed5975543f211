//! A server that dies in the middle of a registration. The process that dies is this test program
//! itself, started once more to run one ignored test.

use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::json;

use crate::desk::{Desk, machine};

const DIRECTORY: &str = "HOSTLER_TEST_DIRECTORY";
const TOKEN: &str = "HOSTLER_TEST_TOKEN";

#[tokio::test]
#[ignore = "it is run by the other tests of this module, in a process that is to die"]
async fn a_registration_that_reaches_a_fault_point() {
    let (Ok(directory), Ok(token)) = (std::env::var(DIRECTORY), std::env::var(TOKEN)) else {
        panic!("{DIRECTORY} and {TOKEN} say where and by what it is to register");
    };
    let desk = Desk::open_existing(Path::new(&directory)).await;
    let answer = desk.try_call("hosts/register", None, machine(&token)).await;
    panic!("it lived on and answered {answer:?}");
}

/// Registers in a process that dies at this point; says the host's status afterwards, and whether
/// the token is good for a registration.
async fn after_dying_at(point: &str) -> (String, bool) {
    let desk = Desk::open().await;
    let admin = desk.admin.clone();
    let (id, token) = desk.pending().await;
    let directory = desk.shut().await;
    let name = "power_cut::a_registration_that_reaches_a_fault_point";
    let mut child = Command::new(std::env::current_exe().expect("this program"));
    child
        .args([name, "--exact", "--ignored"])
        .env("HOSTLER_FAULT_POINT", point)
        .env(DIRECTORY, directory.path())
        .env(TOKEN, &token)
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let died = tokio::task::spawn_blocking(move || child.status())
        .await
        .expect("no panic");
    let died = died.expect("started");
    let signal = std::os::unix::process::ExitStatusExt::signal(&died);
    assert_eq!(signal, Some(6), "it aborts at {point}: {died}");

    let desk = Desk::open_existing(directory.path()).await;
    let host = desk.call_as(&admin, "hosts/get", json!({"id": id})).await;
    let again = desk.try_call("hosts/register", None, machine(&token)).await;
    (
        host["status"].as_str().expect("a status").to_owned(),
        again.is_ok(),
    )
}

#[tokio::test]
async fn a_power_cut_before_the_commit_leaves_the_token_unused() {
    assert_eq!(
        after_dying_at("register.before-commit").await,
        ("pending".to_owned(), true)
    );
}

#[tokio::test]
async fn a_power_cut_after_the_commit_leaves_the_host_enrolled() {
    assert_eq!(
        after_dying_at("register.after-commit").await,
        ("online".to_owned(), false)
    );
}
