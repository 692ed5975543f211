//! `hosts/drain`: emptying a host before it is taken away.
//!
//! A draining host takes no new VMs, from the moment at which it is one, and nobody starts one
//! there. Its VMs are asked to stop, a few at a time, each as `vms/stop` does it; what could not be
//! stopped is named, and asking again tries again. `hosts/uncordon` ends it.
//!
//! A VM that does not run is asked too: its host may be about to start it again (its restart policy
//! says so, or it is to run whenever the host does), or somebody may be starting it right now.

use std::time::Duration;

use futures::StreamExt;
use hostler_operations::{Call, Method, NOT_FOUND, Service, StatusCode, mutation};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::errors::write_errors;
use super::hosts::visible;
use crate::clock;
use crate::codes::INVALID_STATE;
use crate::connector::{Ask, HostFailure};
use crate::fleet::Fleet;
use crate::ids::{HostId, VmId};
use crate::model::{Host, HostStatus, HostVm, Vm, VmState};
use crate::scopes::HOSTS_WRITE;
use crate::store::audit::{self, Actor};
use crate::store::{self, StoreError, hosts, vms};

/// How long one VM may take to stop.
const STOP_TIMEOUT: Duration = Duration::from_secs(60);
/// For a host that is full.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(600);
/// How many VMs are asked to stop at a time.
const AT_ONCE: usize = 8;

pub(super) fn operations(hosts: Service<Fleet>) -> Service<Fleet> {
    hosts.with(
        mutation("drain", drain)
            .requires(HOSTS_WRITE)
            .timeout(DRAIN_TIMEOUT)
            .rest(Method::POST, "/v1/hosts/{id}/drain", StatusCode::OK)
            .idempotent(),
    )
}

/// Empties a host: no new VMs are placed on it, those that run on it are stopped, restarts that are
/// due are called off, and none is started by anybody who asks. It answers when they are stopped.
/// One with `auto_start` that has never run yet is still started when the host's agent is.
/// `hosts/uncordon` ends it.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct DrainHost {
    /// The host's id.
    id: HostId,
    /// Let its VMs be, and be started again as they say themselves; what does not run is only kept
    /// from those who ask for it.
    #[serde(default)]
    keep_vms: bool,
}

/// A host that drains, and what became of its VMs.
#[derive(Debug, Serialize, JsonSchema)]
struct Drained {
    #[serde(flatten)]
    host: Host,
    /// The ids of the VMs that were stopped; those that did not run are not among them.
    vms_stopped: Vec<VmId>,
    /// The VMs that could not be, or that do not run and of which the host did not say that they
    /// stay as they are.
    vms_running: Vec<StillRunning>,
}

/// A VM that could not be stopped.
#[derive(Debug, Serialize, JsonSchema)]
struct StillRunning {
    /// Its id.
    id: VmId,
    /// Why.
    reason: String,
}

write_errors! {
    /// Why a host does not drain.
    enum DrainHostError {
        /// There is no such host, or not for this caller.
        NoSuchHost { id: HostId } = NOT_FOUND,
            "there is no host {id}; hosts/list shows those there are";
        /// It is not there.
        NotThere { status: HostStatus } = INVALID_STATE,
            "the host is {status}, and only one that is online can be drained; to keep new VMs \
             away from it, use hosts/cordon";
    }
}

async fn drain(fleet: &Fleet, call: Call, input: DrainHost) -> Result<Drained, DrainHostError> {
    let actor = Actor::of(&call, clock::now());
    let mut tx = fleet.store.begin().await?;
    let found = visible(&mut tx, &call, &input.id).await?;
    let mut host = found.ok_or(DrainHostError::NoSuchHost { id: input.id })?;
    match host.status {
        HostStatus::Draining => {}
        HostStatus::Online => {
            hosts::set_status(&mut tx, &host, HostStatus::Draining, actor.now).await?;
            audit::record(&mut tx, &actor, "host.draining", &host.id).await?;
            host.status = HostStatus::Draining;
            host.updated_at = actor.now;
        }
        status => return Err(DrainHostError::NotThere { status }),
    }
    let on_it = vms::Filter {
        host: Some(host.id.clone()),
        limit: u32::MAX,
        ..vms::Filter::default()
    };
    let on_it = vms::list(&mut tx, &on_it).await?;
    store::commit(tx).await?;
    let to_stop = on_it.into_iter().filter(|_| !input.keep_vms);
    let (at_rest, others): (Vec<_>, Vec<_>) = to_stop.partition(is_at_rest);
    let outcomes: Vec<_> = futures::stream::iter(others.into_iter().chain(at_rest))
        .map(|vm| stop(fleet, &call, &host, vm))
        .buffer_unordered(AT_ONCE)
        .collect()
        .await;
    let mut drained = Drained {
        host,
        vms_stopped: Vec::new(),
        vms_running: Vec::new(),
    };
    for (vm, outcome) in outcomes {
        match outcome {
            Ok(()) if is_at_rest(&vm) => {}
            Ok(()) => drained.vms_stopped.push(vm.id),
            Err(reason) => drained.vms_running.push(StillRunning { id: vm.id, reason }),
        }
    }
    Ok(drained)
}

/// Whether a VM does not run, as far as the books know.
fn is_at_rest(vm: &Vm) -> bool {
    matches!(vm.state, VmState::Created | VmState::Stopped)
}

/// Has the host stop one VM, and notes it.
async fn stop(fleet: &Fleet, call: &Call, host: &Host, vm: Vm) -> (Vm, Result<(), String>) {
    let outcome = match ask_to_stop(fleet, call, host, &vm.id).await {
        Ok(said) => noted(fleet, call, &vm, &said)
            .await
            .map_err(|e| e.to_string()),
        // Nobody starts what the host does not have.
        Err(failure) if failure.is_not_found() && is_at_rest(&vm) => Ok(()),
        Err(failure) => Err(failure.to_string()),
    };
    (vm, outcome)
}

/// Has the host stop a VM, and start it no more by itself.
pub(super) async fn ask_to_stop(
    fleet: &Fleet,
    call: &Call,
    host: &Host,
    vm: &VmId,
) -> Result<HostVm, HostFailure> {
    let ask = Ask {
        operation: "vms/stop",
        input: json!({ "name": vm }),
        request_id: call.request_id(),
        timeout: STOP_TIMEOUT,
    };
    fleet.connector.ask(host, ask).await
}

async fn noted(fleet: &Fleet, call: &Call, vm: &Vm, said: &HostVm) -> Result<(), StoreError> {
    let actor = Actor::of(call, clock::now());
    let mut tx = fleet.store.begin().await?;
    vms::observe(&mut tx, &vm.id, said, actor.now).await?;
    if !is_at_rest(vm) {
        audit::record(&mut tx, &actor, "vm.stop", &vm.id).await?;
    }
    store::commit(tx).await
}
