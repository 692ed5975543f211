//! A PostgreSQL server of this program's own: in a temporary directory, on a Unix socket that nobody
//! else reaches. It ends with the program, however that ends: a shell waits for the end of a pipe,
//! ends the server by its process id and removes the directory. A line in the pipe crashes the
//! server and starts it again.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const GUARD: &str = r#"
dir=$1; shift
start() { "$@" </dev/null >>"$dir/log" 2>&1 & server=$!; }
end() { kill -QUIT $server 2>/dev/null; wait $server; }
start "$@"
while read -r _; do end; start "$@"; done
end
rm -rf "$dir"
"#;

/// Who the server runs as when this program is run by root, which PostgreSQL refuses to be.
const NOBODY: [&str; 4] = [
    "setpriv",
    "--reuid=nobody",
    "--regid=nogroup",
    "--clear-groups",
];

pub(crate) struct Postgres {
    dir: PathBuf,
    /// Its standard input ends with this program.
    guard: Child,
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
        let server = as_nobody(&bin.join("postgres"));
        let mut guard = Command::new("sh");
        guard
            .args(["-c", GUARD, "guard"])
            .arg(&dir)
            .arg(server.get_program())
            .args(server.get_args())
            .arg("-D")
            .arg(&data)
            .args(["-c", "listen_addresses=", "-c", "lc_messages=C"])
            .args(settings.iter().flat_map(|setting| ["-c", setting]))
            .arg("-k")
            .arg(&dir)
            .current_dir("/")
            .stdin(Stdio::piped());
        let guard = guard.spawn().expect("a shell runs");
        let server = Self {
            dir,
            guard,
            starts: 1,
        };
        server.wait();
        server
    }

    /// Crashes it (an immediate shutdown: what was not written to its log is lost), and starts it
    /// again.
    #[allow(dead_code, reason = "only some of those who start one crash it")]
    pub(crate) fn crash(&mut self) {
        let pipe = self.guard.stdin.as_mut().expect("its guard listens");
        writeln!(pipe, "again").expect("its guard listens");
        self.starts += 1;
        self.wait();
    }

    /// Until it takes connections: it listens a moment before it is ready.
    fn wait(&self) {
        const READY: &str = "database system is ready to accept connections";
        let begun = Instant::now();
        loop {
            let log = std::fs::read_to_string(self.dir.join("log")).unwrap_or_default();
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
        drop(self.guard.stdin.take());
        self.guard.wait().expect("its guard ends with it");
    }

    /// How `database` on it is reached.
    pub(crate) fn url(&self, database: &str) -> String {
        format!(
            "postgres://hostler@localhost/{database}?host={}",
            self.dir.display()
        )
    }
}
