//! A control plane, and what is asked of it.

use std::fmt::Write as _;
use std::io::{BufRead, BufReader};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Output;

use serde_json::Value;
use tempfile::TempDir;

use super::{Agent, Answer, Daemon, curl, free_port, hostler, owned};

/// A control plane of a test's own.
pub(crate) struct Plane {
    directory: TempDir,
    data: PathBuf,
    address: Ipv4Addr,
    pub(crate) people: u16,
    pub(crate) machines: u16,
    key: String,
    daemon: Option<Daemon>,
    environment: Vec<(String, String)>,
}

impl Plane {
    pub(crate) fn start() -> Self {
        Self::start_with(&[])
    }

    /// With these variables in its environment.
    pub(crate) fn start_with(environment: &[(&str, &str)]) -> Self {
        Self::launched(None, Ipv4Addr::LOCALHOST, environment)
    }

    /// With its data in this directory.
    pub(crate) fn start_in(data: PathBuf) -> Self {
        Self::launched(Some(data), Ipv4Addr::LOCALHOST, &[])
    }

    /// At this address.
    pub(crate) fn start_at(address: Ipv4Addr, environment: &[(&str, &str)]) -> Self {
        Self::launched(None, address, environment)
    }

    fn launched(data: Option<PathBuf>, address: Ipv4Addr, environment: &[(&str, &str)]) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let mut plane = Self {
            data: data.unwrap_or_else(|| directory.path().join("server")),
            directory,
            address,
            people: free_port(),
            machines: free_port(),
            key: String::new(),
            daemon: None,
            environment: owned(environment),
        };
        plane.key = plane.launch().expect("a first start prints the admin key");
        plane
    }

    /// Starts it again as it was.
    pub(crate) fn relaunch(&mut self) {
        assert_eq!(self.launch(), None, "the admin key is printed once");
    }

    /// Another server on the same database, which is in its environment.
    pub(crate) fn replica(&self) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let mut replica = Self {
            data: directory.path().join("server"),
            directory,
            address: self.address,
            people: free_port(),
            machines: free_port(),
            key: self.key.clone(),
            daemon: None,
            environment: self.environment.clone(),
        };
        assert_eq!(replica.launch(), None, "a second admin key was printed");
        replica
    }

    /// Starts it again on the same data.
    pub(crate) fn restart(&mut self, environment: &[(&str, &str)]) {
        self.environment = owned(environment);
        assert_eq!(self.launch(), None, "the admin key is printed once");
    }

    /// Starts it, waits until it answers, and takes the key that it printed.
    fn launch(&mut self) -> Option<String> {
        self.daemon = None;
        let mut command = hostler();
        command
            .arg("server")
            .arg("--data-dir")
            .arg(self.data())
            .args(["--listen", &format!("{}:{}", self.address, self.people)])
            .args([
                "--fleet-listen",
                &format!("{}:{}", self.address, self.machines),
            ])
            .envs(self.environment.iter().map(|(n, v)| (n, v)));
        let mut daemon = Daemon::start(command, self.path("server.log"));
        let lines = BufReader::new(daemon.child.stdout.take().expect("its output")).lines();
        let mut key = None;
        // It says so once its doors are open.
        for line in lines {
            let line = line.expect("text");
            if let Some(printed) = line
                .split_whitespace()
                .find(|word| word.starts_with("hst_"))
            {
                key = Some(printed.to_owned());
            }
            if line.starts_with("ready") {
                self.daemon = Some(daemon);
                return key;
            }
        }
        panic!("the server ended: {}", daemon.log());
    }

    pub(crate) fn data(&self) -> &Path {
        &self.data
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub(crate) fn key(&self) -> &str {
        &self.key
    }

    pub(crate) fn url(&self) -> String {
        format!("https://{}:{}", self.address, self.people)
    }

    pub(crate) fn ca(&self) -> PathBuf {
        self.data().join("ca.pem")
    }

    pub(crate) fn daemon(&mut self) -> &mut Option<Daemon> {
        &mut self.daemon
    }

    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.path("server.log")).unwrap_or_default()
    }

    /// Runs a client command with the admin's key.
    pub(crate) fn cli(&self, arguments: &[&str]) -> Output {
        let mut command = hostler();
        command.args(arguments).env("HOSTLER_TOKEN", &self.key);
        command
            .env("HOSTLER_SERVER", self.url())
            .env("HOSTLER_CA", self.ca());
        command.output().expect("it runs")
    }

    /// The same, which must succeed; its answer as JSON.
    pub(crate) fn ask(&self, arguments: &[&str]) -> Value {
        let output = self.cli(&[arguments, &["--output", "json"]].concat());
        let told = String::from_utf8_lossy(&output.stderr);
        assert!(
            output.status.success(),
            "{arguments:?}: {told}\n{}",
            self.log()
        );
        serde_json::from_slice(&output.stdout).unwrap_or(Value::Null)
    }

    /// The same, which must fail; its complaint.
    pub(crate) fn refused(&self, arguments: &[&str]) -> String {
        let output = self.cli(arguments);
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(
            output.status.code(),
            Some(1),
            "{arguments:?} did not fail: {told}"
        );
        told
    }

    /// Asks over REST with curl.
    pub(crate) fn curl(&self, token: Option<&str>, arguments: &[&str], path: &str) -> Answer {
        let mut headers = String::new();
        if let Some(token) = token {
            let _ = writeln!(headers, "header = \"Authorization: Bearer {token}\"");
        }
        let ca = self.ca();
        let url = format!("{}{path}", self.url());
        let mut all = vec!["--cacert", ca.to_str().expect("text"), "--config", "-"];
        all.extend(arguments);
        all.push(&url);
        curl(&all, &headers)
    }

    /// Announces a host and starts an agent that enrols with the token.
    pub(crate) fn enrol(&self, name: &str) -> Agent {
        self.enrol_in(self.path(name))
    }

    /// The same, with the host's data in this directory.
    pub(crate) fn enrol_in(&self, directory: PathBuf) -> Agent {
        self.enrol_as(Agent::new(directory))
    }

    /// A host that has no address: nobody can dial it.
    pub(crate) fn enrol_without_address(&self, name: &str) -> Agent {
        let mut agent = Agent::new(self.path(name));
        agent.door = 0;
        self.enrol_as(agent)
    }

    /// Announces a host and starts this agent, which enrols with the token.
    pub(crate) fn enrol_as(&self, mut agent: Agent) -> Agent {
        let created = self.ask(&["host", "create"]);
        let token = created["registration_token"].as_str().expect("a token");
        created["host"]["id"]
            .as_str()
            .expect("an id")
            .clone_into(&mut agent.id);
        agent.launch(self, Some(token));
        agent
    }
}
