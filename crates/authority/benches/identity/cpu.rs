//! Which core a process runs on, and how much of it it has used.

use std::path::PathBuf;
use std::process::Command;

/// The server's core, and that of the load. On a machine with one core they share it, which costs
/// speed and changes no ratio of CPU times.
pub(crate) const SERVER: usize = 0;
pub(crate) const LOAD: usize = 1;
/// In a second, as Linux counts for programs (`USER_HZ`) on every architecture that we build for.
const TICKS: f64 = 100.0;

/// Pins this thread, and those that it starts from now on.
pub(crate) fn pin_to(core: usize) {
    let mut cores = rustix::thread::CpuSet::new();
    cores.set(core);
    // There may be no such core.
    let _ = rustix::thread::sched_setaffinity(None, &cores);
}

/// A command that runs on the server's core.
pub(crate) fn on_the_servers_core(program: PathBuf) -> Command {
    let mut command = Command::new("taskset");
    command.arg("-c").arg(SERVER.to_string()).arg(program);
    command
}

/// Seconds of CPU time that a process has used, its kernel part included (proc_pid_stat(5)).
pub(crate) fn seconds(pid: u32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("it runs");
    // The name stands in parentheses and may contain anything; utime and stime are the 12th and
    // 13th field after it.
    let (_, rest) = stat.rsplit_once(')').expect("a name");
    let field = |index| {
        let ticks = rest.split_whitespace().nth(index);
        ticks
            .and_then(|ticks| ticks.parse::<f64>().ok())
            .expect("a number")
    };
    (field(11) + field(12)) / TICKS
}
