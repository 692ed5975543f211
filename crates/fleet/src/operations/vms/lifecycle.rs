//! Starting, stopping and deleting VMs, and forwarding ports to them: the host does it, the books
//! follow. All of these may be asked twice; a lost answer is mended by asking again.

use std::num::NonZeroU16;
use std::time::Duration;

use hostler_operations::Call;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Asked, VmError, WORK_TIMEOUT, ask, described, find, note};
use crate::clock;
use crate::fleet::Fleet;
use crate::ids::TeamId;
use crate::model::{Host, HostStatus, HostVm, PortForward, Protocol, Vm, VmState};
use crate::operations::drain;
use crate::store::audit::{self, Actor};
use crate::store::{self, Db, StoreError, hosts, vms};

/// The longest time that a guest may be given to stop by itself.
pub(super) const LONGEST_STOP: Duration = Duration::from_secs(300);
const FORWARD_TIMEOUT: Duration = Duration::from_secs(20);

/// Starts a VM. One that runs already stays as it is. On a host that drains nothing is started, and
/// what was being started when it began to is stopped again; on a cordoned one what is there is
/// started.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct StartVm {
    /// The VM's name, or its id.
    name: String,
    /// Whose VM it is; for a key of the platform, which sees the VMs of all teams.
    #[serde(default)]
    team_id: Option<TeamId>,
}

pub(super) async fn start(fleet: &Fleet, call: Call, input: StartVm) -> Asked<Vm> {
    let target = (input.team_id, input.name.as_str());
    on_its_host(fleet, &call, target, "vm.start", json!({}), WORK_TIMEOUT).await
}

/// Stops a VM: asks the guest, waits, and then ends it. One that is stopped stays as it is.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct StopVm {
    /// The VM's name, or its id.
    name: String,
    /// Whose VM it is; for a key of the platform, which sees the VMs of all teams.
    #[serde(default)]
    team_id: Option<TeamId>,
    /// How long the guest may take to stop by itself, in seconds; absent: 10.
    #[serde(default)]
    #[schemars(range(min = 0, max = 300))]
    timeout_secs: Option<u32>,
}

pub(super) async fn stop(fleet: &Fleet, call: Call, input: StopVm) -> Asked<Vm> {
    let target = (input.team_id, input.name.as_str());
    let (extra, patience) = match input.timeout_secs {
        Some(secs) => (
            json!({ "timeout_secs": secs }),
            Duration::from_secs(secs.into()),
        ),
        None => (json!({}), Duration::ZERO),
    };
    on_its_host(
        fleet,
        &call,
        target,
        "vm.stop",
        extra,
        patience + WORK_TIMEOUT,
    )
    .await
}

/// Leads a port of the VM's host into the guest. The same one twice changes nothing.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ForwardPort {
    /// The VM's name, or its id.
    name: String,
    /// Whose VM it is; for a key of the platform, which sees the VMs of all teams.
    #[serde(default)]
    team_id: Option<TeamId>,
    /// The port on the host.
    host_port: NonZeroU16,
    /// The port in the guest.
    guest_port: NonZeroU16,
    /// What travels through it.
    #[serde(default)]
    protocol: Protocol,
    /// The host's address to listen on; 127.0.0.1 unless said otherwise.
    #[serde(default)]
    bind: Option<String>,
}

pub(super) async fn port_forward(fleet: &Fleet, call: Call, input: ForwardPort) -> Asked<Vm> {
    let ForwardPort {
        name,
        team_id,
        host_port,
        guest_port,
        protocol,
        bind,
    } = input;
    let forward = PortForward {
        host_port,
        guest_port,
        protocol,
        bind,
    };
    let target = (team_id, name.as_str());
    on_its_host(
        fleet,
        &call,
        target,
        "vm.port-forward",
        json!(forward),
        FORWARD_TIMEOUT,
    )
    .await
}

/// Has a VM's host do what was called, and notes how the VM is then.
pub(super) async fn on_its_host(
    fleet: &Fleet,
    call: &Call,
    (team_id, name): (Option<TeamId>, &str),
    action: &str,
    mut input: Value,
    timeout: Duration,
) -> Asked<Vm> {
    let mut db = fleet.store.read().await?;
    let (vm, host) = find(&mut db, call, team_id, name).await?;
    drop(db);
    let starts = matches!(action, "vm.start" | "vm.restore");
    if starts {
        may_start(&vm, &host)?;
    }
    input["name"] = json!(vm.id);
    let said: HostVm = match ask(fleet, call, (&vm, &host), input, timeout).await {
        Ok(said) => said,
        Err(failure) => {
            // It may run all the same.
            if starts && !failure.is_certain() {
                let stopped = stop_what_started_in_vain(fleet, call, &vm, &host).await;
                if let Err(error) = stopped {
                    tracing::error!(vm = %vm.id, host = %host.id, ?error, "a VM may run on a host that drains");
                }
            }
            return Err(failure.into());
        }
    };
    let actor = Actor::of(call, clock::now());
    let mut tx = fleet.store.begin().await?;
    let in_vain = starts && lives(said.state) && drains_by_now(&mut tx, &vm).await?;
    vms::observe(&mut tx, &vm.id, &said, actor.now).await?;
    audit::record(&mut tx, &actor, action, &vm.id).await?;
    store::commit(tx).await?;
    if in_vain {
        stop_again(fleet, call, &vm, &host).await?;
        return Err(VmError::Draining { host: host.id }.into());
    }
    Ok(described(vm, &said))
}

/// Stops a VM of which nobody knows whether it was started, if its host drains by now.
async fn stop_what_started_in_vain(fleet: &Fleet, call: &Call, vm: &Vm, host: &Host) -> Asked<()> {
    let mut db = fleet.store.read().await?;
    let in_vain = drains_by_now(&mut db, vm).await?;
    drop(db);
    match in_vain {
        true => stop_again(fleet, call, vm, host).await,
        false => Ok(()),
    }
}

/// Stops a VM whose start came after the drain of its host.
async fn stop_again(fleet: &Fleet, call: &Call, vm: &Vm, host: &Host) -> Asked<()> {
    let stopped = drain::ask_to_stop(fleet, call, host, &vm.id).await;
    let stopped = stopped.map_err(|failure| failure.naming(vm.id.as_str(), vm.name.as_str()))?;
    Ok(note(fleet, &vm.id, &stopped).await?)
}

fn lives(state: VmState) -> bool {
    matches!(
        state,
        VmState::Starting | VmState::Running | VmState::Paused
    )
}

/// A host that drains would have to stop it again. What lives there already goes on: `hosts/drain`
/// may have been told to leave it. A snapshot without memory would start nothing, but only the host
/// knows which those are.
fn may_start(vm: &Vm, host: &Host) -> Result<(), VmError> {
    match host.status {
        HostStatus::Draining if !lives(vm.state) => Err(VmError::Draining {
            host: host.id.clone(),
        }),
        _ => Ok(()),
    }
}

/// Whether a VM was started on a host that drains by now: the drain's own stop may have come before
/// the start. One that lived before, and was not stopped since, is the drain's to stop or to leave.
async fn drains_by_now(db: &mut Db, before: &Vm) -> Result<bool, StoreError> {
    let host = hosts::get(db, &before.host).await?;
    if host.is_none_or(|host| host.status != HostStatus::Draining) {
        return Ok(false);
    }
    let now = vms::get(db, &before.id).await?;
    Ok(!lives(before.state) || now.is_some_and(|now| !lives(now.vm.state)))
}

/// Deletes a VM with its disk and its snapshots. A running one only by force.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct DeleteVm {
    /// The VM's name, or its id.
    name: String,
    /// Whose VM it is; for a key of the platform, which sees the VMs of all teams.
    #[serde(default)]
    team_id: Option<TeamId>,
    /// Delete it though it runs.
    #[serde(default)]
    force: bool,
}

pub(super) async fn delete(fleet: &Fleet, call: Call, input: DeleteVm) -> Asked<Vm> {
    let mut db = fleet.store.read().await?;
    let (vm, host) = find(&mut db, &call, input.team_id, &input.name).await?;
    drop(db);
    let about = json!({ "name": vm.id, "force": input.force });
    match ask::<Value>(fleet, &call, (&vm, &host), about, WORK_TIMEOUT).await {
        Ok(_) => {}
        // What the host does not have is deleted.
        Err(failure) if failure.is_not_found() => {}
        Err(failure) => return Err(failure.into()),
    }
    let mut tx = fleet.store.begin().await?;
    vms::delete(&mut tx, &vm.id).await?;
    audit::record(
        &mut tx,
        &Actor::of(&call, clock::now()),
        "vm.delete",
        &vm.id,
    )
    .await?;
    store::commit(tx).await?;
    Ok(vm)
}
