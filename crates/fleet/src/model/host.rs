//! A host: a machine that runs VMs.

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::ids::{HostId, TeamId};
use crate::model::Tag;
use crate::words::words;

words! {
    /// Whom a host serves.
    pub enum HostType {
        /// Any team's VMs; kept by the platform.
        Regular = "regular",
        /// Only the VMs of the team that brought it.
        Byoc = "byoc",
    }
}

words! {
    /// Where a host is in its life. Only registration makes it online for the first time.
    pub enum HostStatus {
        /// Created, and not yet registered.
        Pending = "pending",
        /// Registered, and heard of within the last 90 s.
        Online = "online",
        /// Registered, and not heard of for 90 s.
        Unreachable = "unreachable",
        /// Emptying itself before it leaves.
        Draining = "draining",
        /// It said goodbye.
        Offline = "offline",
    }
}

/// A machine of the fleet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Host {
    /// `host-` and 25 base-36 digits.
    pub id: HostId,
    /// Whom it serves.
    #[serde(rename = "type")]
    pub kind: HostType,
    /// The team that brought it; byoc hosts only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub team_id: Option<TeamId>,
    /// Whose machine it is, in the operator's words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provider: Option<String>,
    /// Where it stands, in the operator's words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub availability_zone: Option<String>,
    /// Its processor architecture, as it said when it registered (`x86_64`, `aarch64`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub arch: Option<String>,
    /// Processor cores.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_cores: Option<u32>,
    /// Memory in MiB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_mb: Option<u64>,
    /// Disk for VMs in GiB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk_gb: Option<u64>,
    /// Where its door is, `host:port`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// Where it is in its life.
    pub status: HostStatus,
    /// Whether it is closed to new VMs.
    pub cordoned: bool,
    /// Its tags, in alphabetical order.
    pub tags: Vec<Tag>,
    /// When it was last heard of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_heartbeat_at: Option<Timestamp>,
    /// Who created it.
    pub created_by: String,
    /// When it was created.
    pub created_at: Timestamp,
    /// When anything but its heartbeat last changed.
    pub updated_at: Timestamp,
}

impl Host {
    /// Whether it is silent: what runs on it cannot be known.
    pub(crate) fn is_silent(&self) -> bool {
        matches!(self.status, HostStatus::Unreachable | HostStatus::Offline)
    }
}
