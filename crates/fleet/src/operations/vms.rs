//! `vms/*`: the VMs of the fleet. Each is on one host, under its fleet id, and its team knows it by
//! a name of its own. What happens to a VM happens on its host; the books remember what the host
//! said last.

mod create;
mod guest;
mod inspect;
mod lifecycle;
mod place;
pub(super) mod snapshots;

use std::time::Duration;

use hostler_operations::{Call, Method, NOT_FOUND, Service, StatusCode, mutation, query, service};
use serde_json::Value;

use super::errors::write_errors;
use crate::clock;
use crate::codes::INVALID_STATE;
use crate::connector::{Ask, HostFailure, OrHost};
use crate::fleet::Fleet;
use crate::ids::{HostId, TeamId, VmId};
use crate::model::{Host, HostVm, Vm};
use crate::reach::Reach;
use crate::scopes::{VMS_READ, VMS_WRITE};
use crate::store::vms::Record;
use crate::store::{self, Db, StoreError, hosts, vms};

/// How long a host may take to make, start or delete a VM: a little longer than hosts allow
/// themselves, so that their own answer comes first.
const WORK_TIMEOUT: Duration = Duration::from_secs(125);
/// What the rest of an operation may take beside the host.
const MARGIN: Duration = Duration::from_secs(15);

pub(super) fn operations() -> Service<Fleet> {
    guest::operations(of_vms())
}

fn of_vms() -> Service<Fleet> {
    service("vms")
        .with(
            mutation("create", create::create)
                .requires(VMS_WRITE)
                .timeout(WORK_TIMEOUT + MARGIN)
                .rest(Method::POST, "/v1/vms", StatusCode::CREATED),
        )
        .with(query("place", place::place).requires(VMS_READ).rest(
            Method::POST,
            "/v1/vms/place",
            StatusCode::OK,
        ))
        .with(query("list", inspect::list).requires(VMS_READ).rest(
            Method::GET,
            "/v1/vms",
            StatusCode::OK,
        ))
        .with(query("get", inspect::get).requires(VMS_READ).rest(
            Method::GET,
            "/v1/vms/{name}",
            StatusCode::OK,
        ))
        .with(
            mutation("delete", lifecycle::delete)
                .requires(VMS_WRITE)
                .timeout(WORK_TIMEOUT + MARGIN)
                .rest(Method::DELETE, "/v1/vms/{name}", StatusCode::OK),
        )
        .with(
            mutation("start", lifecycle::start)
                .requires(VMS_WRITE)
                .timeout(WORK_TIMEOUT + MARGIN)
                .rest(Method::POST, "/v1/vms/{name}/start", StatusCode::OK)
                .idempotent(),
        )
        .with(
            mutation("stop", lifecycle::stop)
                .requires(VMS_WRITE)
                .timeout(lifecycle::LONGEST_STOP + WORK_TIMEOUT + MARGIN)
                .rest(Method::POST, "/v1/vms/{name}/stop", StatusCode::OK)
                .idempotent(),
        )
        .with(
            mutation("port-forward", lifecycle::port_forward)
                .requires(VMS_WRITE)
                .rest(Method::POST, "/v1/vms/{name}/port-forward", StatusCode::OK)
                .idempotent(),
        )
}

write_errors! {
    /// Why nothing was done with a VM.
    pub(super) enum VmError {
        /// There is no such VM, or not for this caller.
        NoSuchVm { name: String } = NOT_FOUND,
            "there is no VM {name:?}; vms/list shows those there are";
        /// Its host is being emptied.
        Draining { host: HostId } = INVALID_STATE,
            "its host {host} is draining, so nothing is started or restored there; hosts/uncordon opens it \
             again";
        /// The caller left.
        Left = INVALID_STATE, "the caller left, and the command was killed";
    }
}

/// What becomes of a question to a VM's host.
type Asked<T> = Result<T, OrHost<VmError>>;

impl From<VmError> for OrHost<VmError> {
    fn from(error: VmError) -> Self {
        Self::Own(error)
    }
}

impl From<StoreError> for OrHost<VmError> {
    fn from(error: StoreError) -> Self {
        Self::Own(error.into())
    }
}

/// The VM that a caller calls so, and its host: by its fleet id, or by its name in a team (absent:
/// the caller's own; for the platform, that of the VMs that belong to no team).
async fn find(
    db: &mut Db,
    call: &Call,
    team_id: Option<TeamId>,
    name: &str,
) -> Result<(Vm, Host), VmError> {
    let no_such_vm = || VmError::NoSuchVm {
        name: name.to_owned(),
    };
    let reach = Reach::of(call);
    let team = reach.team(team_id).map_err(|_| no_such_vm())?;
    let record = if VmId::is_one(name) {
        let record = vms::get(db, &VmId::named(name)).await?;
        record.filter(|record| reach.sees_team(record.vm.team_id.as_ref()))
    } else {
        vms::by_name(db, team.as_ref(), name).await?
    };
    let Record { vm, .. } = record
        .filter(|record| record.placed)
        .ok_or_else(no_such_vm)?;
    let host = hosts::get(db, &vm.host).await?.ok_or_else(no_such_vm)?;
    Ok((vm, host))
}

/// Calls an operation on a VM's host; what the host says of it uses the name that the owner knows.
async fn ask<O: serde::de::DeserializeOwned>(
    fleet: &Fleet,
    call: &Call,
    (vm, host): (&Vm, &Host),
    input: Value,
    timeout: Duration,
) -> Result<O, HostFailure> {
    let operation = call.operation().as_str();
    let ask = Ask {
        operation,
        input,
        request_id: call.request_id(),
        timeout,
    };
    let answer = fleet.connector.ask(host, ask).await;
    answer.map_err(|failure| failure.naming(vm.id.as_str(), vm.name.as_str()))
}

/// The VM as its host describes it now.
fn described(vm: Vm, said: &HostVm) -> Vm {
    Vm {
        state: said.state,
        state_reason: said.state_reason.clone(),
        spec: said.spec.clone(),
        observed: said.observed.clone(),
        ..vm
    }
}

/// Notes what a host says of a VM, where it differs from what the books say.
async fn observed(fleet: &Fleet, vm: Vm, said: HostVm) -> Result<Vm, StoreError> {
    let now = described(vm.clone(), &said);
    if now != vm {
        note(fleet, &vm.id, &said).await?;
    }
    Ok(now)
}

async fn note(fleet: &Fleet, id: &VmId, said: &HostVm) -> Result<(), StoreError> {
    let mut tx = fleet.store.begin().await?;
    vms::observe(&mut tx, id, said, clock::now()).await?;
    store::commit(tx).await
}
