//! Finding other people's programs, and running them.

use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};

use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use crate::house::soon;

/// Where a program is; its absence is a failure, because a peer that is skipped proves nothing.
pub(crate) fn program(name: &str, package: &str) -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    // Debian keeps servers where an ordinary user's PATH does not look.
    let places = std::env::split_paths(&path).chain(["/usr/sbin".into(), "/sbin".into()]);
    let found = places.map(|place| place.join(name)).find(|at| at.is_file());
    found.unwrap_or_else(|| panic!("there is no {name}: install {package}, or run ./test"))
}

/// The Python in whose environment the peers of `requirements.txt` are installed.
pub(crate) async fn python() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let made = Command::new(here.join("../../scripts/python-peers"))
        .arg(here.join("tests/peers/requirements.txt"))
        .stderr(Stdio::inherit())
        .output();
    let made = made.await.unwrap();
    assert!(
        made.status.success(),
        "no Python peers; what is missing is said above"
    );
    PathBuf::from(String::from_utf8(made.stdout).unwrap().trim())
}

/// Runs a program to its end, with this as its input.
pub(crate) async fn run(command: &mut Command, input: &str) -> Output {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    // It may have ended already, having refused.
    let _ = stdin.write_all(input.as_bytes()).await;
    drop(stdin);
    soon(child.wait_with_output()).await.unwrap()
}

/// Both outputs, for messages and for what is looked for in either.
pub(crate) fn said(output: &Output) -> String {
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    format!("{}{}", text(&output.stdout), text(&output.stderr))
}
