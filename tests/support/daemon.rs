//! A process that ends with its test.

use std::path::PathBuf;
use std::process::{Child, ChildStdout, Command, Stdio};

use super::wait_for;

/// A daemon that is killed when its test ends.
pub(crate) struct Daemon {
    pub(super) child: Child,
    log: PathBuf,
}

impl Daemon {
    pub(crate) fn start(mut command: Command, log: PathBuf) -> Self {
        let stderr = std::fs::File::options()
            .create(true)
            .append(true)
            .open(&log)
            .expect("a log");
        let child = command
            .stdout(Stdio::piped())
            .stderr(stderr)
            .spawn()
            .expect("it starts");
        Self { child, log }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it prints. Once.
    pub(crate) fn output(&mut self) -> ChildStdout {
        self.child.stdout.take().expect("its output")
    }

    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// `kill -9`.
    pub(crate) fn kill(mut self) {
        self.child.kill().expect("killed");
        self.child.wait().expect("reaped");
    }

    /// SIGTERM, and how it ended.
    pub(crate) fn stop(self) -> Option<i32> {
        self.stop_and_tell().0
    }

    /// The same, and its log.
    pub(crate) fn stop_and_tell(self) -> (Option<i32>, String) {
        self.signal("TERM");
        self.end()
    }

    /// How it ended by itself.
    pub(crate) fn end(mut self) -> (Option<i32>, String) {
        let status = wait_for("the daemon's end", || {
            self.child.try_wait().expect("its status")
        });
        (status.code(), self.log())
    }

    fn signal(&self, signal: &str) {
        let pid = self.child.id().to_string();
        let status = Command::new("kill")
            .args(["-s", signal, &pid])
            .status()
            .expect("kill runs");
        assert!(status.success());
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
