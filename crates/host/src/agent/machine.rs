//! What this machine is made of, as it is told at registration.

use hostler_vmm::HostStatus;
use serde::Serialize;

/// The size of a machine, as `vmm` sees it: what the control plane places VMs by is then what this
/// host will admit them by.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Machine {
    /// `x86_64` or `aarch64`.
    pub(crate) arch: String,
    /// Processors that the daemon may use.
    pub(crate) cpu_cores: u32,
    /// Memory in MiB.
    pub(crate) memory_mb: u64,
    /// The file system of the data directory, in GiB.
    pub(crate) disk_gb: u64,
}

impl From<HostStatus> for Machine {
    fn from(status: HostStatus) -> Self {
        Self {
            arch: status.arch,
            cpu_cores: status.total.cpus,
            memory_mb: status.total.memory_mb,
            disk_gb: status.total.disk_mb / 1024,
        }
    }
}
