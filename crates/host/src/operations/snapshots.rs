//! `vms/pause`, `vms/resume`, `vms/snapshot`, `vms/restore` and `snapshots/*`: VMs that stand
//! still, and VMs that are again what they were.

use std::time::Duration;

use hostler_operations::{
    Call, Method, NOT_FOUND, Service, StatusCode, errors, internal, mutation, query, service,
};
use hostler_vmm::{Snapshot, SnapshotName, Vm, VmName};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::codes::{CONFLICT, INSUFFICIENT_CAPACITY, INVALID_STATE, STORAGE_FULL, UNSUPPORTED};
use super::page::{Page, page};
use super::storage::{from_not_found, from_storage_error};
use super::{VMS_READ, VMS_WRITE, while_wanted};
use crate::host::Host;

/// How long copying a VM may take: gigabytes of memory, to a slow disk.
const LONG: Duration = Duration::from_secs(30 * 60);

/// Adds what is done to VMs to their service.
pub(super) fn of_vms(vms: Service<Host>) -> Service<Host> {
    vms.with(mutation("pause", pause).requires(VMS_WRITE).rest(
        Method::POST,
        "/v1/vms/{name}/pause",
        StatusCode::OK,
    ))
    .with(mutation("resume", resume).requires(VMS_WRITE).rest(
        Method::POST,
        "/v1/vms/{name}/resume",
        StatusCode::OK,
    ))
    .with(
        mutation("snapshot", snapshot)
            .requires(VMS_WRITE)
            .rest(Method::POST, "/v1/vms/{name}/snapshot", StatusCode::CREATED)
            .timeout(LONG),
    )
    .with(
        mutation("restore", restore)
            .requires(VMS_WRITE)
            .rest(Method::POST, "/v1/vms/{name}/restore", StatusCode::OK)
            .timeout(LONG),
    )
}

pub(super) fn operations() -> Service<Host> {
    service("snapshots")
        .with(query("list", list).requires(VMS_READ).rest(
            Method::GET,
            "/v1/vms/{name}/snapshots",
            StatusCode::OK,
        ))
        .with(mutation("delete", delete).requires(VMS_WRITE).rest(
            Method::DELETE,
            "/v1/vms/{name}/snapshots/{snapshot}",
            StatusCode::OK,
        ))
}

/// Lets a VM stand still, memory and all, until it is resumed, started or stopped. One that is
/// paused is left as it is.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Pause {
    /// The VM's name.
    name: VmName,
}

async fn pause(host: &Host, call: Call, input: Pause) -> Result<Vm, PauseError> {
    let paused = host.machines().pause(input.name.as_str());
    while_wanted(&call, PauseError::Left, paused).await
}

/// Lets a paused VM go on. One that runs is left as it is.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Resume {
    /// The VM's name.
    name: VmName,
}

async fn resume(host: &Host, call: Call, input: Resume) -> Result<Vm, PauseError> {
    let resumed = host.machines().resume(input.name.as_str());
    while_wanted(&call, PauseError::Left, resumed).await
}

/// Takes a snapshot of a VM: its disk, and if it runs or is paused its memory too. A VM that runs
/// stands still meanwhile, and then goes on.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Take {
    /// The VM's name.
    name: VmName,
    /// What to call the snapshot; absent: by the time when it is taken.
    #[serde(default)]
    snapshot: Option<SnapshotName>,
}

async fn snapshot(host: &Host, call: Call, input: Take) -> Result<Snapshot, SnapshotError> {
    let name = input.name.as_str();
    let taken = host.machines().snapshot(name, input.snapshot);
    while_wanted(&call, SnapshotError::Left, taken).await
}

/// Lets a VM be again what it was when a snapshot was taken, disk and memory, and run on from
/// there. What it has become since is lost. Whether the snapshot fits and is whole is found out
/// before anything is touched.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Restore {
    /// The VM's name.
    name: VmName,
    /// The snapshot's name.
    snapshot: SnapshotName,
    /// Whether to restore it even if it runs.
    #[serde(default)]
    force: bool,
}

async fn restore(host: &Host, call: Call, input: Restore) -> Result<Vm, RestoreError> {
    if !host.takes_work() {
        return Err(RestoreError::NoNewWork);
    }
    let (name, snapshot) = (input.name.as_str(), input.snapshot.as_str());
    let restored = host.machines().restore(name, snapshot, input.force);
    while_wanted(&call, RestoreError::Left, restored).await
}

/// Lists the snapshots of a VM, by name.
#[derive(Deserialize, JsonSchema)]
struct List {
    /// The VM's name.
    name: VmName,
    #[serde(flatten)]
    page: Page,
}

async fn list(host: &Host, call: Call, input: List) -> Result<Vec<Snapshot>, ListError> {
    let snapshots = host.machines().snapshots(input.name.as_str()).await?;
    Ok(page(snapshots, |one| one.name.as_str(), input.page, &call))
}

/// Deletes a snapshot. Its VM is not touched; a VM that is deleted takes its snapshots with it.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Delete {
    /// The VM's name.
    name: VmName,
    /// The snapshot's name.
    snapshot: SnapshotName,
}

/// What was deleted.
#[derive(Serialize, JsonSchema)]
struct Deleted {
    /// The VM's name.
    name: VmName,
    /// The snapshot's name.
    snapshot: SnapshotName,
}

async fn delete(host: &Host, call: Call, input: Delete) -> Result<Deleted, DeleteError> {
    let Delete { name, snapshot } = input;
    let machines = host.machines();
    let deleted = machines.delete_snapshot(name.as_str(), snapshot.as_str());
    while_wanted(&call, DeleteError::Left, deleted).await?;
    Ok(Deleted { name, snapshot })
}

errors! {
    /// Why a VM was neither paused nor resumed.
    enum PauseError {
        /// There is no such VM.
        NotFound { name: String } = NOT_FOUND,
            "there is no VM named {name:?} on this host; list the VMs to see those that are";
        /// It does not run, or its process does not do what it is told.
        NotRunning { reason: String } = INVALID_STATE, "{reason}";
        /// The host's disk is full.
        StorageFull { reason: String } = STORAGE_FULL, "{reason}";
        /// The host's data directory cannot be written.
        StorageUnusable { reason: String } = INVALID_STATE, "{reason}";
        /// The caller left before it was the VM's turn.
        Left = INVALID_STATE, "the caller left before it was the VM's turn";
    }
}

errors! {
    /// Why a snapshot was not taken.
    enum SnapshotError {
        /// There is no such VM.
        NotFound { name: String } = NOT_FOUND,
            "there is no VM named {name:?} on this host; list the VMs to see those that are";
        /// The VM has a snapshot of that name, or as many as it may.
        Taken { reason: String } = CONFLICT, "{reason}";
        /// The host's disk has not enough room for it.
        NoRoom { asked_mb: u64, available_mb: u64, reason: String } = INSUFFICIENT_CAPACITY,
            "{reason}";
        /// The host's driver cannot do that.
        Unsupported { reason: String } = UNSUPPORTED, "{reason}";
        /// The VM cannot be copied as it is now.
        NotNow { reason: String } = INVALID_STATE, "{reason}";
        /// The host's disk is full.
        StorageFull { reason: String } = STORAGE_FULL, "{reason}";
        /// The host's data directory cannot be written.
        StorageUnusable { reason: String } = INVALID_STATE, "{reason}";
        /// The caller left before it was the VM's turn.
        Left = INVALID_STATE, "the caller left before it was the VM's turn";
    }
}

errors! {
    /// Why a VM was not restored.
    enum RestoreError {
        /// There is no such VM, or it has no such snapshot.
        NotFound { reason: String } = NOT_FOUND, "{reason}";
        /// It runs.
        Running { reason: String } = CONFLICT, "{reason}";
        /// The snapshot is damaged, or does not fit the VM and the host as they are now, or the VM
        /// could not be made of it.
        NotRestorable { reason: String } = INVALID_STATE, "{reason}";
        /// This host cannot run VMs.
        Unsupported { reason: String } = UNSUPPORTED, "{reason}";
        /// The host takes no new work at present.
        NoNewWork = INVALID_STATE,
            "this host takes no new work, because its control plane refuses its identity; see the \
             agent's log on the host, and whether the control plane still knows it";
        /// The host's disk is full.
        StorageFull { reason: String } = STORAGE_FULL, "{reason}";
        /// The host's data directory cannot be written.
        StorageUnusable { reason: String } = INVALID_STATE, "{reason}";
        /// The caller left before it was the VM's turn.
        Left = INVALID_STATE, "the caller left before it was the VM's turn";
    }
}

errors! {
    /// Why snapshots cannot be listed.
    enum ListError {
        /// There is no such VM.
        NotFound { name: String } = NOT_FOUND,
            "there is no VM named {name:?} on this host; list the VMs to see those that are";
        /// The host's disk is full.
        StorageFull { reason: String } = STORAGE_FULL, "{reason}";
        /// The host's data directory cannot be read.
        StorageUnusable { reason: String } = INVALID_STATE, "{reason}";
    }
}

errors! {
    /// Why a snapshot was not deleted.
    enum DeleteError {
        /// There is no such VM, or it has no such snapshot.
        NotFound { reason: String } = NOT_FOUND, "{reason}";
        /// The host's disk is full.
        StorageFull { reason: String } = STORAGE_FULL, "{reason}";
        /// The host's data directory cannot be written.
        StorageUnusable { reason: String } = INVALID_STATE, "{reason}";
        /// The caller left before it was the VM's turn.
        Left = INVALID_STATE, "the caller left before it was the VM's turn";
    }
}

from_storage_error!(
    PauseError,
    SnapshotError,
    RestoreError,
    ListError,
    DeleteError
);

from_not_found!(PauseError, SnapshotError, ListError);

impl From<hostler_vmm::PauseError> for PauseError {
    fn from(error: hostler_vmm::PauseError) -> Self {
        use hostler_vmm::PauseError as E;
        let reason = error.to_string();
        match error {
            E::NotFound(missing) => missing.into(),
            E::NotRunning { .. } | E::Link(_) => Self::NotRunning { reason },
            E::Storage(storage) => storage.into(),
            other => internal(other).into(),
        }
    }
}

impl From<hostler_vmm::SnapshotError> for SnapshotError {
    fn from(error: hostler_vmm::SnapshotError) -> Self {
        use hostler_vmm::SnapshotError as E;
        let reason = error.to_string();
        match error {
            E::NotFound(missing) => missing.into(),
            E::Exists { .. } | E::TooMany { .. } => Self::Taken { reason },
            E::NoRoom {
                asked_mb,
                available_mb,
            } => Self::NoRoom {
                asked_mb,
                available_mb,
                reason,
            },
            E::Unsupported(_) | E::NoDriver(_) => Self::Unsupported { reason },
            E::NotNow { .. } | E::UnknownKernel(_) | E::Link(_) => Self::NotNow { reason },
            E::Storage(storage) => storage.into(),
            other => internal(other).into(),
        }
    }
}

impl From<hostler_vmm::RestoreError> for RestoreError {
    fn from(error: hostler_vmm::RestoreError) -> Self {
        use hostler_vmm::RestoreError as E;
        let reason = error.to_string();
        match error {
            E::NotFound(_) | E::NoSuchSnapshot(_) => Self::NotFound { reason },
            E::Running { .. } => Self::Running { reason },
            E::NoDriver(_) => Self::Unsupported { reason },
            E::Incompatible(_)
            | E::Damaged(_)
            | E::Newer(_)
            | E::UnknownKernel(_)
            | E::Stop(_)
            | E::Start { .. }
            | E::Ousted { .. } => Self::NotRestorable { reason },
            E::Storage(storage) => storage.into(),
            other => internal(other).into(),
        }
    }
}

impl From<hostler_vmm::ListSnapshotsError> for ListError {
    fn from(error: hostler_vmm::ListSnapshotsError) -> Self {
        use hostler_vmm::ListSnapshotsError as E;
        match error {
            E::NotFound(missing) => missing.into(),
            E::Storage(storage) => storage.into(),
            other => internal(other).into(),
        }
    }
}

impl From<hostler_vmm::DeleteSnapshotError> for DeleteError {
    fn from(error: hostler_vmm::DeleteSnapshotError) -> Self {
        use hostler_vmm::DeleteSnapshotError as E;
        let reason = error.to_string();
        match error {
            E::NotFound(_) | E::NoSuchSnapshot(_) => Self::NotFound { reason },
            E::Storage(storage) => storage.into(),
            other => internal(other).into(),
        }
    }
}
