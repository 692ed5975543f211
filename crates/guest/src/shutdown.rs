//! The guest's end: processes are asked to finish, disks are flushed and closed, the power goes.
//!
//! It does not depend on the image's init, because every init wants to be asked differently, and
//! most take seconds.

use std::fs;
use std::io;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{StatVfsMountFlags, statvfs, sync};
use rustix::mount::{MountFlags, mount_remount};
use rustix::process::{Pid, Signal, getpid, kill_process};
use rustix::system::{RebootCommand, reboot};

/// How long the kernel may take to close the disks by force.
const FORCED_CLOSE: Duration = Duration::from_secs(2);
const POLL: Duration = Duration::from_millis(2);

/// What ends the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Off {
    /// Its power switch.
    Power,
    /// A reset, where there is no such switch and the host lets nothing begin anew.
    Reset,
}

/// Ends the guest; returns only when the kernel refuses to.
pub(crate) fn power_off(grace: Duration, off: Off) -> io::Result<()> {
    let asked = signal_all(Signal::TERM);
    wait_until(grace, || asked.iter().all(|pid| has_ended(*pid)));
    signal_all(Signal::KILL);
    sync();
    close_root_disk();
    let command = match off {
        Off::Power => RebootCommand::PowerOff,
        Off::Reset => RebootCommand::Restart,
    };
    Ok(reboot(command)?)
}

/// Sends a signal to every process but init, the kernel's own, and this one.
fn signal_all(signal: Signal) -> Vec<Pid> {
    let pids: Vec<Pid> = processes()
        .into_iter()
        .filter(|pid| !is_spared(*pid))
        .collect();
    for pid in &pids {
        // One that has just ended is no loss.
        let _ = kill_process(*pid, signal);
    }
    pids
}

fn processes() -> Vec<Pid> {
    let Ok(entries) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    let numbers = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    numbers.filter_map(Pid::from_raw).collect()
}

/// Init ends with the guest, and the kernel's threads look as if they had ended.
fn is_spared(pid: Pid) -> bool {
    pid == Pid::INIT || pid == getpid() || has_ended(pid)
}

/// A process that has ended has no command line any more, even while its parent has yet to notice;
/// some inits take a second for that.
fn has_ended(pid: Pid) -> bool {
    fs::read(format!("/proc/{pid}/cmdline")).map_or(true, |line| line.is_empty())
}

/// Makes the root disk read-only, so that it is clean when it is mounted next. The working
/// directory is its root: see `boot::spawn_agent`.
fn close_root_disk() {
    if mount_remount(".", MountFlags::RDONLY, "").is_ok() {
        return;
    }
    // Something still writes, init perhaps. The kernel can close the disks all the same, on a
    // thread of its own (sysrq-u).
    if fs::write("/proc/sysrq-trigger", "u").is_ok() {
        wait_until(FORCED_CLOSE, || {
            statvfs(Path::new("."))
                .is_ok_and(|stat| stat.f_flag.contains(StatVfsMountFlags::RDONLY))
        });
    }
}

fn wait_until(limit: Duration, done: impl Fn() -> bool) {
    let deadline = Instant::now() + limit;
    while !done() && Instant::now() < deadline {
        thread::sleep(POLL);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_and_init_are_spared() {
        assert!(is_spared(getpid()));
        assert!(!has_ended(getpid()));
        assert!(is_spared(Pid::INIT));
        assert!(processes().contains(&getpid()));
    }

    #[test]
    fn waiting_ends_when_it_is_done_and_when_time_is_up() {
        let begun = Instant::now();
        wait_until(Duration::from_secs(60), || true);
        wait_until(Duration::from_millis(10), || false);
        assert!(begun.elapsed() < Duration::from_secs(30));
    }
}
