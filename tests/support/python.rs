//! Programs in Python that nobody here wrote, each with what it needs.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// A Python that has these packages, which are fetched when they are not there; other programs of
/// theirs are beside it.
pub(crate) fn python(requirements: &Path) -> PathBuf {
    let scripts = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../scripts");
    let made = Command::new(scripts.join("python-peers"))
        .arg(requirements)
        .stderr(Stdio::inherit())
        .output()
        .expect("it runs");
    assert!(made.status.success(), "no Python peers; why is said above");
    PathBuf::from(String::from_utf8(made.stdout).expect("text").trim())
}
