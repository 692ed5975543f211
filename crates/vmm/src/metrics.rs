//! What VMs and their host use, as the kernel counts it: `/proc` of each VM's process, the VM's
//! files, and the interfaces that carry its id. Counters are read when somebody asks; nothing is
//! collected in between.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use jiff::Timestamp;

use crate::capacity::{Capacity, Resources};
use crate::layout::VmDir;
use crate::model::{Vm, VmState};
use crate::process::Process;
use crate::status;

/// Where the kernel lists network interfaces (sysfs-class-net).
const INTERFACES: &str = "/sys/class/net";

/// What a host uses, with its VMs.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct HostMetrics {
    /// What the host has.
    pub total: Resources,
    /// What its VMs have reserved.
    pub used: Resources,
    /// Seconds that its processors have worked since boot, all together.
    pub cpu_seconds: f64,
    /// Memory that programs could still have, in bytes.
    pub memory_available_bytes: u64,
    /// What is free where VMs are kept, in bytes.
    pub disk_free_bytes: u64,
    /// Bytes that came in through its interfaces since boot, loopback aside.
    pub network_receive_bytes: u64,
    /// Bytes that went out.
    pub network_transmit_bytes: u64,
    /// Processes that ran or waited to run, on average over 1, 5 and 15 minutes.
    pub load_average: [f64; 3],
    /// Seconds since it booted.
    pub uptime_seconds: u64,
    /// What this daemon itself takes: processor seconds, and memory in bytes.
    pub daemon: ProcessMetrics,
    /// VMs, by name.
    pub vms: Vec<VmMetrics>,
}

/// What a process uses.
#[derive(Debug, Default, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct ProcessMetrics {
    /// Seconds of processor time since it began.
    pub cpu_seconds: f64,
    /// Memory that it occupies, in bytes.
    pub memory_bytes: u64,
    /// Bytes that it read from disks.
    pub disk_read_bytes: u64,
    /// Bytes that it wrote to disks.
    pub disk_written_bytes: u64,
}

/// What a VM uses.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct VmMetrics {
    /// The VM.
    pub vm: Vm,
    /// What its guest calls itself.
    pub hostname: String,
    /// What its process uses; `None` when it does not run.
    pub process: Option<ProcessMetrics>,
    /// What its disk takes of the host's, in bytes: less than its size, as long as there are holes.
    pub disk_allocated_bytes: u64,
    /// Bytes that its guest received and sent. On a bridge the host counts them; in user mode there
    /// is nothing on the host to count by, and the guest is asked: `None` when it does not answer.
    pub network: Option<(u64, u64)>,
}

impl VmMetrics {
    /// Whether its process runs.
    #[must_use]
    pub fn is_up(&self) -> bool {
        matches!(self.vm.state, VmState::Running | VmState::Paused)
    }

    /// When its process began.
    #[must_use]
    pub fn started_at(&self) -> Option<Timestamp> {
        self.vm.started_at
    }
}

/// What has to be known of a VM to measure it.
pub(crate) struct Subject {
    pub(crate) vm: Vm,
    pub(crate) hostname: String,
    pub(crate) dir: VmDir,
    pub(crate) process: Option<Process>,
}

/// Measures. Blocking.
pub(crate) fn measure(capacity: Capacity, used: Resources, vms: Vec<Subject>) -> HostMetrics {
    let (network_receive_bytes, network_transmit_bytes) = host_network();
    HostMetrics {
        total: capacity.total,
        used,
        cpu_seconds: host_cpu_seconds(&read("/proc/stat")),
        memory_available_bytes: memory_available(&read("/proc/meminfo")),
        disk_free_bytes: capacity.disk_free_mb.saturating_mul(1024 * 1024),
        network_receive_bytes,
        network_transmit_bytes,
        load_average: status::load_average(),
        uptime_seconds: status::uptime_seconds(),
        daemon: process_metrics("self").unwrap_or_default(),
        vms: vms.into_iter().map(measure_vm).collect(),
    }
}

fn measure_vm(subject: Subject) -> VmMetrics {
    let Subject {
        vm,
        hostname,
        dir,
        process,
    } = subject;
    let allocated = fs::metadata(dir.disk()).map_or(0, |disk| disk.blocks() * 512);
    // Its pid may be another's by now.
    let process = process.filter(|process| matches!(process.birth.is_alive(), Ok(true)));
    VmMetrics {
        process: process.and_then(|process| process_metrics(&process.birth.pid().to_string())),
        disk_allocated_bytes: allocated,
        network: interface_of(&vm.id.to_string()),
        hostname,
        vm,
    }
}

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

/// Seconds for a count of the kernel's clock ticks. `/proc` counts in `USER_HZ`, which Linux has
/// fixed to 100 on every architecture that we run on (proc(5), sysconf(3)).
fn seconds(ticks: u64) -> f64 {
    ticks as f64 / 100.0
}

fn process_metrics(pid: &str) -> Option<ProcessMetrics> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let io = read(&format!("/proc/{pid}/io"));
    Some(ProcessMetrics {
        cpu_seconds: cpu_seconds(&stat)?,
        memory_bytes: resident_bytes(&read(&format!("/proc/{pid}/status"))),
        disk_read_bytes: field(&io, "read_bytes:"),
        disk_written_bytes: field(&io, "write_bytes:"),
    })
}

/// `utime` and `stime`, fields 14 and 15, counted from behind the command's last parenthesis.
fn cpu_seconds(stat: &str) -> Option<f64> {
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_ascii_whitespace().skip(11);
    let mut ticks = || fields.next()?.parse::<u64>().ok();
    Some(seconds(ticks()? + ticks()?))
}

fn resident_bytes(status: &str) -> u64 {
    field(status, "VmRSS:") * 1024
}

fn memory_available(meminfo: &str) -> u64 {
    field(meminfo, "MemAvailable:") * 1024
}

/// The number behind a word at the beginning of a line; 0 when there is none.
fn field(text: &str, name: &str) -> u64 {
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    let number = line.and_then(|rest| rest.split_ascii_whitespace().next());
    number.and_then(|number| number.parse().ok()).unwrap_or(0)
}

/// All processors' time but what they idled or waited (proc(5): `cpu` and its fields 4 and 5).
fn host_cpu_seconds(stat: &str) -> f64 {
    let line = stat.lines().next().unwrap_or_default();
    let fields = line.split_ascii_whitespace().skip(1).take(8).enumerate();
    let worked = fields.filter(|(at, _)| !matches!(at, 3 | 4));
    seconds(
        worked
            .filter_map(|(_, ticks)| ticks.parse::<u64>().ok())
            .sum(),
    )
}

fn host_network() -> (u64, u64) {
    let interfaces = interfaces().filter(|name| name != "lo");
    interfaces.fold((0, 0), |(received, sent), name| {
        let counter = |which| statistic(&name, which);
        (received + counter("rx_bytes"), sent + counter("tx_bytes"))
    })
}

fn interfaces() -> impl Iterator<Item = String> {
    let entries = fs::read_dir(INTERFACES).into_iter().flatten();
    entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok())
}

fn statistic(interface: &str, which: &str) -> u64 {
    let path = Path::new(INTERFACES)
        .join(interface)
        .join("statistics")
        .join(which);
    let text = fs::read_to_string(path).unwrap_or_default();
    text.trim().parse().unwrap_or(0)
}

/// What a guest received and sent: its interface on the host has the VM's id as its alias. What
/// goes into the interface is what the guest receives.
fn interface_of(id: &str) -> Option<(u64, u64)> {
    let alias = |name: &str| {
        let path = Path::new(INTERFACES).join(name).join("ifalias");
        fs::read_to_string(path).unwrap_or_default()
    };
    let name = interfaces().find(|name| alias(name).contains(id))?;
    Some((statistic(&name, "tx_bytes"), statistic(&name, "rx_bytes")))
}

/// What came in and went out through all interfaces but the loopback, by `/proc/net/dev`
/// (proc_pid_net(5)): a name, a colon, eight counters of what came in and eight of what went out, bytes
/// first. A guest may say what it likes.
pub(crate) fn interfaces_of(dev: &str) -> Option<(u64, u64)> {
    let counted = dev.lines().filter_map(|line| {
        let (name, counters) = line.split_once(':')?;
        let mut counters = counters.split_ascii_whitespace();
        let (received, sent) = (counters.next()?, counters.nth(7)?);
        let both = (received.parse::<u64>().ok()?, sent.parse::<u64>().ok()?);
        (name.trim() != "lo").then_some(both)
    });
    counted.reduce(|all, one| (all.0.saturating_add(one.0), all.1.saturating_add(one.1)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_guest_counts_is_read_as_far_as_it_makes_sense() {
        let head = "Inter-|   Receive\n face |bytes packets\n";
        let text = format!(
            "{head}    lo: 7 1 0 0 0 0 0 0 7 1 0 0 0 0 0 0\n\
             eth0: 500 1 0 0 0 0 0 0 60 1 0 0 0 0 0 0\n\
               w1:1 1 0 0 0 0 0 0 18446744073709551615 1 0 0 0 0 0 0\n x: y"
        );
        assert_eq!(interfaces_of(&text), Some((501, u64::MAX)));
        assert_eq!(interfaces_of(head), None);
    }

    #[test]
    fn a_process_with_parentheses_in_its_name_is_read_right() {
        let stat = "42 (a) b) S 1 42 42 0 -1 4194560 1 2 3 4 150 50 7 8 20 0 1 0 98765 1000 10";
        assert_eq!(cpu_seconds(stat), Some(2.0));
        assert_eq!(cpu_seconds("42 (x"), None);
    }

    #[test]
    fn idling_and_waiting_is_not_work() {
        let stat = "cpu  100 0 100 9999 9999 0 100 0 7 7\ncpu0 1 2 3\n";
        assert!((host_cpu_seconds(stat) - 3.0).abs() < f64::EPSILON);
    }

    #[test]
    fn this_process_uses_something_of_everything() {
        let before = process_metrics("self").unwrap();
        assert!(before.memory_bytes > 100_000);
        let mut sum = 0_u64;
        while process_metrics("self").unwrap().cpu_seconds <= before.cpu_seconds {
            sum = (0..100_000).fold(sum, u64::wrapping_add);
        }
        assert!(memory_available(&read("/proc/meminfo")) > 1_000_000);
    }
}
