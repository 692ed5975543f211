//! A way into guests: SSH with a key of the test's own.

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::support::PATIENCE;

/// A key, and with it a way into every guest that knows it.
pub(crate) struct Shell {
    dir: tempfile::TempDir,
}

impl Shell {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let made = Command::new("ssh-keygen")
            .args(["-q", "-t", "ed25519", "-N", "", "-C", "test", "-f"])
            .arg(dir.path().join("key"))
            .status();
        assert!(made.unwrap().success());
        Self { dir }
    }

    fn key(&self) -> PathBuf {
        self.dir.path().join("key")
    }

    pub(crate) fn public_key(&self) -> String {
        std::fs::read_to_string(self.key().with_extension("pub")).unwrap()
    }

    /// What a script prints in the guest at this address, in the namespace of the calling thread.
    pub(crate) fn run(&self, guest: Ipv4Addr, script: &str) -> String {
        self.run_over(guest, 22, script)
    }

    /// The same in a guest to which this port of the host leads.
    pub(crate) fn run_at(&self, port: u16, script: &str) -> String {
        self.run_over(Ipv4Addr::LOCALHOST, port, script)
    }

    fn run_over(&self, address: Ipv4Addr, port: u16, script: &str) -> String {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let output = Command::new("ssh")
                .args([
                    "-F",
                    "/dev/null",
                    "-o",
                    "IdentitiesOnly=yes",
                    "-o",
                    "BatchMode=yes",
                ])
                .args([
                    "-o",
                    "StrictHostKeyChecking=no",
                    "-o",
                    "UserKnownHostsFile=/dev/null",
                ])
                .args(["-o", "ConnectTimeout=20", "-o", "LogLevel=ERROR", "-i"])
                .arg(self.key())
                .args(["-p", &port.to_string(), &format!("root@{address}"), script])
                .stdin(Stdio::null())
                .output()
                .unwrap();
            // 255 is ssh's own: the guest's server is not there yet.
            if output.status.code() != Some(255) {
                return String::from_utf8_lossy(&output.stdout).into_owned();
            }
            assert!(Instant::now() < deadline, "{output:?}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}
