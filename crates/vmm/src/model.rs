//! The data that goes in and out: what a caller asks for ([`CreateVm`]) and what it is shown
//! ([`Vm`]).
//!
//! These are wire types. Inside, a VM is a [`Spec`](crate::spec::Spec) and a
//! [`Phase`](crate::lifecycle::Phase), which cannot hold a nonsensical combination.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::num::NonZeroU16;
use std::path::PathBuf;

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::name::{ItemName, VmName};
use crate::restart::RestartPolicy;

/// A VM's identity for its whole life; never used again, while a name may be.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[schemars(inline)]
pub struct VmId(#[schemars(with = "String", extend("format" = "uuid"))] Uuid);

impl VmId {
    pub(crate) fn generate() -> Self {
        Self(Uuid::now_v7())
    }
}

impl std::str::FromStr for VmId {
    type Err = uuid::Error;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse().map(Self)
    }
}

impl fmt::Display for VmId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A request for a new VM.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateVm {
    /// What the VM is called; unique on its host.
    pub name: VmName,
    /// What the guest calls itself; absent: as the VM is called. A fleet calls its VMs by ids that
    /// no two teams share, and their guests by the names that their owners gave them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hostname: Option<VmName>,
    /// Virtual CPUs, 1 to 32.
    #[serde(default = "defaults::cpus")]
    #[schemars(range(min = 1, max = 32))]
    pub cpus: u32,
    /// Memory in MiB, 128 to 65536.
    #[serde(default = "defaults::memory_mb")]
    #[schemars(range(min = 128, max = 65536))]
    pub memory_mb: u64,
    /// Size of the root disk in MiB, 256 to 1048576. The file is sparse: it takes what the guest
    /// writes.
    #[serde(default = "defaults::disk_size_mb")]
    #[schemars(range(min = 256, max = 1048576))]
    pub disk_size_mb: u64,
    /// The image that the root disk starts as; absent: the host's default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<ItemName>,
    /// The kernel to boot; absent: the host's default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kernel: Option<ItemName>,
    /// What shall run it, where the host was left to choose and it works there; absent: what the
    /// host uses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub driver: Option<DriverKind>,
    /// An OpenSSH public key (one line) that may log in as root; absent: nobody may.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ssh_public_key: Option<String>,
    /// Name servers for the guest, at most 3; empty: the host's own, through the VM's gateway.
    #[serde(default)]
    #[schemars(length(max = 3))]
    pub dns_servers: Vec<IpAddr>,
    /// Directories of the host to share with the guest.
    #[serde(default)]
    pub mounts: Vec<Mount>,
    /// Ports of the host that lead into the guest.
    #[serde(default)]
    pub port_forwards: Vec<PortForward>,
    /// Whether the VM starts by itself when the daemon finds it not running, unless somebody
    /// stopped it.
    #[serde(default)]
    pub auto_start: bool,
    /// When it is started again after it ended without being asked to.
    #[serde(default)]
    pub restart_policy: RestartPolicy,
    /// How many restarts in a row, 1 to 1000, before it is left in state `error`. The first waits a
    /// second, each further one twice as long, none longer than a minute; ten minutes without
    /// trouble begin a new row.
    #[serde(default = "defaults::restart_limit")]
    #[schemars(range(min = 1, max = 1000))]
    pub restart_limit: u32,
}

impl CreateVm {
    /// A request that takes every default.
    pub fn named(name: VmName) -> Self {
        Self {
            name,
            hostname: None,
            cpus: defaults::cpus(),
            memory_mb: defaults::memory_mb(),
            disk_size_mb: defaults::disk_size_mb(),
            image: None,
            kernel: None,
            driver: None,
            ssh_public_key: None,
            dns_servers: Vec::new(),
            mounts: Vec::new(),
            port_forwards: Vec::new(),
            auto_start: false,
            restart_policy: RestartPolicy::Never,
            restart_limit: defaults::restart_limit(),
        }
    }
}

mod defaults {
    use std::net::Ipv4Addr;

    pub(super) fn cpus() -> u32 {
        1
    }

    pub(super) fn memory_mb() -> u64 {
        512
    }

    pub(super) fn disk_size_mb() -> u64 {
        1024
    }

    pub(super) fn restart_limit() -> u32 {
        crate::restart::DEFAULT_LIMIT
    }

    pub(super) fn bind() -> Ipv4Addr {
        Ipv4Addr::LOCALHOST
    }
}

/// A VM as it is now.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct Vm {
    /// What the VM is called; unique on its host.
    pub name: VmName,
    /// The VM's identity for its whole life.
    pub id: VmId,
    /// Where the VM is in its life.
    pub state: VmState,
    /// Why the state is what it is, when that is not obvious: in `error` and in
    /// `paused`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state_reason: Option<String>,
    /// Virtual CPUs.
    pub cpus: u32,
    /// Memory in MiB.
    pub memory_mb: u64,
    /// Size of the root disk in MiB.
    pub disk_size_mb: u64,
    /// The image that the root disk started as.
    pub image: ItemName,
    /// The kernel that it boots.
    pub kernel: ItemName,
    /// What runs it.
    pub driver: DriverKind,
    /// The guest's address. In user mode it is one in a network of its own; in bridge mode one on
    /// the host's bridge, where the host itself reaches it too. From outside it is reached
    /// through `port_forwards`.
    pub ip_address: Ipv4Addr,
    /// The guest's Ethernet address.
    pub mac_address: String,
    /// The OpenSSH public key that may log in as root.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ssh_public_key: Option<String>,
    /// Name servers of the guest; empty: the host's own.
    pub dns_servers: Vec<IpAddr>,
    /// Directories of the host that the guest shares.
    pub mounts: Vec<Mount>,
    /// Ports of the host that lead into the guest.
    pub port_forwards: Vec<PortForward>,
    /// Whether the VM starts by itself with the daemon.
    pub auto_start: bool,
    /// When it is started again after it ended without being asked to.
    #[serde(default)]
    pub restart_policy: RestartPolicy,
    /// How many restarts in a row before it is left in state `error`.
    #[serde(default = "defaults::restart_limit")]
    pub restart_limit: u32,
    /// Restarts in a row so far.
    #[serde(default)]
    pub restarts: u32,
    /// When it is to be started again; absent when it is not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_restart_at: Option<Timestamp>,
    /// When the VM was created.
    pub created_at: Timestamp,
    /// When the VM that runs now was started; absent when none runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<Timestamp>,
    /// When the guest of the VM that runs now first answered; absent until it has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ready_at: Option<Timestamp>,
}

/// Where a VM is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum VmState {
    /// It exists and has never run.
    Created,
    /// Its process is being made.
    Starting,
    /// Its process runs.
    Running,
    /// It was asked to end.
    Stopping,
    /// It has run and does not now.
    Stopped,
    /// Its process exists and its processors stand still.
    Paused,
    /// It ended, or does not answer, for a reason that needs somebody's attention.
    Error,
}

impl fmt::Display for VmState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Created => "created",
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Stopping => "stopping",
            Self::Stopped => "stopped",
            Self::Paused => "paused",
            Self::Error => "in error",
        })
    }
}

/// A program that can run VMs.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum DriverKind {
    /// Firecracker, which needs KVM.
    Firecracker,
    /// QEMU, with KVM where it works and software emulation elsewhere.
    Qemu,
}

impl fmt::Display for DriverKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Firecracker => "firecracker",
            Self::Qemu => "qemu",
        })
    }
}

/// A directory of the host that the guest shares.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Mount {
    /// The directory on the host, absolute.
    pub host_path: PathBuf,
    /// The name under which the guest finds it.
    pub guest_tag: String,
    /// Whether the guest may only read it.
    #[serde(default)]
    pub read_only: bool,
}

/// A port of the host that leads to a port of the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
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
    #[serde(default = "defaults::bind")]
    pub bind: Ipv4Addr,
}

impl PortForward {
    /// Whether the two cannot both listen on one host.
    pub(crate) fn collides_with(&self, other: &Self) -> bool {
        self.protocol == other.protocol
            && self.host_port == other.host_port
            && (self.bind == other.bind
                || self.bind.is_unspecified()
                || other.bind.is_unspecified())
    }
}

impl fmt::Display for PortForward {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            host_port,
            guest_port,
            protocol,
            bind,
        } = self;
        write!(
            f,
            "{protocol} {bind}:{host_port} to guest port {guest_port}"
        )
    }
}

/// A transport protocol.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Protocol {
    /// TCP.
    #[default]
    Tcp,
    /// UDP.
    Udp,
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        })
    }
}
