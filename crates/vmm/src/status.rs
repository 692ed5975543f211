//! How the host is: what it has, what it can, whether anything is wrong.

use std::fs;
use std::path::Path;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::capacity::{Capacity, Resources};
use crate::driver::Capabilities;
use crate::files::{Context as _, StorageError};
use crate::model::DriverKind;
use crate::network::NetworkStatus;

const MIB: u64 = 1024 * 1024;

/// The state of a host.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct HostStatus {
    /// The host's name.
    pub hostname: String,
    /// The host's processor, such as `x86_64`.
    pub arch: String,
    /// What can run VMs here, and why or why not.
    pub drivers: Vec<DriverStatus>,
    /// How VMs reach others.
    pub network: NetworkStatus,
    /// What the host has. CPUs are those that are built in.
    pub total: Resources,
    /// What VMs have reserved, running or not. CPUs are virtual ones.
    pub used: Resources,
    /// What new VMs may reserve. CPUs are virtual ones: more than `total` minus `used`, because
    /// several of them share a real one.
    pub available: Resources,
    /// VMs that run now.
    pub running_vms: u64,
    /// VMs that exist.
    pub total_vms: u64,
    /// Seconds since the host booted.
    pub uptime_seconds: u64,
    /// Processes that ran or waited to run, on average over 1, 5 and 15 minutes.
    pub load_average: [f64; 3],
    /// The version of this program.
    pub version: String,
}

/// A driver on a host.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct DriverStatus {
    /// Which driver.
    pub kind: DriverKind,
    /// Whether VMs run on it.
    pub selected: bool,
    /// Its version; absent when it cannot be used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// Why it was chosen as it was, or why it cannot be used.
    pub reason: String,
    /// What it can do here; absent when it cannot be used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub capabilities: Option<Capabilities>,
}

/// Whether a host works.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "status", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Health {
    /// Everything works.
    Healthy,
    /// Something does not.
    Degraded {
        /// What does not work, and what to do.
        reasons: Vec<String>,
    },
}

/// What the host has, with the file system that holds `data_dir`.
pub(crate) fn capacity(data_dir: &Path, cpu_overcommit: u32) -> Result<Capacity, StorageError> {
    let disk = rustix::fs::statvfs(data_dir).context("look at", data_dir)?;
    let in_mib = |blocks: u64| blocks.saturating_mul(disk.f_frsize) / MIB;
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    Ok(Capacity {
        total: Resources {
            cpus: cpus.try_into().unwrap_or(u32::MAX),
            memory_mb: for_guests(memory_mb()),
            disk_mb: in_mib(disk.f_blocks),
        },
        disk_free_mb: in_mib(disk.f_bavail),
        cpu_overcommit,
    })
}

/// What of a host's memory its guests may have: the rest is for the kernel, for this daemon, and for
/// what the VMs' processes take besides. A guest that is promised the last of it is killed for it.
fn for_guests(memory_mb: u64) -> u64 {
    let kept = (memory_mb / 20).max(512).min(memory_mb / 4);
    memory_mb - kept
}

fn memory_mb() -> u64 {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let total = text.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let kib = total.and_then(|line| {
        line.trim()
            .trim_end_matches("kB")
            .trim()
            .parse::<u64>()
            .ok()
    });
    kib.unwrap_or(0) / 1024
}

/// The host's name.
pub(crate) fn hostname() -> String {
    rustix::system::uname()
        .nodename()
        .to_string_lossy()
        .into_owned()
}

/// Seconds since the host booted.
pub(crate) fn uptime_seconds() -> u64 {
    let text = fs::read_to_string("/proc/uptime").unwrap_or_default();
    let whole = text.split('.').next().and_then(|whole| whole.parse().ok());
    whole.unwrap_or(0)
}

/// The three averages of `/proc/loadavg`.
pub(crate) fn load_average() -> [f64; 3] {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let mut words = text.split(' ').map(|word| word.parse().unwrap_or(0.0));
    std::array::from_fn(|_| words.next().unwrap_or(0.0))
}

/// What is wrong with a data directory, if anything. Looks, and never writes, so that it is quick
/// even when the disk is not.
pub(crate) fn data_dir_problem(data_dir: &Path) -> Option<String> {
    const LEAST_FREE_MB: u64 = 64;
    let place = data_dir.display();
    if let Err(error) = rustix::fs::access(data_dir, rustix::fs::Access::WRITE_OK) {
        return Some(format!(
            "{place} cannot be written: {error}; VMs can be neither made nor changed"
        ));
    }
    match capacity(data_dir, 1) {
        Ok(capacity) if capacity.disk_free_mb < LEAST_FREE_MB => Some(format!(
            "{place} has {} MiB left; free some space, before VMs are paused for want of it",
            capacity.disk_free_mb
        )),
        Ok(_) => None,
        Err(error) => Some(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_has_something_of_everything() {
        let capacity = capacity(Path::new("/"), 4).unwrap();
        assert!(capacity.total.cpus > 0);
        assert!(capacity.total.memory_mb > 100);
        assert!(capacity.total.disk_mb > 100);
        assert!(uptime_seconds() > 0);
        assert!(!hostname().is_empty());
        assert!(load_average().iter().all(|load| load.is_finite()));
    }

    #[test]
    fn a_data_directory_that_is_gone_is_a_problem_with_its_path() {
        assert_eq!(data_dir_problem(&std::env::temp_dir()), None);
        let problem = data_dir_problem(Path::new("/nowhere/data")).unwrap();
        assert!(
            problem.starts_with("/nowhere/data cannot be written"),
            "{problem}"
        );
    }

    #[test]
    fn health_reads_as_one_word_and_its_reasons() {
        let health = Health::Degraded {
            reasons: vec!["x".into()],
        };
        let json = serde_json::to_value(health).unwrap();
        assert_eq!(
            json,
            serde_json::json!({ "status": "degraded", "reasons": ["x"] })
        );
        let json = serde_json::to_value(Health::Healthy).unwrap();
        assert_eq!(json, serde_json::json!({ "status": "healthy" }));
    }

    #[test]
    fn guests_are_never_promised_all_of_the_memory() {
        let kept = [1024, 4096, 65_536].map(|memory_mb| memory_mb - for_guests(memory_mb));
        assert_eq!(kept, [256, 512, 3276]);
        assert_eq!(for_guests(0), 0);
    }
}
