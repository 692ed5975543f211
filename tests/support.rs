//! The binary as its users run it: a control plane, hosts, the command line, and curl.
//!
//! Everything lives in a temporary directory, on ports of its own, and ends with its guard.

mod agent;
mod curl;
mod daemon;
mod disk;
mod plane;
mod python;

use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

pub(crate) use agent::Agent;
pub(crate) use curl::{Answer, curl};
pub(crate) use daemon::Daemon;
pub(crate) use disk::SmallDisk;
pub(crate) use plane::Plane;
pub(crate) use python::python;

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

fn owned(environment: &[(&str, &str)]) -> Vec<(String, String)> {
    environment
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect()
}

/// Ends every process whose command line mentions this path.
pub(crate) fn kill_all_of(path: &Path) {
    for pid in processes_of(path) {
        let _ = Command::new("kill")
            .args(["-s", "KILL", &pid.to_string()])
            .status();
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

/// Whether `./test --long` asks for the long form of a test.
pub(crate) fn is_long() -> bool {
    std::env::var_os("HOSTLER_LONG").is_some_and(|long| !long.is_empty() && long != "0")
}
