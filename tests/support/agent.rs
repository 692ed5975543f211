//! A host that is enrolled with a control plane.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use super::{Daemon, Plane, free_port, hostler_in, kill_all_of, owned, wait_for};

/// A host of a test's own.
pub(crate) struct Agent {
    directory: PathBuf,
    pub(crate) id: String,
    /// Where it listens; 0 when it has no address.
    pub(crate) door: u16,
    daemon: Option<Daemon>,
    environment: Vec<(String, String)>,
    /// The network namespace in which it runs, and its address there.
    namespace: Option<(String, Ipv4Addr)>,
}

impl Agent {
    /// One that was not started yet.
    pub(crate) fn new(directory: PathBuf) -> Self {
        Self {
            directory,
            id: String::new(),
            door: free_port(),
            daemon: None,
            environment: Vec::new(),
            namespace: None,
        }
    }

    /// With these variables in its environment.
    pub(crate) fn with(mut self, environment: &[(&str, &str)]) -> Self {
        self.environment = owned(environment);
        self
    }

    /// In this network namespace, where it has this address.
    pub(crate) fn within(mut self, namespace: &str, address: Ipv4Addr) -> Self {
        self.namespace = Some((namespace.to_owned(), address));
        self
    }

    /// Starts the daemon and waits until the control plane has heard from it.
    pub(crate) fn launch(&mut self, plane: &Plane, token: Option<&str>) {
        self.daemon = Some(self.spawn(plane, token));
        let begun = jiff::Timestamp::now();
        wait_for("the host's first heartbeat", || {
            let running = self
                .daemon
                .as_mut()?
                .child
                .try_wait()
                .expect("its status")
                .is_none();
            assert!(running, "the agent ended: {}", self.log());
            let host = plane.ask(&["host", "show", &self.id]);
            let last: jiff::Timestamp = host["last_heartbeat_at"].as_str()?.parse().ok()?;
            (host["status"] == "online" && last.as_second() >= begun.as_second()).then_some(())
        });
    }

    pub(crate) fn spawn(&self, plane: &Plane, token: Option<&str>) -> Daemon {
        let namespace = self.namespace.as_ref();
        let mut command = hostler_in(namespace.map(|(name, _)| name.as_str()));
        command
            .arg("agent")
            .args(["--server", &plane.url()])
            .arg("--server-ca")
            .arg(plane.ca())
            .arg("--data-dir")
            .arg(&self.directory)
            .arg("--import-allow")
            .arg(std::env::temp_dir())
            .envs(self.environment.iter().map(|(n, v)| (n, v)));
        if self.door != 0 {
            let address = namespace.map_or(Ipv4Addr::LOCALHOST, |(_, address)| *address);
            let door = format!("{address}:{}", self.door);
            command.args(["--address", &door, "--listen", &door]);
        }
        if let Some(token) = token {
            command.env("HOSTLER_REGISTER", token);
        }
        Daemon::start(command, self.directory.with_extension("log"))
    }

    pub(crate) fn daemon(&mut self) -> &mut Option<Daemon> {
        &mut self.daemon
    }

    pub(crate) fn log(&self) -> String {
        self.daemon.as_ref().map(Daemon::log).unwrap_or_default()
    }

    pub(crate) fn data(&self) -> &Path {
        &self.directory
    }
}

impl Drop for Agent {
    /// A test that fails leaves its guests running, and nobody else would end them.
    fn drop(&mut self) {
        self.daemon = None;
        kill_all_of(&self.directory);
    }
}
