//! What can go wrong with each operation: one enum per operation, for the caller who decides.

use crate::capacity::InsufficientCapacity;
use crate::driver::{LaunchError, LinkError, SaveError};
use crate::files::StorageError;
use crate::model::{DriverKind, VmState};
use crate::mounts::MountError;
use crate::name::{ItemName, SnapshotName, VmName};
use crate::network::NetworkError;
use crate::ports::PortError;
use crate::snapshots::{Damaged, FindError, Incompatible, MAX_SNAPSHOTS, Newer, NoSuchSnapshot};
use crate::spec::InvalidField;
use crate::tool::ToolError;

/// There is no such VM.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("there is no VM named {name:?} on this host; list the VMs to see those that are")]
pub struct NotFound {
    /// The name that was asked for.
    pub name: String,
}

/// There is no such image.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "there is no image {name:?} on this host; {}",
    or_known("pull the default image, or import one", known)
)]
pub struct UnknownImage {
    /// The name that was asked for.
    pub name: String,
    /// The images that are there.
    pub known: Vec<ItemName>,
}

/// There is no such kernel.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "there is no kernel {name:?} on this host; {}",
    or_known("pull the default image with its kernel, or import one", known)
)]
pub struct UnknownKernel {
    /// The name that was asked for.
    pub name: String,
    /// The kernels that are there.
    pub known: Vec<ItemName>,
}

fn or_known(advice: &str, known: &[ItemName]) -> String {
    if known.is_empty() {
        return advice.to_owned();
    }
    let known: Vec<&str> = known.iter().map(ItemName::as_str).collect();
    format!("there are: {}", known.join(", "))
}

/// The chosen driver cannot do what was asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{feature} is not to be had on this host, whose driver is {driver}; leave it out, or use another host"
)]
pub struct Unsupported {
    /// What was asked for.
    pub feature: String,
    /// The driver that this host uses.
    pub driver: DriverKind,
}

/// No driver works on this host, so nothing can run.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no VM can run on this host: {reason}")]
pub struct NoDriver {
    /// Why not, and what to do.
    pub reason: String,
}

/// A VM was not created, and nothing of it is left behind.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CreateError {
    #[error(transparent)]
    Invalid(#[from] InvalidField),
    #[error(transparent)]
    UnknownImage(#[from] UnknownImage),
    #[error(transparent)]
    UnknownKernel(#[from] UnknownKernel),
    /// A VM of that name is there.
    #[error("a VM named {name} is on this host already; choose another name, or delete that VM")]
    Exists { name: VmName },
    /// Whoever asked for it has left before it was there.
    #[error("nobody waits for the VM any more, and nothing of it is left")]
    GivenUp,
    #[error(transparent)]
    Capacity(#[from] InsufficientCapacity),
    #[error(transparent)]
    Mount(#[from] MountError),
    #[error(transparent)]
    Port(#[from] PortError),
    #[error(transparent)]
    Unsupported(#[from] Unsupported),
    #[error(transparent)]
    NoDriver(#[from] NoDriver),
    #[error(transparent)]
    Storage(#[from] StorageError),
    #[error(transparent)]
    Tool(#[from] ToolError),
}

/// A VM was not started, and is what it was before.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    #[error(transparent)]
    NotFound(#[from] NotFound),
    #[error(transparent)]
    NoDriver(#[from] NoDriver),
    #[error(transparent)]
    UnknownKernel(#[from] UnknownKernel),
    #[error(transparent)]
    Launch(#[from] LaunchError),
    #[error(transparent)]
    Mount(#[from] MountError),
    /// It cannot be put on the host's network.
    #[error(transparent)]
    Network(#[from] NetworkError),
    /// It was paused and does not go on.
    #[error(transparent)]
    Resume(#[from] LinkError),
    #[error(transparent)]
    Storage(#[from] StorageError),
}

/// A VM was not stopped.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StopError {
    #[error(transparent)]
    NotFound(#[from] NotFound),
    /// Its process outlived SIGKILL for a while, as one does that waits for a broken disk.
    #[error(
        "the process of VM {name} does not end, not even when killed; the host's disk may hang: \
         look at the kernel's log"
    )]
    Stubborn { name: VmName },
}

/// A VM was not deleted.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DeleteError {
    #[error(transparent)]
    NotFound(#[from] NotFound),
    /// It runs, and it was not said that it should be deleted all the same.
    #[error("VM {name} is running; stop it first, or delete it with force")]
    Running { name: VmName },
    /// Its record cannot be read, so it is not known whether it runs.
    #[error("VM {name} cannot be deleted: {problem}; see on its host whether it still runs")]
    Damaged { name: String, problem: String },
    #[error(transparent)]
    Stop(#[from] StopError),
    #[error(transparent)]
    Storage(#[from] StorageError),
}

/// A port was not forwarded, and all forwards are as they were.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PortForwardError {
    #[error(transparent)]
    NotFound(#[from] NotFound),
    #[error(transparent)]
    Unsupported(#[from] Unsupported),
    #[error(transparent)]
    Port(#[from] PortError),
    #[error(transparent)]
    Link(#[from] LinkError),
    /// The rules of the host's network could not be changed.
    #[error(transparent)]
    Network(#[from] NetworkError),
    #[error(transparent)]
    Storage(#[from] StorageError),
}

/// A VM was neither paused nor resumed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PauseError {
    #[error(transparent)]
    NotFound(#[from] NotFound),
    /// It has no processors that could be told.
    #[error(
        "VM {name} is {state}: only a VM that runs can be paused, and only a paused one resumed"
    )]
    NotRunning { name: VmName, state: VmState },
    #[error(transparent)]
    Link(#[from] LinkError),
    #[error(transparent)]
    Storage(#[from] StorageError),
}

/// A snapshot was not taken; nothing of it is left behind, and the VM is what it was.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SnapshotError {
    #[error(transparent)]
    NotFound(#[from] NotFound),
    /// The VM is in a state that nobody wants to come back to.
    #[error("VM {name} is {state}; start, resume or stop it first, then take the snapshot")]
    NotNow { name: VmName, state: VmState },
    /// The VM has a snapshot of that name.
    #[error("VM {vm} has a snapshot {name} already; choose another name, or delete that one")]
    Exists { vm: VmName, name: SnapshotName },
    /// The VM has as many snapshots as it may.
    #[error("VM {vm} has {MAX_SNAPSHOTS} snapshots, the most that one may have; delete some first")]
    TooMany { vm: VmName },
    /// The host's disk has not enough room for it.
    #[error(
        "the snapshot may take {asked_mb} MiB and the host has {available_mb} MiB left; delete \
         snapshots or VMs that are not needed"
    )]
    NoRoom { asked_mb: u64, available_mb: u64 },
    #[error(transparent)]
    Unsupported(#[from] Unsupported),
    #[error(transparent)]
    NoDriver(#[from] NoDriver),
    #[error(transparent)]
    UnknownKernel(#[from] UnknownKernel),
    #[error(transparent)]
    Link(#[from] LinkError),
    #[error(transparent)]
    Storage(#[from] StorageError),
}

impl From<SaveError> for SnapshotError {
    fn from(error: SaveError) -> Self {
        match error {
            SaveError::Storage(error) => Self::Storage(error),
            SaveError::Link(error) => Self::Link(error),
        }
    }
}

/// Snapshots were not listed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ListSnapshotsError {
    #[error(transparent)]
    NotFound(#[from] NotFound),
    #[error(transparent)]
    Storage(#[from] StorageError),
}

/// A VM was not restored. Its disk is what it was, and the message says so if its process was ended;
/// only [`RestoreError::Ousted`] is different.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RestoreError {
    #[error(transparent)]
    NotFound(#[from] NotFound),
    #[error(transparent)]
    NoSuchSnapshot(#[from] NoSuchSnapshot),
    /// It runs, and it was not said that it should be restored all the same.
    #[error("VM {name} is {state}; stop it first, or restore it with force")]
    Running { name: VmName, state: VmState },
    #[error(transparent)]
    Incompatible(#[from] Incompatible),
    #[error(transparent)]
    Damaged(#[from] Damaged),
    #[error(transparent)]
    Newer(#[from] Newer),
    #[error(transparent)]
    NoDriver(#[from] NoDriver),
    #[error(transparent)]
    UnknownKernel(#[from] UnknownKernel),
    #[error(transparent)]
    Stop(#[from] StopError),
    /// Everything fitted, and still its process did not come up or did not take the memory.
    #[error("VM {name} was not restored, and does not run now; its disk is what it was: {source}")]
    Start {
        name: VmName,
        source: Box<StartError>,
    },
    /// The same, and the disk that it had cannot take its place again: a process that does not end, not
    /// even when killed, has the snapshot's, or the host's disk refuses.
    #[error(
        "VM {name} was not restored, and has the snapshot's disk all the same; the disk that it had is \
         kept beside that one on its host, as {kept}: {source}"
    )]
    Ousted {
        name: VmName,
        /// The file's name.
        kept: String,
        source: Box<StartError>,
    },
    #[error(transparent)]
    Storage(#[from] StorageError),
}

/// A snapshot was not deleted.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DeleteSnapshotError {
    #[error(transparent)]
    NotFound(#[from] NotFound),
    #[error(transparent)]
    NoSuchSnapshot(#[from] NoSuchSnapshot),
    #[error(transparent)]
    Storage(#[from] StorageError),
}

impl From<FindError> for RestoreError {
    fn from(error: FindError) -> Self {
        match error {
            FindError::Missing(error) => Self::NoSuchSnapshot(error),
            FindError::Damaged(error) => Self::Damaged(error),
            FindError::Newer(error) => Self::Newer(error),
            FindError::Storage(error) => Self::Storage(error),
        }
    }
}
