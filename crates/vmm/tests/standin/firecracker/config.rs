//! What can be said about a machine, field for field (Firecracker's `src/vmm/src/vmm_config`).

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The version of a snapshot's form.
pub(crate) const SNAPSHOT_VERSION: &str = "8.0.0";

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct BootSource {
    pub(crate) kernel_image_path: String,
    pub(crate) initrd_path: Option<String>,
    pub(crate) boot_args: Option<String>,
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) enum CacheType {
    Unsafe,
    Writeback,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Drive {
    pub(crate) drive_id: String,
    pub(crate) path_on_host: String,
    pub(crate) is_root_device: bool,
    #[serde(default)]
    pub(crate) is_read_only: bool,
    pub(crate) partuuid: Option<String>,
    pub(crate) cache_type: Option<CacheType>,
    pub(crate) io_engine: Option<String>,
    pub(crate) rate_limiter: Option<Value>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct DriveUpdate {
    pub(crate) drive_id: String,
    pub(crate) path_on_host: Option<String>,
    pub(crate) rate_limiter: Option<Value>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct NetworkInterface {
    pub(crate) iface_id: String,
    pub(crate) host_dev_name: String,
    pub(crate) guest_mac: Option<String>,
    pub(crate) rx_rate_limiter: Option<Value>,
    pub(crate) tx_rate_limiter: Option<Value>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct MachineConfig {
    pub(crate) vcpu_count: u8,
    pub(crate) mem_size_mib: u64,
    #[serde(default)]
    pub(crate) smt: bool,
    #[serde(default)]
    pub(crate) track_dirty_pages: bool,
    pub(crate) cpu_template: Option<String>,
    pub(crate) huge_pages: Option<String>,
}

impl Default for MachineConfig {
    fn default() -> Self {
        Self {
            vcpu_count: 1,
            mem_size_mib: 128,
            smt: false,
            track_dirty_pages: false,
            cpu_template: None,
            huge_pages: None,
        }
    }
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Vsock {
    pub(crate) vsock_id: Option<String>,
    pub(crate) guest_cid: u32,
    pub(crate) uds_path: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub(crate) enum ActionType {
    FlushMetrics,
    InstanceStart,
    SendCtrlAltDel,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Action {
    pub(crate) action_type: ActionType,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub(crate) enum VmState {
    Paused,
    Resumed,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Vm {
    pub(crate) state: VmState,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
pub(crate) enum SnapshotType {
    Diff,
    #[default]
    Full,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct SnapshotCreate {
    #[serde(default)]
    pub(crate) snapshot_type: SnapshotType,
    pub(crate) snapshot_path: String,
    pub(crate) mem_file_path: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub(crate) enum BackendType {
    File,
    Uffd,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct MemBackend {
    pub(crate) backend_type: BackendType,
    pub(crate) backend_path: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct NetworkOverride {
    pub(crate) iface_id: String,
    pub(crate) host_dev_name: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct SnapshotLoad {
    pub(crate) snapshot_path: String,
    pub(crate) mem_backend: Option<MemBackend>,
    pub(crate) mem_file_path: Option<String>,
    #[serde(default, rename = "enable_diff_snapshots")]
    pub(crate) _enable_diff_snapshots: bool,
    #[serde(default, rename = "track_dirty_pages")]
    pub(crate) _track_dirty_pages: bool,
    #[serde(default)]
    pub(crate) resume_vm: bool,
    #[serde(default)]
    pub(crate) network_overrides: Vec<NetworkOverride>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Logger {
    pub(crate) log_path: Option<String>,
    #[serde(rename = "level")]
    pub(crate) _level: Option<String>,
    #[serde(rename = "show_level")]
    pub(crate) _show_level: Option<bool>,
    #[serde(rename = "show_log_origin")]
    pub(crate) _show_log_origin: Option<bool>,
    #[serde(rename = "module")]
    pub(crate) _module: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Metrics {
    pub(crate) metrics_path: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Entropy {
    #[serde(rename = "rate_limiter")]
    pub(crate) _rate_limiter: Option<Value>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Balloon {
    #[serde(rename = "amount_mib")]
    pub(crate) _amount_mib: u32,
    #[serde(rename = "deflate_on_oom")]
    pub(crate) _deflate_on_oom: bool,
    #[serde(default, rename = "stats_polling_interval_s")]
    pub(crate) _stats_polling_interval_s: u16,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct MmdsConfig {
    #[serde(rename = "version")]
    pub(crate) _version: Option<String>,
    pub(crate) network_interfaces: Vec<String>,
    #[serde(rename = "ipv4_address")]
    pub(crate) _ipv4_address: Option<String>,
}

/// Everything about a machine, as a snapshot keeps it.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Machine {
    pub(crate) boot_source: Option<BootSource>,
    pub(crate) machine_config: MachineConfig,
    pub(crate) drives: Vec<Drive>,
    pub(crate) network_interfaces: Vec<NetworkInterface>,
    pub(crate) vsock: Option<Vsock>,
}
