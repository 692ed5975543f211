//! Fifty VMs that run on one host: how long a list takes, and what the daemon takes.

use std::time::{Duration, Instant};

use crate::host::{Host, millis, percentile};
use crate::memory::resident_mib;
use crate::table::Table;

const VMS: usize = 50;
const LISTS: usize = 200;
/// How long the daemon is watched while nobody asks anything.
const IDLE: Duration = Duration::from_secs(20);

pub(crate) fn measure(table: &mut Table) {
    let host = Host::start();
    let body = |n| format!(r#"{{"name":"vm-{n}","memory_mb":128,"disk_size_mb":256}}"#);
    for number in 0..VMS {
        host.post("/v1/vms", &body(number));
        host.post(&format!("/v1/vms/vm-{number}/start"), "{}");
    }
    until_ready(&host);
    let list = || host.get("/v1/vms").as_array().map(Vec::len);
    let mut times: Vec<f64> = (0..LISTS).map(|_| millis(list).0).collect();
    assert_eq!(list(), Some(VMS));
    table.row(
        &format!("list of {VMS} running VMs over mTLS, 99th percentile of {LISTS} (median)"),
        format!("{:.1} ms", percentile(&mut times, 99)),
        format!("{:.1} ms", percentile(&mut times, 50)),
        "-",
        "at most 5 ms",
    );
    let memory = format!("{:.1} MiB", resident_mib(host.pid()));
    let what = format!("resident memory of the agent with {VMS} running VMs");
    table.row(&what, memory, "-", "-", "at most 30 MiB");
    let before = cpu_ms(host.pid());
    std::thread::sleep(IDLE);
    let share = (cpu_ms(host.pid()) - before) / IDLE.as_millis() as f64 * 100.0;
    let what = format!("processor that it takes then, over {} s", IDLE.as_secs());
    table.row(&what, format!("{share:.2} %"), "-", "-", "none");
}

/// Guests that still boot would be measured too.
fn until_ready(host: &Host) {
    let begun = Instant::now();
    loop {
        let vms = host.get("/v1/vms");
        let ready = |vm: &serde_json::Value| vm["ready_at"].is_string();
        let up = vms.as_array().into_iter().flatten().filter(|vm| ready(vm));
        if up.count() == VMS {
            return;
        }
        let patience = Duration::from_secs(600);
        assert!(begun.elapsed() < patience, "the guests do not come up");
        std::thread::sleep(Duration::from_secs(1));
    }
}

/// Milliseconds of processor time; the kernel counts in hundredths of a second.
pub(crate) fn cpu_ms(pid: u32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("it runs");
    let (_, rest) = stat.rsplit_once(')').expect("a command");
    let fields = rest.split_ascii_whitespace().skip(11).take(2);
    fields
        .filter_map(|ticks| ticks.parse::<f64>().ok())
        .sum::<f64>()
        * 10.0
}
