//! A control plane and a host as two processes, as they run in production.

use std::path::PathBuf;
use std::process::{Child, Command};

use serde_json::Value;

use crate::server::{Server, free_port, hostler};

pub(crate) struct Fleet {
    agent: Child,
    server: Server,
}

impl Fleet {
    pub(crate) fn start() -> Self {
        let server = Server::start(&[]);
        let door = format!("127.0.0.1:{}", free_port());
        let created = server.ask(&["host", "create"]);
        let agent = hostler()
            .args(["agent", "--server", &server.url(), "--address", &door])
            .args(["--listen", &door, "--server-ca"])
            .arg(server.ca())
            .arg("--data-dir")
            .arg(server.directory().join("agent"))
            .arg("--import-allow")
            .arg(std::env::temp_dir())
            .env(
                "HOSTLER_REGISTER",
                created["registration_token"].as_str().expect("a token"),
            )
            .spawn()
            .expect("the agent starts");
        let fleet = Self { agent, server };
        let begun = std::time::Instant::now();
        while fleet.ask(&["host", "list"])[0]["last_heartbeat_at"].is_null() {
            assert!(begun.elapsed().as_secs() < 60, "the host does not enrol");
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
        fleet
    }

    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        self.server.command(arguments)
    }

    pub(crate) fn ask(&self, arguments: &[&str]) -> Value {
        self.server.ask(arguments)
    }

    pub(crate) fn agent_data(&self) -> PathBuf {
        self.server.directory().join("agent")
    }

    pub(crate) fn server_pid(&self) -> u32 {
        self.server.pid()
    }

    pub(crate) fn agent_pid(&self) -> u32 {
        self.agent.id()
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        let _ = self.agent.kill();
        let _ = self.agent.wait();
    }
}
