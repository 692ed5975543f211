//! MicroVMs on one host.
//!
//! Everything comes in through one desk: [`Machines`] creates, starts, stops, shows and deletes
//! VMs, and leads to the host's [`Images`] and [`Kernels`]. Behind it:
//!
//! ```text
//! Machines ── Slot (one per VM: its lock, its record, its keeper)
//!    │          ├─ lifecycle   what a VM may become: a core without I/O
//!    │          ├─ record      vm.json, whole or not there
//!    │          └─ keeper      watches the process and the guest
//!    ├─ registry, capacity, ports     what is taken, and by whom
//!    ├─ driver ── Firecracker, QEMU   processes, and the conversation with them
//!    ├─ network                       user mode, or a bridge with leases, taps and rules
//!    ├─ guest                         the conversation with our program inside the VM
//!    ├─ images, kernels, disk         what VMs start from
//!    └─ snapshots                     what VMs were, and can be again
//! ```
//!
//! VMs outlive the daemon: each is a process of its own, and [`Machines::open`] finds those again
//! that an earlier daemon left running. The crate serves no HTTP and knows nothing of fleets; it
//! asks registries for images, and that is all of its network.
//!
//! ```no_run
//! use std::time::Duration;
//! use hostler_vmm::{Config, CreateVm, Machines};
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let machines = Machines::open(Config::new("/var/lib/hostler")).await?;
//! machines.images().pull(&|step| println!("{}", step.message)).await?;
//! machines.create(CreateVm::named("web-1".parse()?)).await?;
//! machines.start("web-1").await?;
//! machines.stop("web-1", Duration::from_secs(10)).await?;
//! # Ok(())
//! # }
//! ```

mod blocking;
mod capacity;
mod config;
mod console;
#[cfg(test)]
mod corpus;
mod cpio;
mod dialogue;
mod disk;
mod driver;
mod errors;
mod fault;
mod files;
// What must hold of what strangers send. It looks at what this crate shows nobody, so it is a part of
// it: for fuzzers (cargo-fuzz sets the word) and for our own tests, and not there for anybody else.
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
#[path = "../../../fuzz/src/vmm.rs"]
pub mod fuzzing;
mod guest;
mod images;
mod initrd;
mod kernel_file;
mod kernels;
mod layout;
mod leaks;
mod lifecycle;
#[cfg(test)]
mod long;
mod lz4;
mod machines;
mod metadata;
mod metrics;
mod model;
mod mounts;
mod name;
mod network;
mod ports;
mod process;
mod processes;
mod record;
mod registry;
mod restart;
mod shelf;
mod slot;
mod snapshots;
mod sources;
mod spec;
mod status;
mod tool;

pub use capacity::{InsufficientCapacity, Resource, Resources};
pub use config::{Config, DriverChoice, JailConfig, NetworkChoice};
pub use console::Reading as ConsoleReading;
pub use dialogue::Broken;
pub use driver::{Bus, Capabilities, LaunchError, LinkError, SaveError};
pub use errors::{
    CreateError, DeleteError, DeleteSnapshotError, ListSnapshotsError, NoDriver, NotFound,
    PauseError, PortForwardError, RestoreError, SnapshotError, StartError, StopError, UnknownImage,
    UnknownKernel, Unsupported,
};
pub use files::StorageError;
pub use guest::{
    Command, CommandEnding, ExecEvent, ExecId, Execution, FilePiece, FilePlace, FileWrite,
    Finished, GuestError, GuestProblem, PIECE_BYTES, RunCommand, TerminalSize,
};
pub use images::{
    Boots, BuildError, Credentials, Ext4Error, Image, ImageProgram, Images, ImportImage,
    ImportImageError, ImportProgress, ImportState, PackageError, Progress, ProgressSink, Pulled,
};
pub use kernel_file::{KernelFormat, NotBootable};
pub use kernels::{ImportKernel, ImportKernelError, Kernel, Kernels};
pub use leaks::{Leak, LeakKind};
pub use machines::{Machines, OpenError};
pub use metrics::{HostMetrics, VmMetrics};
pub use model::{CreateVm, DriverKind, Mount, PortForward, Protocol, Vm, VmId, VmState};
pub use mounts::MountError;
pub use name::{InvalidName, ItemName, SnapshotName, VmName};
pub use network::{
    BridgeStatus, InvalidSubnet, NetworkError, NetworkStatus, Subnet, UserModeStatus,
};
pub use ports::PortError;
pub use restart::RestartPolicy;
pub use shelf::RemoveError;
pub use snapshots::{Damaged, Incompatible, Newer as NewerSnapshot, NoSuchSnapshot, Snapshot};
pub use sources::UnusableDirectory;
pub use spec::InvalidField;
pub use status::{DriverStatus, Health, HostStatus};
pub use tool::ToolError;

/// The image that a VM gets when it names none, and that [`Images::pull`] makes present.
pub const DEFAULT_IMAGE: &str = "debian-minimal";

/// The kernel that a VM gets when it names none, and that [`Images::pull`] makes present.
pub const DEFAULT_KERNEL: &str = "debian-cloud";
