//! Processes that outlive us: how a VM's process is recognised again, watched and ended.
//!
//! A pid alone proves nothing, because the kernel hands it out again. A [`Process`] is a pid with
//! the time of its start and the boot it started in, and a [`Watched`] holds a pidfd, which stays
//! with one process for ever: a signal sent through it cannot hit a stranger, and it reports
//! the end of a process that is not our child, as an adopted one is not.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use rustix::io::Errno;
use rustix::process::{
    Pid, PidfdFlags, Signal, kill_process, pidfd_open, pidfd_send_signal, setpriority_pgrp,
};
use serde::{Deserialize, Serialize};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::driver::GuestEndpoint;

/// How nice VMs are to the rest of their host (setpriority(2)).
const GUEST_NICENESS: i32 = 5;

/// A VM's process, so described that it can be found again after a restart of the daemon.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Process {
    pub(crate) birth: Birth,
    /// Where the driver is spoken to.
    pub(crate) control_socket: PathBuf,
    /// Where the guest is spoken to.
    #[serde(alias = "guest_socket")]
    pub(crate) guest: GuestEndpoint,
}

/// What tells one process from every other.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Birth {
    pid: i32,
    /// Clock ticks from boot to the start of the process (proc(5), `/proc/PID/stat` field 22).
    start_time: u64,
    /// The boot it started in (`/proc/sys/kernel/random/boot_id`).
    boot_id: String,
}

impl Birth {
    /// The process that has this pid now; none when there is no such process.
    pub(crate) fn of(pid: i32) -> Option<Self> {
        let start_time = start_time_of_living(pid).ok()??;
        Some(Self {
            pid,
            start_time,
            boot_id: boot_id().ok()?,
        })
    }

    pub(crate) fn pid(&self) -> i32 {
        self.pid
    }

    /// Whether this is among the process's arguments.
    pub(crate) fn has_argument(&self, wanted: &str) -> bool {
        let line = fs::read(format!("/proc/{}/cmdline", self.pid)).unwrap_or_default();
        line.split(|byte| *byte == 0)
            .any(|argument| argument == wanted.as_bytes())
    }

    /// Ends the process by its pid, for when no pidfd is to be had. Better a [`Watched`]: between
    /// the look at the process and the signal, its pid could go to another.
    pub(crate) fn kill(&self) {
        if matches!(self.is_alive(), Ok(true))
            && let Some(pid) = Pid::from_raw(self.pid)
        {
            // The only other way to fail is that it has just ended.
            let _ = kill_process(pid, Signal::KILL);
        }
    }

    /// Lets the rest of the host go first: whoever asks the host for something gets an answer, however
    /// many guests are busy. Guests among themselves share as before.
    ///
    /// Linux weighs the threads of one session against each other by niceness, and sessions against
    /// each other by that of their autogroup (sched(7)), unless control groups decide.
    pub(crate) fn yield_to_others(&self) {
        let niced = Pid::from_raw(self.pid).map(|pid| setpriority_pgrp(Some(pid), GUEST_NICENESS));
        let session = format!("/proc/{}/autogroup", self.pid);
        let grouped = fs::write(session, GUEST_NICENESS.to_string());
        if let (Some(Err(error)), Err(_)) = (niced, grouped) {
            tracing::debug!(%error, pid = self.pid, "a VM's process keeps its priority");
        }
    }

    /// Whether the process lives.
    ///
    /// # Errors
    /// When that cannot be found out, for want of descriptors say: it is not dead for that.
    pub(crate) fn is_alive(&self) -> io::Result<bool> {
        Ok(start_time_of_living(self.pid)? == Some(self.start_time) && boot_id()? == self.boot_id)
    }
}

/// A living process that is being watched.
#[derive(Debug)]
pub(crate) struct Watched {
    pid: i32,
    pidfd: AsyncFd<OwnedFd>,
}

impl Watched {
    /// Takes hold of the process; `None` when it has ended (or its pid is somebody else's now).
    ///
    /// # Errors
    /// When that cannot be found out.
    pub(crate) fn open(birth: &Birth) -> io::Result<Option<Self>> {
        let Some(pid) = Pid::from_raw(birth.pid) else {
            return Ok(None);
        };
        let pidfd = match pidfd_open(pid, PidfdFlags::empty()) {
            Ok(pidfd) => pidfd,
            Err(Errno::SRCH) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        // Looked at only now: the pidfd holds whoever has the pid, and this says who that is.
        if !birth.is_alive()? {
            return Ok(None);
        }
        #[allow(
            deprecated,
            reason = "deprecated for types whose descriptor may change or close under it, which an \
                      OwnedFd's cannot; the other constructor is unsafe to call for any type"
        )]
        let pidfd = AsyncFd::with_interest(pidfd, Interest::READABLE)?;
        Ok(Some(Self {
            pid: birth.pid,
            pidfd,
        }))
    }

    /// Whether SIGTERM would do anything: the first process of a pid namespace, as a jailed one is,
    /// does not get what it has no handler for (pid_namespaces(7)).
    pub(crate) fn heeds_term(&self) -> bool {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid));
        status.map_or(true, |status| heeds_term(&status))
    }

    /// Waits until the process has ended.
    pub(crate) async fn ended(&self) {
        // A pidfd is readable once its process has ended, and stays so (pidfd_open(2)). The wait
        // itself only fails when the runtime shuts down; then nobody needs the answer.
        if self.pidfd.readable().await.is_err() {
            std::future::pending().await
        }
    }

    /// Sends a signal. That the process has ended already is no error.
    pub(crate) fn signal(&self, signal: Signal) -> io::Result<()> {
        match pidfd_send_signal(&self.pidfd, signal) {
            Ok(()) | Err(Errno::SRCH) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

/// Reads `/proc/PID/status` (proc(5)).
fn heeds_term(status: &str) -> bool {
    let value = |key: &str| status.lines().find_map(|line| line.strip_prefix(key));
    let pids = value("NSpid:").unwrap_or_default();
    let is_first = pids.split_ascii_whitespace().nth(1).is_some()
        && pids.split_ascii_whitespace().last() == Some("1");
    let caught = value("SigCgt:").and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    !is_first || caught.is_some_and(|mask| mask & (1 << (Signal::TERM.as_raw() - 1)) != 0)
}

/// The start time of a process that runs; a zombie does not.
fn start_time_of_living(pid: i32) -> io::Result<Option<u64>> {
    match fs::read_to_string(format!("/proc/{pid}/stat")) {
        Ok(stat) => Ok(parse_stat(&stat)),
        // It ends while it is being read.
        Err(error) if error.raw_os_error() == Some(Errno::SRCH.raw_os_error()) => Ok(None),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Reads `/proc/PID/stat`. The second field is the command in parentheses and may itself hold
/// spaces and parentheses, so fields are counted from the last closing one.
fn parse_stat(stat: &str) -> Option<u64> {
    const STATE: usize = 3;
    const START_TIME: usize = 22;
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_ascii_whitespace();
    if matches!(fields.next()?, "Z" | "X") {
        return None;
    }
    fields.nth(START_TIME - STATE - 1)?.parse().ok()
}

fn boot_id() -> io::Result<String> {
    let id = fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
    Ok(id.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;
    use std::process::{Command, Stdio};
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_command_with_parentheses_does_not_shift_the_fields() {
        let stat = "42 (a) b) S 1 42 42 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 98765 1000 10";
        assert_eq!(parse_stat(stat), Some(98765));
    }

    #[test]
    fn a_zombie_counts_as_dead() {
        let stat = "42 (x) Z 1 42 42 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 98765 1000 10";
        assert_eq!(parse_stat(stat), None);
    }

    #[tokio::test]
    async fn the_end_of_a_process_is_noticed_and_its_pid_no_longer_opens() {
        let mut child = Command::new("sleep")
            .arg("600")
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let birth = Birth::of(child.id().try_into().unwrap()).unwrap();
        let watched = Watched::open(&birth).unwrap().unwrap();
        let early = tokio::time::timeout(Duration::from_millis(50), watched.ended()).await;
        assert!(early.is_err(), "it was said to have ended while it ran");

        watched.signal(Signal::KILL).unwrap();
        tokio::time::timeout(Duration::from_secs(30), watched.ended())
            .await
            .unwrap();
        child.wait().unwrap();
        watched.signal(Signal::KILL).unwrap();
        assert!(Watched::open(&birth).unwrap().is_none());
    }

    #[test]
    fn a_process_is_ended_by_its_birth_and_a_later_one_with_its_pid_is_not() {
        let mut child = Command::new("sleep")
            .arg("600")
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let birth = Birth::of(child.id().try_into().unwrap()).unwrap();
        let earlier = Birth {
            start_time: birth.start_time - 1,
            ..birth.clone()
        };
        earlier.kill();
        assert!(birth.is_alive().unwrap(), "a stranger was killed");
        birth.kill();
        assert_eq!(child.wait().unwrap().signal(), Some(9));
    }

    #[test]
    fn the_first_process_of_a_namespace_heeds_only_what_it_handles() {
        let status =
            |pids: &str, caught: &str| format!("Name:\tx\nNSpid:\t{pids}\nSigCgt:\t{caught}\n");
        assert!(heeds_term(&status("700", "0000000000000000")));
        assert!(heeds_term(&status("700\t12", "0000000000000000")));
        assert!(!heeds_term(&status("700\t1", "0000000000000000")));
        assert!(heeds_term(&status("700\t1", "0000000000004000")));
        assert!(heeds_term(""));
    }

    #[tokio::test]
    async fn a_pid_that_was_handed_out_again_is_not_ours() {
        let mut birth = Birth::of(std::process::id().try_into().unwrap()).unwrap();
        assert!(Watched::open(&birth).unwrap().is_some());
        birth.start_time += 1;
        assert!(Watched::open(&birth).unwrap().is_none());
        birth.start_time -= 1;
        birth.boot_id = "another boot".to_owned();
        assert!(Watched::open(&birth).unwrap().is_none());
    }
}
