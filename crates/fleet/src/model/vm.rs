//! A VM of the fleet: what was asked for, and what is known of it.

use std::num::NonZeroU16;

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::ids::{HostId, TeamId, VmId};
use crate::model::VmName;
use crate::words::words;

words! {
    /// Where a VM is in its life, as its host last said.
    pub enum VmState {
        /// It exists and has never run.
        Created = "created",
        /// Its process is being made.
        Starting = "starting",
        /// Its process runs.
        Running = "running",
        /// It was asked to end.
        Stopping = "stopping",
        /// It has run and does not now.
        Stopped = "stopped",
        /// Its process exists and its processors stand still.
        Paused = "paused",
        /// It ended, or does not answer, for a reason that needs somebody's attention.
        Error = "error",
        /// Its host cannot be reached, or does not have it.
        Missing = "missing",
    }
}

/// A transport protocol.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// TCP.
    #[default]
    Tcp,
    /// UDP.
    Udp,
}

/// What a VM is made of. The host that runs it checks images, kernels and ports.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct VmSpec {
    /// Virtual CPUs, 1 to 32.
    #[serde(default = "defaults::cpus")]
    #[schemars(range(min = 1, max = 32))]
    pub cpus: u32,
    /// Memory in MiB, 128 to 65536.
    #[serde(default = "defaults::memory_mb")]
    #[schemars(range(min = 128, max = 65536))]
    pub memory_mb: u64,
    /// Size of the root disk in MiB, 256 to 1048576.
    #[serde(default = "defaults::disk_size_mb")]
    #[schemars(range(min = 256, max = 1048576))]
    pub disk_size_mb: u64,
    /// The image that the root disk starts as; absent: the host's default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// The kernel to boot; absent: the host's default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kernel: Option<String>,
    /// An OpenSSH public key (one line) that may log in as root; absent: nobody may.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ssh_public_key: Option<String>,
    /// Name servers for the guest, at most 3; empty: the host's own.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 3))]
    pub dns_servers: Vec<String>,
    /// Directories of the host to share with the guest; only a key of the platform may ask.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub mounts: Vec<Mount>,
    /// Ports of the host that lead into the guest.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub port_forwards: Vec<PortForward>,
    /// Whether the VM starts by itself when its host does, unless somebody stopped it.
    #[serde(default)]
    pub auto_start: bool,
    /// When it is started again after it ended without being asked to; absent: never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restart_policy: Option<RestartPolicy>,
    /// How many restarts in a row, 1 to 1000, before it is left in state `error`; absent: 10.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1000))]
    pub restart_limit: Option<u32>,
}

/// When a VM that ended without being asked to is started again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum RestartPolicy {
    /// Never.
    Never,
    /// When it failed.
    OnFailure,
    /// Whenever it ends, unless somebody stopped it.
    Always,
}

mod defaults {
    pub(super) fn cpus() -> u32 {
        1
    }

    pub(super) fn memory_mb() -> u64 {
        512
    }

    pub(super) fn disk_size_mb() -> u64 {
        1024
    }
}

/// A directory of the host that the guest shares.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Mount {
    /// The directory on the host, absolute.
    pub host_path: String,
    /// The name under which the guest finds it.
    pub guest_tag: String,
    /// Whether the guest may only read it.
    #[serde(default)]
    pub read_only: bool,
}

/// A port of the host that leads to a port of the guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PortForward {
    /// The port on the host.
    pub host_port: NonZeroU16,
    /// The port in the guest.
    pub guest_port: NonZeroU16,
    /// What travels through it.
    #[serde(default)]
    pub protocol: Protocol,
    /// The host's address to listen on; 127.0.0.1 unless said otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bind: Option<String>,
}

/// A VM of the fleet. What only its host can know is absent as long as the host has not said it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Vm {
    /// What the VM is called; unique in its team.
    pub name: VmName,
    /// `vm-` and 25 base-36 digits; what it is called on its host.
    pub id: VmId,
    /// The host that it is on.
    pub host: HostId,
    /// The team whose VM it is; absent: the platform's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub team_id: Option<TeamId>,
    /// Where it is in its life.
    pub state: VmState,
    /// Why, when that is not obvious.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state_reason: Option<String>,
    /// What it is made of.
    #[serde(flatten)]
    pub spec: VmSpec,
    /// What only its host can know.
    #[serde(flatten)]
    pub observed: Observed,
    /// When it was created.
    pub created_at: Timestamp,
}

/// What a host says of a VM that the fleet did not tell it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Observed {
    /// What runs it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub driver: Option<String>,
    /// The guest's address in its own private network.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ip_address: Option<String>,
    /// The guest's Ethernet address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac_address: Option<String>,
    /// When the VM that runs now was started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<Timestamp>,
    /// When the guest of the VM that runs now first answered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ready_at: Option<Timestamp>,
    /// How often in a row its host has started it again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restarts: Option<u32>,
    /// When its host starts it again; absent when it does not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_restart_at: Option<Timestamp>,
}

/// A VM as a host describes it. Whatever else a newer host says is not an error.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct HostVm {
    pub(crate) state: VmState,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) state_reason: Option<String>,
    #[serde(flatten)]
    pub(crate) spec: VmSpec,
    #[serde(flatten)]
    pub(crate) observed: Observed,
}
