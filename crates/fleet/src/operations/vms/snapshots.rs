//! Pausing VMs, and snapshots of them. Snapshots are on the VM's host; the books know only how the
//! VM is.

use std::time::Duration;

use hostler_operations::{Call, Method, Service, StatusCode, mutation, query, service};
use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::inspect::LOOK_TIMEOUT;
use super::lifecycle::on_its_host;
use super::{Asked, MARGIN, WORK_TIMEOUT, ask, find};
use crate::clock;
use crate::fleet::Fleet;
use crate::ids::TeamId;
use crate::model::Vm;
use crate::operations::page::Page;
use crate::scopes::{VMS_READ, VMS_WRITE};
use crate::store;
use crate::store::audit::{self, Actor};

/// How long a host may take to copy gigabytes of memory: a little longer than hosts allow
/// themselves.
const LONG: Duration = Duration::from_secs(30 * 60 + 10);

/// Adds what is done to VMs to their service.
pub(in crate::operations) fn of_vms(vms: Service<Fleet>) -> Service<Fleet> {
    vms.with(
        mutation("pause", pause)
            .requires(VMS_WRITE)
            .timeout(WORK_TIMEOUT + MARGIN)
            .rest(Method::POST, "/v1/vms/{name}/pause", StatusCode::OK),
    )
    .with(
        mutation("resume", resume)
            .requires(VMS_WRITE)
            .timeout(WORK_TIMEOUT + MARGIN)
            .rest(Method::POST, "/v1/vms/{name}/resume", StatusCode::OK),
    )
    .with(
        mutation("snapshot", snapshot)
            .requires(VMS_WRITE)
            .timeout(LONG + MARGIN)
            .rest(Method::POST, "/v1/vms/{name}/snapshot", StatusCode::CREATED),
    )
    .with(
        mutation("restore", restore)
            .requires(VMS_WRITE)
            .timeout(LONG + MARGIN)
            .rest(Method::POST, "/v1/vms/{name}/restore", StatusCode::OK),
    )
}

pub(in crate::operations) fn operations() -> Service<Fleet> {
    service("snapshots")
        .with(query("list", list).requires(VMS_READ).rest(
            Method::GET,
            "/v1/vms/{name}/snapshots",
            StatusCode::OK,
        ))
        .with(
            mutation("delete", delete)
                .requires(VMS_WRITE)
                .timeout(WORK_TIMEOUT + MARGIN)
                .rest(
                    Method::DELETE,
                    "/v1/vms/{name}/snapshots/{snapshot}",
                    StatusCode::OK,
                ),
        )
}

/// Lets a VM stand still, memory and all, until it is resumed, started or stopped. One that is
/// paused stays as it is.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct PauseVm {
    /// The VM's name, or its id.
    name: String,
    /// Whose VM it is; for a key of the platform, which sees the VMs of all teams.
    #[serde(default)]
    team_id: Option<TeamId>,
}

async fn pause(fleet: &Fleet, call: Call, input: PauseVm) -> Asked<Vm> {
    let target = (input.team_id, input.name.as_str());
    on_its_host(fleet, &call, target, "vm.pause", json!({}), WORK_TIMEOUT).await
}

/// Lets a paused VM go on. One that runs stays as it is.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ResumeVm {
    /// The VM's name, or its id.
    name: String,
    /// Whose VM it is; for a key of the platform, which sees the VMs of all teams.
    #[serde(default)]
    team_id: Option<TeamId>,
}

async fn resume(fleet: &Fleet, call: Call, input: ResumeVm) -> Asked<Vm> {
    let target = (input.team_id, input.name.as_str());
    on_its_host(fleet, &call, target, "vm.resume", json!({}), WORK_TIMEOUT).await
}

/// A snapshot of a VM, on the VM's host.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub(super) struct Snapshot {
    /// What the snapshot is called; unique among those of its VM.
    name: String,
    /// The VM that it is a snapshot of.
    vm: String,
    /// When it was taken.
    created_at: Timestamp,
    /// Whether it holds the VM's memory, so that a restored VM goes on where it was. A VM that did
    /// not run has none, and is restored as it was: not running.
    memory: bool,
    /// What runs the VM.
    driver: String,
    /// Virtual CPUs.
    cpus: u32,
    /// Memory in MiB.
    memory_mb: u64,
    /// Size of the root disk in MiB.
    disk_size_mb: u64,
    /// The kernel that the guest runs.
    kernel: String,
    /// What the snapshot takes of the host's disk, in MiB.
    size_mb: u64,
}

/// Takes a snapshot of a VM: its disk, and if it runs or is paused its memory too. A VM that runs
/// stands still meanwhile, and then goes on.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct TakeSnapshot {
    /// The VM's name, or its id.
    name: String,
    /// Whose VM it is; for a key of the platform, which sees the VMs of all teams.
    #[serde(default)]
    team_id: Option<TeamId>,
    /// What to call the snapshot, as VMs are called; absent: by the time when it is taken.
    #[serde(default)]
    #[schemars(length(min = 1, max = 63))]
    snapshot: Option<String>,
}

async fn snapshot(fleet: &Fleet, call: Call, input: TakeSnapshot) -> Asked<Snapshot> {
    let mut db = fleet.store.read().await?;
    let (vm, host) = find(&mut db, &call, input.team_id, &input.name).await?;
    drop(db);
    let mut about = json!({ "name": vm.id });
    if let Some(name) = input.snapshot {
        about["snapshot"] = json!(name);
    }
    let taken: Snapshot = ask(fleet, &call, (&vm, &host), about, LONG).await?;
    record(fleet, &call, "vm.snapshot", &vm).await?;
    Ok(named(taken, &vm))
}

/// The snapshot as the VM's owner knows it.
fn named(snapshot: Snapshot, vm: &Vm) -> Snapshot {
    Snapshot {
        vm: vm.name.as_str().to_owned(),
        ..snapshot
    }
}

async fn record(fleet: &Fleet, call: &Call, action: &str, vm: &Vm) -> Asked<()> {
    let mut tx = fleet.store.begin().await?;
    audit::record(&mut tx, &Actor::of(call, clock::now()), action, &vm.id).await?;
    Ok(store::commit(tx).await?)
}

/// Lets a VM be again what it was when a snapshot was taken, disk and memory, and run on from
/// there. What it has become since is lost. Whether the snapshot fits and is whole is found out
/// before anything is touched. On a host that drains, a VM that does not run is not restored, not
/// even to a snapshot without memory, which would not start it.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RestoreVm {
    /// The VM's name, or its id.
    name: String,
    /// Whose VM it is; for a key of the platform, which sees the VMs of all teams.
    #[serde(default)]
    team_id: Option<TeamId>,
    /// The snapshot's name.
    #[schemars(length(min = 1, max = 63))]
    snapshot: String,
    /// Restore it though it runs.
    #[serde(default)]
    force: bool,
}

async fn restore(fleet: &Fleet, call: Call, input: RestoreVm) -> Asked<Vm> {
    let target = (input.team_id, input.name.as_str());
    let about = json!({ "snapshot": input.snapshot, "force": input.force });
    on_its_host(fleet, &call, target, "vm.restore", about, LONG).await
}

/// Lists the snapshots of a VM, by name.
#[derive(Debug, Deserialize, JsonSchema)]
pub(super) struct ListSnapshots {
    /// The VM's name, or its id.
    name: String,
    /// Whose VM it is; for a key of the platform, which sees the VMs of all teams.
    #[serde(default)]
    team_id: Option<TeamId>,
    #[serde(flatten)]
    page: Page,
}

async fn list(fleet: &Fleet, call: Call, input: ListSnapshots) -> Asked<Vec<Snapshot>> {
    let mut db = fleet.store.read().await?;
    let (vm, host) = find(&mut db, &call, input.team_id, &input.name).await?;
    drop(db);
    // As a whole: a VM has few of them, and its host's pages are not ours.
    let everything = json!({ "name": vm.id, "limit": 1000 });
    let found: Vec<Snapshot> = ask(fleet, &call, (&vm, &host), everything, LOOK_TIMEOUT).await?;
    let mut found: Vec<_> = found.into_iter().map(|one| named(one, &vm)).collect();
    found.retain(|one| one.name.as_str() > input.page.after());
    found.truncate(input.page.fetch() as usize);
    Ok(input.page.cut(&call, found, |one| one.name.as_str()))
}

/// Deletes a snapshot. Its VM is not touched; a VM that is deleted takes its snapshots with it.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct DeleteSnapshot {
    /// The VM's name, or its id.
    name: String,
    /// Whose VM it is; for a key of the platform, which sees the VMs of all teams.
    #[serde(default)]
    team_id: Option<TeamId>,
    /// The snapshot's name.
    #[schemars(length(min = 1, max = 63))]
    snapshot: String,
}

/// What was deleted.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub(super) struct DeletedSnapshot {
    /// The VM's name.
    name: String,
    /// The snapshot's name.
    snapshot: String,
}

async fn delete(fleet: &Fleet, call: Call, input: DeleteSnapshot) -> Asked<DeletedSnapshot> {
    let mut db = fleet.store.read().await?;
    let (vm, host) = find(&mut db, &call, input.team_id, &input.name).await?;
    drop(db);
    let about = json!({ "name": vm.id, "snapshot": input.snapshot });
    let gone: DeletedSnapshot = ask(fleet, &call, (&vm, &host), about, WORK_TIMEOUT).await?;
    record(fleet, &call, "vm.snapshot-delete", &vm).await?;
    Ok(DeletedSnapshot {
        name: vm.name.as_str().to_owned(),
        ..gone
    })
}
