//! The binary as its users run it: a control plane, hosts, the command line, and curl.
//!
//! Everything lives in a temporary directory, on ports of its own, and ends with its guard.

use std::fmt::Write as _;
use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Output, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

/// Emulated guests on a busy machine take their time; a test that waits this long has failed.
pub(crate) const PATIENCE: Duration = Duration::from_secs(90);

/// A port that is free now. Below what the kernel gives to outgoing connections, so that nothing
/// else of this machine takes it before its user does.
pub(crate) fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let start = 20_000 + (std::process::id() % 100) as u16 * 100;
    loop {
        let port = start + NEXT.fetch_add(1, Ordering::Relaxed) % 10_000;
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return port;
        }
    }
}

/// Asks until the answer is there, and says what was waited for when it never comes.
pub(crate) fn wait_for<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(begun.elapsed() < PATIENCE, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Tells how long something took on a machine that has time for it. While processes wait for a
/// processor (proc_pressure(5): `some`), a second counts for a tenth: what is promised in seconds
/// is promised of machines that are not overwhelmed, and tests run on others too.
pub(crate) struct Stopwatch {
    begun: Instant,
    waited_before: Duration,
}

impl Stopwatch {
    pub(crate) fn start() -> Self {
        Self {
            begun: Instant::now(),
            waited_before: waited(),
        }
    }

    pub(crate) fn elapsed(&self) -> Duration {
        let passed = self.begun.elapsed();
        let waited = waited().saturating_sub(self.waited_before).min(passed);
        passed - waited.mul_f64(0.9)
    }
}

/// How long processes of this machine have waited for a processor; nothing where the kernel does
/// not count it.
fn waited() -> Duration {
    let text = std::fs::read_to_string("/proc/pressure/cpu").unwrap_or_default();
    let some = text.lines().find(|line| line.starts_with("some"));
    let total = some.and_then(|line| line.split("total=").nth(1)?.trim().parse().ok());
    Duration::from_micros(total.unwrap_or_default())
}

pub(crate) fn hostler() -> Command {
    hostler_in(None)
}

/// In this network namespace, if any.
fn hostler_in(namespace: Option<&str>) -> Command {
    let program = env!("CARGO_BIN_EXE_hostler");
    let mut command = match namespace {
        Some(namespace) => {
            let mut command = Command::new("ip");
            command.args(["netns", "exec", namespace, program]);
            command
        }
        None => Command::new(program),
    };
    // Nothing of the developer's own login reaches a test.
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("HOSTLER_")) {
        command.env_remove(name);
    }
    command
        .env("XDG_CONFIG_HOME", "/nonexistent")
        .stdin(Stdio::null());
    command
}

/// A daemon that is killed when its test ends.
pub(crate) struct Daemon {
    child: Child,
    log: PathBuf,
}

impl Daemon {
    pub(crate) fn start(mut command: Command, log: PathBuf) -> Self {
        let stderr = std::fs::File::options()
            .create(true)
            .append(true)
            .open(&log)
            .expect("a log");
        let child = command
            .stdout(Stdio::piped())
            .stderr(stderr)
            .spawn()
            .expect("it starts");
        Self { child, log }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it prints. Once.
    pub(crate) fn output(&mut self) -> ChildStdout {
        self.child.stdout.take().expect("its output")
    }

    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// `kill -9`.
    pub(crate) fn kill(mut self) {
        self.child.kill().expect("killed");
        self.child.wait().expect("reaped");
    }

    /// SIGTERM, and how it ended.
    pub(crate) fn stop(mut self) -> Option<i32> {
        self.signal("TERM");
        wait_for("the daemon's end", || {
            self.child.try_wait().expect("its status")
        })
        .code()
    }

    /// How it ended by itself.
    pub(crate) fn end(mut self) -> (Option<i32>, String) {
        let status = wait_for("the daemon's end", || {
            self.child.try_wait().expect("its status")
        });
        (status.code(), self.log())
    }

    fn signal(&self, signal: &str) {
        let pid = self.child.id().to_string();
        let status = Command::new("kill")
            .args(["-s", signal, &pid])
            .status()
            .expect("kill runs");
        assert!(status.success());
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

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

fn owned(environment: &[(&str, &str)]) -> Vec<(String, String)> {
    environment
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect()
}

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

/// Ends every process whose command line mentions this path.
pub(crate) fn kill_all_of(path: &Path) {
    for pid in processes_of(path) {
        let _ = Command::new("kill")
            .args(["-s", "KILL", &pid.to_string()])
            .status();
    }
}

/// What curl brought back.
#[derive(Debug)]
pub(crate) struct Answer {
    /// 0 when no answer came: `problem` says why.
    pub(crate) status: u16,
    pub(crate) headers: String,
    pub(crate) body: String,
    pub(crate) problem: String,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|_| panic!("not JSON: {self:?}"))
    }

    pub(crate) fn code(&self) -> String {
        self.json()["error"]["code"]
            .as_str()
            .unwrap_or_default()
            .to_owned()
    }

    pub(crate) fn message(&self) -> String {
        self.json()["error"]["message"]
            .as_str()
            .unwrap_or_default()
            .to_owned()
    }
}

/// Runs curl with a configuration on its standard input, where a token is not seen by others.
pub(crate) fn curl(arguments: &[&str], config: &str) -> Answer {
    use std::io::Write as _;
    let mut child = Command::new("curl")
        .args([
            "--silent",
            "--show-error",
            "--dump-header",
            "/dev/stderr",
            "--max-time",
            "60",
        ])
        .args(["--write-out", "\n%{http_code}"])
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("curl runs");
    child
        .stdin
        .take()
        .expect("its input")
        .write_all(config.as_bytes())
        .expect("written");
    let output = child.wait_with_output().expect("curl ends");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let (body, status) = text.rsplit_once('\n').expect("a status");
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    Answer {
        status: status.parse().expect("a number"),
        body: body.to_owned(),
        problem: told
            .lines()
            .filter(|l| l.starts_with("curl:"))
            .collect::<Vec<_>>()
            .join("; "),
        headers: told,
    }
}

/// The processes whose command line mentions this path.
pub(crate) fn processes_of(path: &Path) -> Vec<u32> {
    let wanted = path.to_str().expect("text");
    let all = std::fs::read_dir("/proc").expect("/proc").flatten();
    all.filter_map(|entry| {
        let pid: u32 = entry.file_name().to_str()?.parse().ok()?;
        let line = std::fs::read(entry.path().join("cmdline")).ok()?;
        String::from_utf8_lossy(&line)
            .contains(wanted)
            .then_some(pid)
    })
    .collect()
}

/// A small file system of its own, unmounted when the test ends. Only root may mount one.
pub(crate) struct SmallDisk(TempDir);

impl SmallDisk {
    pub(crate) fn mount(size: &str) -> Option<Self> {
        let directory = tempfile::tempdir().expect("a directory");
        let mounted = Command::new("mount")
            .args([
                "-t",
                "tmpfs",
                "-o",
                &format!("size={size},mode=700"),
                "tmpfs",
            ])
            .arg(directory.path())
            .stderr(Stdio::null())
            .status()
            .is_ok_and(|status| status.success());
        if !mounted {
            eprintln!("skipped: a full disk can only be made where mounting is allowed");
            return None;
        }
        Some(Self(directory))
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }

    /// Fills it with empty files until there is room for so many more. Returns where they are.
    pub(crate) fn fill_with_files(&self, room: usize) -> PathBuf {
        let place = self.path().join("files");
        std::fs::create_dir(&place).expect("made");
        let file = |number: usize| place.join(number.to_string());
        let made = (0..).take_while(|number| std::fs::write(file(*number), "").is_ok());
        let made = made.count();
        for number in made - room..made {
            std::fs::remove_file(file(number)).expect("removed");
        }
        place
    }

    /// Takes all that is left, and two pages less: a directory can still be made.
    pub(crate) fn fill(&self, ballast: &Path) {
        let mut file = std::fs::File::create(ballast).expect("a file");
        let chunk = vec![0; 64 << 10];
        let mut written = 0;
        while let Ok(more) = std::io::Write::write(&mut file, &chunk) {
            written += more as u64;
        }
        file.set_len(written.saturating_sub(8192))
            .expect("shortened");
    }

    pub(crate) fn resize(&self, size: &str) {
        let option = format!("remount,size={size}");
        let status = Command::new("mount")
            .args(["-o", &option])
            .arg(self.0.path())
            .status();
        assert!(status.expect("mount runs").success());
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount")
            .arg("--lazy")
            .arg(self.0.path())
            .status();
    }
}

/// Whether `./test --long` asks for the long form of a test.
pub(crate) fn is_long() -> bool {
    std::env::var_os("HOSTLER_LONG").is_some_and(|long| !long.is_empty() && long != "0")
}
