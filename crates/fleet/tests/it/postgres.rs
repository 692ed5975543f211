//! A PostgreSQL server of this program's own: in a temporary directory, on a Unix socket that nobody
//! else reaches. It ends with the program, however that ends.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use crate::guard::Guard;

/// Who the server runs as when this program is run by root, which PostgreSQL refuses to be.
const NOBODY: [&str; 4] = [
    "setpriv",
    "--reuid=nobody",
    "--regid=nogroup",
    "--clear-groups",
];

pub(crate) struct Postgres {
    guard: Guard,
    /// How often it was started.
    starts: usize,
}

/// Where the programs of PostgreSQL are: what `scripts/need.sh` said, the path, or Debian's place.
fn bin() -> PathBuf {
    let newest = || {
        let versions = std::fs::read_dir("/usr/lib/postgresql").ok()?;
        let number = |path: &PathBuf| path.file_name()?.to_str()?.parse::<u32>().ok();
        let newest = versions
            .flatten()
            .map(|entry| entry.path())
            .max_by_key(number)?;
        Some(newest.join("bin"))
    };
    let given = std::env::var_os("HOSTLER_POSTGRESQL_BIN").map(PathBuf::from);
    let path = std::env::var_os("PATH").unwrap_or_default();
    let candidates = given
        .into_iter()
        .chain(newest())
        .chain(std::env::split_paths(&path));
    let found = candidates
        .into_iter()
        .find(|dir| dir.join("initdb").is_file());
    found.expect(
        "PostgreSQL's initdb is not there; run ./test, which fetches it, or install Debian's \
         package postgresql, or say in HOSTLER_POSTGRESQL_BIN in which directory it is",
    )
}

fn as_nobody(program: &Path) -> Command {
    if !is_root() {
        return Command::new(program);
    }
    let mut command = Command::new(NOBODY[0]);
    command.args(&NOBODY[1..]).arg(program);
    command
}

fn is_root() -> bool {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata("/proc/self").expect("procfs").uid() == 0
}

impl Postgres {
    /// Starts one that takes connections, with these settings (`NAME=VALUE`).
    pub(crate) fn start(settings: &[&str]) -> Self {
        let dir = tempfile::Builder::new()
            .prefix("hostler-pg-")
            .tempdir()
            .expect("a directory")
            .keep();
        if is_root() {
            let owned = Command::new("chown")
                .arg("nobody:nogroup")
                .arg(&dir)
                .status();
            assert!(owned.expect("chown runs").success());
        }
        let (bin, data) = (bin(), dir.join("data"));
        let made = as_nobody(&bin.join("initdb"))
            .args([
                "--no-sync",
                "--auth=trust",
                "--username=hostler",
                "--encoding=UTF8",
            ])
            .args(["--locale=C.UTF-8", "--pgdata"])
            .arg(&data)
            .current_dir("/")
            .output()
            .expect("initdb runs");
        let said = String::from_utf8_lossy(&made.stderr);
        assert!(made.status.success(), "initdb: {said}");
        let mut server = as_nobody(&bin.join("postgres"));
        server
            .arg("-D")
            .arg(&data)
            .args(["-c", "listen_addresses=", "-c", "lc_messages=C"])
            .args(settings.iter().flat_map(|setting| ["-c", setting]))
            .arg("-k")
            .arg(&dir);
        let server = Self {
            guard: Guard::start(dir, "QUIT", &server),
            starts: 1,
        };
        server.wait();
        server
    }

    /// Crashes it (an immediate shutdown: what was not written to its log is lost), and starts it
    /// again.
    #[allow(dead_code, reason = "only some of those who start one crash it")]
    pub(crate) fn crash(&mut self) {
        self.guard.restart();
        self.starts += 1;
        self.wait();
    }

    /// Until it takes connections: it listens a moment before it is ready.
    fn wait(&self) {
        const READY: &str = "database system is ready to accept connections";
        let begun = Instant::now();
        loop {
            let log = self.guard.log();
            if log.matches(READY).count() >= self.starts {
                return;
            }
            let patience = Duration::from_secs(60);
            assert!(begun.elapsed() < patience, "no server: {log}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Ends it, as a server is ended that is to be restarted.
    #[allow(dead_code, reason = "tests/it has books in files")]
    pub(crate) fn stop(mut self) {
        self.guard.stop();
    }

    /// How `database` on it is reached.
    pub(crate) fn url(&self, database: &str) -> String {
        format!(
            "postgres://hostler@localhost/{database}?host={}",
            self.guard.dir().display()
        )
    }
}
