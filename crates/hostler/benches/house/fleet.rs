//! A control plane and a host as two processes, as they run in production.

use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use serde_json::Value;
use tempfile::TempDir;

pub(crate) struct Fleet {
    directory: TempDir,
    server: Child,
    agent: Option<Child>,
    url: String,
    key: String,
}

pub(crate) fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("its address").port()
}

pub(crate) fn hostler() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hostler"));
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("HOSTLER_")) {
        command.env_remove(name);
    }
    command.stdin(Stdio::null()).stderr(Stdio::null());
    command
}

impl Fleet {
    pub(crate) fn start() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let (people, machines, door) = (free_port(), free_port(), free_port());
        let address = |port| format!("127.0.0.1:{port}");
        let mut server = hostler()
            .args([
                "server",
                "--listen",
                &address(people),
                "--fleet-listen",
                &address(machines),
            ])
            .arg("--data-dir")
            .arg(directory.path().join("server"))
            .stdout(Stdio::piped())
            .spawn()
            .expect("the server starts");
        let lines = BufReader::new(server.stdout.take().expect("its output")).lines();
        let mut key = String::new();
        for line in lines.map_while(Result::ok) {
            if let Some(printed) = line
                .split_whitespace()
                .find(|word| word.starts_with("hst_"))
            {
                key = printed.to_owned();
            }
            if line.starts_with("ready") {
                break;
            }
        }
        let url = format!("https://{}", address(people));
        let mut fleet = Self {
            directory,
            server,
            agent: None,
            url,
            key,
        };
        let created = fleet.ask(&["host", "create"]);
        let agent = hostler()
            .args(["agent", "--server", &fleet.url, "--address", &address(door)])
            .args(["--listen", &address(door), "--server-ca"])
            .arg(fleet.ca())
            .arg("--data-dir")
            .arg(fleet.directory.path().join("agent"))
            .env(
                "HOSTLER_REGISTER",
                created["registration_token"].as_str().expect("a token"),
            )
            .spawn()
            .expect("the agent starts");
        fleet.agent = Some(agent);
        let begun = std::time::Instant::now();
        while fleet.ask(&["host", "list"])[0]["last_heartbeat_at"].is_null() {
            assert!(begun.elapsed().as_secs() < 60, "the host does not enrol");
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
        fleet
    }

    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = hostler();
        command.args(arguments).env("HOSTLER_SERVER", &self.url);
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

    fn ca(&self) -> PathBuf {
        self.directory.path().join("server/ca.pem")
    }

    pub(crate) fn agent_data(&self) -> PathBuf {
        self.directory.path().join("agent")
    }

    pub(crate) fn server_pid(&self) -> u32 {
        self.server.id()
    }

    pub(crate) fn agent_pid(&self) -> u32 {
        self.agent.as_ref().map_or(0, Child::id)
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        for child in self.agent.iter_mut().chain([&mut self.server]) {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
