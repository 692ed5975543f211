//! A Redis of this program's own, in a temporary directory, on a Unix socket that nobody else reaches.

use std::os::unix::net::UnixStream;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::guard::Guard;

pub(crate) struct Redis(Guard);

impl Redis {
    /// Starts one that takes connections.
    pub(crate) fn start() -> Self {
        let dir = tempfile::Builder::new().prefix("hostler-redis-").tempdir();
        let dir = dir.expect("a directory").keep();
        let mut server = Command::new("redis-server");
        server
            .args(["--port", "0", "--save", "", "--unixsocketperm", "700"])
            .arg("--unixsocket")
            .arg(dir.join("socket"))
            .arg("--dir")
            .arg(&dir);
        let redis = Self(Guard::start(dir, "KILL", &server));
        redis.wait(1);
        redis
    }

    /// Crashes it; it comes back with nothing.
    pub(crate) fn crash(&mut self) {
        let starts = self.starts();
        self.0.restart();
        self.wait(starts + 1);
    }

    /// Ends it.
    #[allow(dead_code, reason = "end to end it is crashed only")]
    pub(crate) fn stop(&mut self) {
        self.0.stop();
    }

    fn starts(&self) -> usize {
        self.0
            .log()
            .matches("The server is now ready to accept connections")
            .count()
    }

    fn wait(&self, starts: usize) {
        let begun = Instant::now();
        let is_there =
            || self.starts() >= starts && UnixStream::connect(self.0.dir().join("socket")).is_ok();
        while !is_there() {
            assert!(
                begun.elapsed() < Duration::from_secs(60),
                "no Redis; run ./test, which fetches it, or install Debian's redis-server: {}",
                self.0.log()
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// How it is reached.
    pub(crate) fn url(&self) -> String {
        format!("redis+unix://{}/socket", self.0.dir().display())
    }
}
