//! A PostgreSQL server of this test program's own: in a temporary directory, on a Unix socket that
//! nobody else reaches, with one database for each test. It ends with the program, however that
//! ends: a shell waits for the end of a pipe, ends the server by its process id and removes the
//! directory.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Connection};

const GUARD: &str = r#"
dir=$1; shift
"$@" </dev/null >"$dir/log" 2>&1 &
server=$!
echo $server >"$dir/pid"
cat >/dev/null
kill -QUIT $server 2>/dev/null
wait $server
rm -rf "$dir"
"#;

/// Who the server runs as when this program is run by root, which PostgreSQL refuses to be.
const NOBODY: [&str; 4] = [
    "setpriv",
    "--reuid=nobody",
    "--regid=nogroup",
    "--clear-groups",
];

pub(crate) struct Cluster {
    dir: PathBuf,
    /// Its standard input ends with this program.
    guard: Child,
}

/// The program's cluster.
pub(crate) fn cluster() -> &'static Cluster {
    static CLUSTER: OnceLock<Cluster> = OnceLock::new();
    CLUSTER.get_or_init(Cluster::start)
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
    if !rustix_is_root() {
        return Command::new(program);
    }
    let mut command = Command::new(NOBODY[0]);
    command.args(&NOBODY[1..]).arg(program);
    command
}

fn rustix_is_root() -> bool {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata("/proc/self").expect("procfs").uid() == 0
}

impl Cluster {
    pub(crate) fn start() -> Self {
        let dir = tempfile::Builder::new()
            .prefix("hostler-pg-")
            .tempdir()
            .expect("a directory")
            .keep();
        if rustix_is_root() {
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
            .args([
                "-c",
                "listen_addresses=",
                "-c",
                "fsync=off",
                "-c",
                "full_page_writes=off",
            ])
            .args([
                "-c",
                "max_connections=400",
                "-c",
                "shared_buffers=32MB",
                "-k",
            ])
            .arg(&dir)
            .current_dir("/")
            .stdin(Stdio::piped());
        let guard = guard.spawn().expect("a shell runs");
        let cluster = Self { dir, guard };
        cluster.wait();
        cluster
    }

    /// Until it takes connections.
    fn wait(&self) {
        let socket = self.dir.join(".s.PGSQL.5432");
        let begun = Instant::now();
        loop {
            // The file is there as soon as it listens, and only while it runs.
            if std::os::unix::net::UnixStream::connect(&socket).is_ok() {
                return;
            }
            let log = || std::fs::read_to_string(self.dir.join("log")).unwrap_or_default();
            assert!(
                begun.elapsed() < Duration::from_secs(60),
                "no server: {}",
                log()
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Ends it, as a server is ended that is to be restarted.
    #[allow(dead_code, reason = "tests/it has books in files")]
    pub(crate) fn stop(mut self) {
        drop(self.guard.stdin.take());
        self.guard.wait().expect("its guard ends with it");
    }

    pub(crate) fn url(&self, database: &str) -> String {
        format!(
            "postgres://hostler@localhost/{database}?host={}",
            self.dir.display()
        )
    }

    /// A new empty database; its URL. Text there is sorted as in English unless it is told
    /// otherwise, which is not how ids have to be.
    pub(crate) async fn database(&self) -> String {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("test_{}", NEXT.fetch_add(1, Ordering::Relaxed));
        let mut db = self.connect("postgres").await;
        let version: String = sqlx::query_scalar("SHOW server_version_num")
            .fetch_one(&mut db)
            .await
            .expect("a version");
        let english = match version.parse::<u32>() {
            Ok(150_000..) => "LOCALE_PROVIDER icu ICU_LOCALE 'en-US'",
            _ => "",
        };
        self.execute(
            &mut db,
            &format!("CREATE DATABASE {name} TEMPLATE template0 ENCODING 'UTF8' {english}"),
        )
        .await;
        self.url(&name)
    }

    pub(crate) async fn connect(&self, database: &str) -> PgConnection {
        let begun = Instant::now();
        loop {
            match PgConnection::connect(&self.url(database)).await {
                Ok(db) => return db,
                // It listens a moment before it is ready.
                Err(error) => {
                    assert!(begun.elapsed() < Duration::from_secs(60), "{error}");
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            }
        }
    }

    pub(crate) async fn execute(&self, db: &mut PgConnection, statement: &str) {
        let done = sqlx::raw_sql(AssertSqlSafe(statement)).execute(db).await;
        done.expect(statement);
    }
}
