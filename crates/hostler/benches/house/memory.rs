//! Idle resident memory of the daemons, beside a bare axum server with the same TLS.

use std::time::Duration;

use crate::bare::Bare;
use crate::fleet::Fleet;
use crate::table::Table;

/// Long enough for the work of starting to be over.
const SETTLE: Duration = Duration::from_secs(5);

pub(crate) fn measure(fleet: &Fleet, table: &mut Table) {
    let bare = Bare::start();
    std::thread::sleep(SETTLE);
    let peer = resident_mib(bare.pid());
    for (what, pid, asked) in [
        (
            "idle resident memory, agent (bare axum + rustls)",
            fleet.agent_pid(),
            "at most 20 MiB",
        ),
        (
            "idle resident memory, server (bare axum + rustls)",
            fleet.server_pid(),
            "at most 40 MiB",
        ),
    ] {
        let ours = resident_mib(pid);
        let ratio = format!("{:.2}", ours / peer);
        table.row(
            what,
            format!("{ours:.1} MiB"),
            format!("{peer:.1} MiB"),
            ratio,
            asked,
        );
    }
}

pub(crate) fn resident_mib(pid: u32) -> f64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
    let line = status
        .lines()
        .find(|line| line.starts_with("VmRSS:"))
        .expect("VmRSS");
    let kib: f64 = line
        .split_whitespace()
        .nth(1)
        .and_then(|n| n.parse().ok())
        .expect("a number");
    kib / 1024.0
}
