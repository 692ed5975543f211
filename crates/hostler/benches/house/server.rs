//! A control plane as a process, as it runs in production.

use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::Value;
use tempfile::TempDir;

pub(crate) struct Server {
    directory: TempDir,
    process: Child,
    /// Where people reach it, and where machines do.
    pub(crate) people: String,
    pub(crate) machines: String,
    /// The first admin's.
    pub(crate) key: String,
}

pub(crate) fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("its address").port()
}

pub(crate) fn hostler() -> Command {
    by_itself(Command::new(env!("CARGO_BIN_EXE_hostler")))
}

/// Without what this shell may say to the program.
pub(crate) fn by_itself(mut command: Command) -> Command {
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("HOSTLER_")) {
        command.env_remove(name);
    }
    command.stdin(Stdio::null()).stderr(Stdio::null());
    command
}

impl Server {
    pub(crate) fn start(arguments: &[&str]) -> Self {
        Self::start_as(hostler(), arguments)
    }

    /// With a command that comes to the program in its own way.
    pub(crate) fn start_as(mut command: Command, arguments: &[&str]) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let address = |port| format!("127.0.0.1:{port}");
        let (people, machines) = (address(free_port()), address(free_port()));
        let mut process = command
            .args(["server", "--listen", &people, "--fleet-listen", &machines])
            // One client stands for very many, and what is measured is not how well it is held back.
            .args(["--rate-per-address", "0", "--rate-per-token", "0"])
            .args(["--max-connections-per-address", "1000000"])
            .args(arguments)
            .arg("--data-dir")
            .arg(directory.path().join("server"))
            .stdout(Stdio::piped())
            .spawn()
            .expect("the server starts");
        let lines = BufReader::new(process.stdout.take().expect("its output")).lines();
        let mut key = String::new();
        for line in lines.map_while(Result::ok) {
            let mut words = line.split_whitespace();
            if let Some(printed) = words.find(|word| word.starts_with("hst_")) {
                key = printed.to_owned();
            }
            if line.starts_with("ready") {
                break;
            }
        }
        assert!(!key.is_empty(), "the server did not start");
        Self {
            directory,
            process,
            people,
            machines,
            key,
        }
    }

    pub(crate) fn url(&self) -> String {
        format!("https://{}", self.people)
    }

    /// The command line, as its admin.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = hostler();
        command.args(arguments).env("HOSTLER_SERVER", self.url());
        command
            .env("HOSTLER_TOKEN", &self.key)
            .env("HOSTLER_CA", self.ca());
        command
    }

    pub(crate) fn ask(&self, arguments: &[&str]) -> Value {
        let output = self
            .command(arguments)
            .args(["--output", "json"])
            .output()
            .expect("it runs");
        assert!(output.status.success(), "{arguments:?} failed");
        serde_json::from_slice(&output.stdout).unwrap_or(Value::Null)
    }

    pub(crate) fn ca(&self) -> PathBuf {
        self.directory.path().join("server/ca.pem")
    }

    pub(crate) fn directory(&self) -> &Path {
        self.directory.path()
    }

    pub(crate) fn pid(&self) -> u32 {
        self.process.id()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
