//! A server of this program's own that ends with it, however it ends: a shell waits for the end of a
//! pipe, ends the server by its process id and removes its directory. A line in the pipe crashes the
//! server and starts it again.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

const GUARD: &str = r#"
dir=$1; signal=$2; shift 2
start() { "$@" </dev/null >>"$dir/log" 2>&1 & server=$!; }
end() { kill -s "$signal" $server 2>/dev/null; wait $server 2>/dev/null; }
start "$@"
while read -r _; do end; start "$@"; done
end
rm -rf "$dir"
"#;

pub(crate) struct Guard {
    dir: PathBuf,
    /// Its standard input ends with this program.
    shell: Child,
}

impl Guard {
    /// Starts this server, which has all that is its own in this directory, and ends with all its
    /// processes at this signal (`QUIT`) without tidying up.
    pub(crate) fn start(dir: PathBuf, signal: &str, server: &Command) -> Self {
        let mut shell = Command::new("sh");
        shell
            .args(["-c", GUARD, "guard"])
            .arg(&dir)
            .arg(signal)
            .arg(server.get_program())
            .args(server.get_args())
            .current_dir("/")
            .stdin(Stdio::piped());
        let shell = shell.spawn().expect("a shell runs");
        Self { dir, shell }
    }

    /// Has it ended at once, and started again.
    #[allow(dead_code, reason = "only some of those who start one crash it")]
    pub(crate) fn restart(&mut self) {
        let pipe = self.shell.stdin.as_mut().expect("its guard listens");
        writeln!(pipe, "again").expect("its guard listens");
    }

    /// Ends it.
    #[allow(dead_code, reason = "most servers end with the program")]
    pub(crate) fn stop(&mut self) {
        drop(self.shell.stdin.take());
        self.shell.wait().expect("its guard ends with it");
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// What the server has said.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.dir.join("log")).unwrap_or_default()
    }
}
