//! The drivers' common face: what the house asks of a program that runs VMs.
//!
//! A [`Driver`] makes processes and finds them again; a [`Link`] is the conversation with one of
//! them. Neither knows of states, records or locks, and nobody outside knows whether the
//! conversation is QMP or HTTP. Ending a process is not here, because that is the same for all of
//! them: see [`crate::process`].

mod endpoint;
pub(crate) mod firecracker;
pub(crate) mod qemu;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub(crate) use self::endpoint::GuestEndpoint;
use crate::files::StorageError;
use crate::kernel_file::KernelFormat;
use crate::lifecycle::{Condition, Ending};
use crate::model::{DriverKind, PortForward, VmId};
use crate::mounts::Shared;
use crate::ports::PortError;
use crate::process::Process;

/// Everything that a driver needs to know to run a VM.
#[derive(Debug, Clone)]
pub(crate) struct Blueprint {
    pub(crate) id: VmId,
    /// The VM's own directory, where a driver may keep what it needs besides.
    pub(crate) directory: PathBuf,
    pub(crate) name: String,
    pub(crate) cpus: u32,
    pub(crate) memory_mb: u64,
    pub(crate) mac_address: String,
    pub(crate) kernel: PathBuf,
    pub(crate) initrd: PathBuf,
    pub(crate) disk: PathBuf,
    pub(crate) console: PathBuf,
    pub(crate) pid_file: PathBuf,
    pub(crate) control_socket: PathBuf,
    pub(crate) guest_socket: PathBuf,
    pub(crate) network: Network,
    /// Directories of the host that the guest shares.
    pub(crate) shares: Vec<Shared>,
}

/// What a VM's network device is tied to. The guest learns its address from its initial RAM file
/// system, whatever it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Network {
    /// A network of its own inside its process, which lets these ports of the host lead in.
    User {
        port_forwards: Vec<PortForward>,
        /// The user (and group) that the process has to become before its guest runs, by which the
        /// host's rules know what it sends; `None`: there are none.
        run_as: Option<u32>,
    },
    /// A device of the host, which is there and up before the launch, and is not the driver's to
    /// remove. Ports lead in through rules of the host.
    Tap(Tap),
}

impl Network {
    /// The ports that the VM's own process has to listen on.
    pub(crate) fn listens_on(&self) -> &[PortForward] {
        match self {
            Self::User { port_forwards, .. } => port_forwards,
            Self::Tap(_) => &[],
        }
    }
}

/// A persistent tap device on the host's bridge, and what the guest is told of the network there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Tap {
    /// The device's name, to open it by.
    pub(crate) name: String,
    /// The guest's address.
    pub(crate) address: Ipv4Addr,
    /// How many bits of it name the subnet.
    pub(crate) prefix: u8,
    /// The host on that subnet.
    pub(crate) gateway: Ipv4Addr,
    /// The largest packet that the way out takes, where that is not Ethernet's 1500 bytes.
    pub(crate) mtu: Option<u16>,
}

/// A program that runs VMs.
#[async_trait]
pub(crate) trait Driver: Send + Sync {
    fn kind(&self) -> DriverKind;

    fn capabilities(&self) -> Capabilities;

    /// What the guest finds its devices on.
    fn bus(&self) -> Bus;

    /// Whether it boots kernels of this form.
    fn boots(&self, format: KernelFormat) -> bool;

    /// The user whose process will open the VM's tap device; `None`: the one that we run as.
    fn tap_owner(&self, _vm: VmId) -> Option<u32> {
        None
    }

    /// Gives up what it keeps for a VM that has been deleted. Blocking.
    fn forget(&self, _vm: VmId) {}

    /// Where the guest is spoken to that has this socket.
    fn guest(&self, socket: PathBuf) -> GuestEndpoint;

    /// Files that a start reads, besides the VM's own.
    fn files(&self) -> Vec<PathBuf>;

    /// The command that runs the VM in the foreground and without anybody to talk to it: what the
    /// driver adds to this is what it costs.
    fn bare_command(&self, blueprint: &Blueprint) -> Vec<OsString>;

    /// Makes the VM's process, which outlives us. On an error there is none.
    async fn launch(&self, blueprint: &Blueprint) -> Result<Launched, LaunchError>;

    /// What a memory has to be of to be loaded into this VM: see [`Link::memory_form`].
    ///
    /// # Errors
    /// When it could not be launched either.
    fn memory_form(&self, blueprint: &Blueprint) -> Result<BTreeMap<String, String>, LaunchError>;

    /// Makes the VM's process, which outlives us, for a memory that was saved, as far as that can be
    /// done before the VM has its disk. That is a file at `disk` by now, as long as it will be, and
    /// still without all that it will hold. On an error there is no process.
    async fn prepare(
        self: Arc<Self>,
        blueprint: Blueprint,
        disk: &Path,
    ) -> Result<Box<dyn Prepared>, LaunchError>;

    /// Speaks again to a process that an earlier life of ours launched. What that life may have
    /// left going on in there is over when this returns.
    async fn reconnect(&self, id: VmId, process: &Process) -> Result<Box<dyn Link>, LinkError>;
}

/// What tells one model of processor from another, in `/proc/cpuinfo`: a guest that runs on the
/// host's processor goes on only on one that is the same.
fn processor(cpuinfo: &str) -> String {
    let value = |key: &str| {
        let line = cpuinfo.lines().find(|line| line.starts_with(key));
        line.and_then(|line| Some(line.split_once(':')?.1.trim()))
            .unwrap_or("unknown")
    };
    format!("{}, stepping {}", value("model name"), value("stepping"))
}

/// The host's `/proc/cpuinfo`.
fn cpuinfo() -> String {
    std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default()
}

/// A VM that was just launched.
pub(crate) struct Launched {
    pub(crate) process: Process,
    pub(crate) link: Box<dyn Link>,
}

/// A process that is being made for a memory that was saved. Its processors stand still.
#[async_trait]
pub(crate) trait Prepared: Send {
    /// Loads what [`Link::save`] wrote to a directory, if that can be done before the VM has its
    /// disk. On an error it can only be given up.
    async fn load(&mut self, saved: &Path) -> Result<(), LaunchError>;

    /// The VM has its disk: what is there at the blueprint's place now is the file that was at the
    /// other place, with all that it holds. Does what could not be done before. On an error there is
    /// no process.
    async fn complete(self: Box<Self>, saved: &Path) -> Result<Launched, LaunchError>;

    /// Ends it.
    async fn give_up(self: Box<Self>);
}

/// The conversation with a VM's process.
#[async_trait]
pub(crate) trait Link: Send + Sync {
    /// Lets a port of the host lead into the guest, from now on.
    async fn add_forward(&self, forward: &PortForward) -> Result<(), LinkError>;

    /// Takes such a port back.
    async fn remove_forward(&self, forward: &PortForward) -> Result<(), LinkError>;

    /// The ports that lead into the guest.
    async fn forwards(&self) -> Result<Vec<PortForward>, LinkError>;

    /// Lets the processors stand still. Once they do, everything that the guest has written to its
    /// disk is in the disk's file.
    async fn pause(&self) -> Result<(), LinkError>;

    /// Lets processors run that stand still.
    async fn resume(&self) -> Result<(), LinkError>;

    /// How the processors are.
    async fn condition(&self) -> Result<Condition, LinkError>;

    /// What has to be the same where the memory that [`Link::save`] writes is to be loaded again:
    /// values for people, by what they are values of.
    async fn memory_form(&self) -> Result<BTreeMap<String, String>, LinkError>;

    /// Writes what is in the VM's memory and devices, the contents of its disk aside, to new files
    /// in a directory. Its processors have to stand still, and do so afterwards, whatever comes of
    /// it.
    async fn save(&self, directory: &Path) -> Result<(), SaveError>;

    /// The next thing that happens; `None` once the conversation has ended.
    async fn event(&self) -> Option<Event>;
}

/// Something that happened to a VM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Event {
    Paused {
        reason: String,
    },
    Resumed,
    /// The process is about to end.
    Ending(Ending),
}

/// What a guest finds its devices on, which decides the modules that it needs.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Bus {
    /// Virtio over memory-mapped registers.
    Mmio,
    /// The same, and the host is reached through a vsock, as with Firecracker.
    MmioVsock,
    /// Virtio over PCI.
    Pci,
}

/// What a driver can do beyond running VMs.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[non_exhaustive]
pub struct Capabilities {
    /// A network in user mode, which needs no privilege on the host.
    pub user_network: bool,
    /// Ports of the host that lead into the guest.
    pub port_forwards: bool,
    /// Directories of the host that the guest shares.
    pub mounts: bool,
    /// Memory snapshots.
    pub snapshots: bool,
    /// Hardware virtualisation; without it the guest's processor is emulated, several times slower.
    pub hardware_acceleration: bool,
}

/// A VM's process could not be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LaunchError {
    /// A port that the VM needs is not free.
    #[error(transparent)]
    Port(#[from] PortError),
    /// The process could not be given its files.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// The program could not be run.
    #[error("cannot run {}: {source}; install it, or configure its path", program.display())]
    Spawn { program: PathBuf, source: io::Error },
    /// The jail could not be made.
    #[error("the VM cannot be jailed: {problem}")]
    Jail { problem: String },
    /// A path that the program cannot be told.
    #[error("{} is not text in UTF-8, which Firecracker needs; use another data directory", path.display())]
    Unspeakable { path: PathBuf },
    /// The kernel cannot be booted like this.
    #[error("{0}")]
    Kernel(String),
    /// The program ran and refused.
    #[error("{} refused to start the VM: {message}", program.display())]
    Refused { program: PathBuf, message: String },
    /// The program did not come up.
    #[error(
        "{} did not come up within {} s; the host may be overloaded: look at its load, then try \
         again", program.display(), limit.as_secs()
    )]
    Slow { program: PathBuf, limit: Duration },
    /// The program came up and cannot be spoken to.
    #[error(transparent)]
    Link(#[from] LinkError),
}

/// A VM's memory could not be saved.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SaveError {
    /// The files could not be written.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// The VM's process cannot be spoken to, or it refused.
    #[error(transparent)]
    Link(#[from] LinkError),
}

/// A VM's process could not be spoken to, or did not do what it was told.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LinkError {
    /// No conversation.
    #[error("cannot talk to the VM's process: {0}; stop and start the VM to mend that")]
    Broken(#[from] crate::dialogue::Broken),
    /// It is not the process that it should be.
    #[error("the process behind {} is another VM's ({found})", socket.display())]
    Stranger { socket: PathBuf, found: String },
    /// A path that it cannot be told.
    #[error("{} is not text in UTF-8, which Firecracker needs; use another data directory", path.display())]
    Unspeakable { path: PathBuf },
    /// It refused a command.
    #[error("the VM's process refused {command}: {message}")]
    Refused {
        command: &'static str,
        message: String,
    },
    /// It said something that makes no sense here.
    #[error("the VM's process gave an unknown answer to {command}: {answer:?}")]
    Unknown {
        command: &'static str,
        answer: String,
    },
}
