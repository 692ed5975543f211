//! `hosts/drain`: emptying a host before it is taken away.
//!
//! A draining host takes no new VMs, from the moment at which it is one, and starts none. Its VMs are asked to stop,
//! a few at a time, each as `vms/stop` does it; what could not be stopped is named, and asking again
//! tries again. `hosts/uncordon` ends it.

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
use crate::connector::Ask;
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

/// Empties a host: no new VMs are placed on it, those that run on it are stopped, and none is
/// started. It answers when they are stopped. `hosts/uncordon` ends it.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct DrainHost {
    /// The host's id.
    id: HostId,
    /// Let its VMs run on; only what does not run is kept from it.
    #[serde(default)]
    keep_vms: bool,
}

/// A host that drains, and what became of its VMs.
#[derive(Debug, Serialize, JsonSchema)]
struct Drained {
    #[serde(flatten)]
    host: Host,
    /// The ids of the VMs that were stopped.
    vms_stopped: Vec<VmId>,
    /// The VMs that could not be.
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
    let runs = |vm: &Vm| !matches!(vm.state, VmState::Created | VmState::Stopped);
    let to_stop = on_it.into_iter().filter(|vm| runs(vm) && !input.keep_vms);
    let outcomes: Vec<_> = futures::stream::iter(to_stop)
        .map(|vm| stop(fleet, &call, &host, vm.id))
        .buffer_unordered(AT_ONCE)
        .collect()
        .await;
    let mut drained = Drained {
        host,
        vms_stopped: Vec::new(),
        vms_running: Vec::new(),
    };
    for (id, outcome) in outcomes {
        match outcome {
            Ok(()) => drained.vms_stopped.push(id),
            Err(reason) => drained.vms_running.push(StillRunning { id, reason }),
        }
    }
    Ok(drained)
}

/// Has the host stop one VM, and notes it.
async fn stop(fleet: &Fleet, call: &Call, host: &Host, vm: VmId) -> (VmId, Result<(), String>) {
    let ask = Ask {
        operation: "vms/stop",
        input: json!({ "name": vm }),
        request_id: call.request_id(),
        timeout: STOP_TIMEOUT,
    };
    let said = fleet.connector.ask::<HostVm>(host, ask).await;
    let outcome = match said {
        Ok(said) => noted(fleet, call, &vm, &said)
            .await
            .map_err(|e| e.to_string()),
        Err(failure) => Err(failure.to_string()),
    };
    (vm, outcome)
}

async fn noted(fleet: &Fleet, call: &Call, vm: &VmId, said: &HostVm) -> Result<(), StoreError> {
    let actor = Actor::of(call, clock::now());
    let mut tx = fleet.store.begin().await?;
    vms::observe(&mut tx, vm, said, actor.now).await?;
    audit::record(&mut tx, &actor, "vm.stop", vm).await?;
    store::commit(tx).await
}
