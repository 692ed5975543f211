//! curl, and what it brings back.

use std::process::{Command, Stdio};

use serde_json::Value;

/// What curl brought back.
#[derive(Debug)]
pub(crate) struct Answer {
    /// 0 when no answer came: `problem` says why.
    pub(crate) status: u16,
    pub(crate) headers: String,
    pub(crate) body: String,
    pub(crate) problem: String,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|_| panic!("not JSON: {self:?}"))
    }

    pub(crate) fn code(&self) -> String {
        self.json()["error"]["code"]
            .as_str()
            .unwrap_or_default()
            .to_owned()
    }

    pub(crate) fn message(&self) -> String {
        self.json()["error"]["message"]
            .as_str()
            .unwrap_or_default()
            .to_owned()
    }
}

/// Runs curl with a configuration on its standard input, where a token is not seen by others.
pub(crate) fn curl(arguments: &[&str], config: &str) -> Answer {
    use std::io::Write as _;
    let mut child = Command::new("curl")
        .args([
            "--silent",
            "--show-error",
            "--dump-header",
            "/dev/stderr",
            "--max-time",
            "60",
        ])
        .args(["--write-out", "\n%{http_code}"])
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("curl runs");
    child
        .stdin
        .take()
        .expect("its input")
        .write_all(config.as_bytes())
        .expect("written");
    let output = child.wait_with_output().expect("curl ends");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let (body, status) = text.rsplit_once('\n').expect("a status");
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    Answer {
        status: status.parse().expect("a number"),
        body: body.to_owned(),
        problem: told
            .lines()
            .filter(|l| l.starts_with("curl:"))
            .collect::<Vec<_>>()
            .join("; "),
        headers: told,
    }
}
