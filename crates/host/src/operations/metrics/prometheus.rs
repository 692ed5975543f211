//! Metrics in Prometheus' text form: families of samples, each with its help and type once.

use std::fmt::{Display, Write};

use hostler_vmm::{HostMetrics, VmMetrics, VmState};

const MIB: u64 = 1024 * 1024;

/// Everything, as text. Names end with their unit; what counts up ends with `_total`.
pub(super) fn text(metrics: &HostMetrics, takes_work: bool) -> String {
    let mut page = Page::default();
    host(&mut page, metrics, takes_work);
    daemon(&mut page, metrics);
    vms(&mut page, &metrics.vms);
    page.0
}

#[derive(Default)]
struct Page(String);

#[derive(Clone, Copy)]
enum Kind {
    Gauge,
    Counter,
}

impl Page {
    fn family(&mut self, name: &str, kind: Kind, help: &str) {
        let kind = match kind {
            Kind::Gauge => "gauge",
            Kind::Counter => "counter",
        };
        // Writing to a string cannot fail.
        let _ = writeln!(
            self.0,
            "# HELP hostler_{name} {help}\n# TYPE hostler_{name} {kind}"
        );
    }

    fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: impl Display) {
        let mut braces = String::new();
        for (label, text) in labels {
            let comma = if braces.is_empty() { "" } else { "," };
            let _ = write!(braces, "{comma}{label}=\"{}\"", escaped(text));
        }
        let _ = match braces.is_empty() {
            true => writeln!(self.0, "hostler_{name} {value}"),
            false => writeln!(self.0, "hostler_{name}{{{braces}}} {value}"),
        };
    }

    /// A family of one sample.
    fn one(&mut self, name: &str, kind: Kind, help: &str, value: impl Display) {
        self.family(name, kind, help);
        self.sample(name, &[], value);
    }
}

/// A label's text: what would end it is escaped.
fn escaped(text: &str) -> String {
    text.replace('\\', r"\\")
        .replace('"', "\\\"")
        .replace('\n', r"\n")
}

fn host(page: &mut Page, metrics: &HostMetrics, takes_work: bool) {
    use Kind::{Counter, Gauge};
    let HostMetrics { total, used, .. } = metrics;
    let flag = u8::from(takes_work);
    page.one(
        "host_takes_work",
        Gauge,
        "Whether VMs may be created and started.",
        flag,
    );
    page.one("host_cpus", Gauge, "Processors.", total.cpus);
    let help = "Virtual processors that VMs have reserved.";
    page.one("host_cpus_reserved", Gauge, help, used.cpus);
    let help = "Time that processors have worked since boot.";
    page.one("host_cpu_seconds_total", Counter, help, metrics.cpu_seconds);
    page.one(
        "host_memory_bytes",
        Gauge,
        "Memory that VMs may have.",
        total.memory_mb * MIB,
    );
    let help = "Memory that VMs have reserved.";
    page.one(
        "host_memory_reserved_bytes",
        Gauge,
        help,
        used.memory_mb * MIB,
    );
    let help = "Memory that programs could still have.";
    page.one(
        "host_memory_available_bytes",
        Gauge,
        help,
        metrics.memory_available_bytes,
    );
    let help = "Size of the file system that holds VMs.";
    page.one("host_disk_bytes", Gauge, help, total.disk_mb * MIB);
    let help = "Disk that VMs have reserved.";
    page.one("host_disk_reserved_bytes", Gauge, help, used.disk_mb * MIB);
    page.one(
        "host_disk_free_bytes",
        Gauge,
        "What is free there.",
        metrics.disk_free_bytes,
    );
    let help = "What came in through all interfaces but loopback.";
    let received = metrics.network_receive_bytes;
    page.one("host_network_receive_bytes_total", Counter, help, received);
    let sent = metrics.network_transmit_bytes;
    page.one(
        "host_network_transmit_bytes_total",
        Counter,
        "What went out.",
        sent,
    );
    page.family(
        "host_load",
        Gauge,
        "Processes that ran or waited to run, on average.",
    );
    for (minutes, load) in ["1", "5", "15"].iter().zip(metrics.load_average) {
        page.sample("host_load", &[("minutes", minutes)], load);
    }
    let help = "Time since boot.";
    page.one("host_uptime_seconds", Gauge, help, metrics.uptime_seconds);
    page.family("host_vms", Gauge, "VMs, by state.");
    for (state, word) in STATES {
        let count = metrics.vms.iter().filter(|vm| vm.vm.state == state).count();
        page.sample("host_vms", &[("state", word)], count);
    }
}

const STATES: [(VmState, &str); 7] = [
    (VmState::Created, "created"),
    (VmState::Starting, "starting"),
    (VmState::Running, "running"),
    (VmState::Stopping, "stopping"),
    (VmState::Stopped, "stopped"),
    (VmState::Paused, "paused"),
    (VmState::Error, "error"),
];

fn daemon(page: &mut Page, metrics: &HostMetrics) {
    let daemon = metrics.daemon;
    let help = "Processor time of this daemon.";
    page.one(
        "daemon_cpu_seconds_total",
        Kind::Counter,
        help,
        daemon.cpu_seconds,
    );
    let help = "Memory that this daemon occupies.";
    page.one(
        "daemon_memory_bytes",
        Kind::Gauge,
        help,
        daemon.memory_bytes,
    );
}

/// What is told of each VM; `None` where it has nothing to tell.
type Sample = fn(&VmMetrics) -> Option<f64>;

const FAMILIES: [(&str, Kind, &str, Sample); 12] = [
    ("vm_up", Kind::Gauge, "Whether its process runs.", |vm| {
        Some(f64::from(u8::from(vm.is_up())))
    }),
    ("vm_cpus", Kind::Gauge, "Its virtual processors.", |vm| {
        Some(vm.vm.cpus.into())
    }),
    (
        "vm_cpu_seconds_total",
        Kind::Counter,
        "Processor time of its process, from its start.",
        |vm| Some(vm.process?.cpu_seconds),
    ),
    (
        "vm_memory_limit_bytes",
        Kind::Gauge,
        "Memory that its guest has.",
        |vm| Some((vm.vm.memory_mb * MIB) as f64),
    ),
    (
        "vm_memory_bytes",
        Kind::Gauge,
        "Memory that its process occupies.",
        |vm| Some(vm.process?.memory_bytes as f64),
    ),
    (
        "vm_disk_size_bytes",
        Kind::Gauge,
        "Size of its root disk.",
        |vm| Some((vm.vm.disk_size_mb * MIB) as f64),
    ),
    (
        "vm_disk_allocated_bytes",
        Kind::Gauge,
        "What its root disk takes of the host's.",
        |vm| Some(vm.disk_allocated_bytes as f64),
    ),
    (
        "vm_disk_read_bytes_total",
        Kind::Counter,
        "Read from disks.",
        |vm| Some(vm.process?.disk_read_bytes as f64),
    ),
    (
        "vm_disk_written_bytes_total",
        Kind::Counter,
        "Written to disks.",
        |vm| Some(vm.process?.disk_written_bytes as f64),
    ),
    (
        "vm_network_receive_bytes_total",
        Kind::Counter,
        "What its guest received; in user mode as the guest itself counts it, absent while it does not say.",
        |vm| Some(vm.network?.0 as f64),
    ),
    (
        "vm_network_transmit_bytes_total",
        Kind::Counter,
        "What its guest sent; in user mode as the guest itself counts it, absent while it does not say.",
        |vm| Some(vm.network?.1 as f64),
    ),
    ("vm_restarts", Kind::Gauge, "Restarts in a row.", |vm| {
        Some(vm.vm.restarts.into())
    }),
];

fn vms(page: &mut Page, vms: &[VmMetrics]) {
    for (name, kind, help, sample) in FAMILIES {
        page.family(name, kind, help);
        for vm in vms {
            let Some(value) = sample(vm) else { continue };
            let id = vm.vm.id.to_string();
            let labels = [
                ("name", vm.vm.name.as_str()),
                ("id", &id),
                ("hostname", &vm.hostname),
            ];
            page.sample(name, &labels, value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_label_cannot_end_itself() {
        let mut page = Page::default();
        page.sample("x", &[("a", "b\"} 1\nc\\")], 1);
        assert_eq!(page.0, "hostler_x{a=\"b\\\"} 1\\nc\\\\\"} 1\n");
    }

    #[test]
    fn a_family_has_its_help_and_type_once() {
        let mut page = Page::default();
        page.one("x_total", Kind::Counter, "Things.", 3);
        let told = "# HELP hostler_x_total Things.\n# TYPE hostler_x_total counter\n";
        assert_eq!(page.0, format!("{told}hostler_x_total 3\n"));
    }
}
