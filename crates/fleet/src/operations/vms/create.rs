//! Creating a VM: a place for it is chosen and reserved in one transaction, then its host makes it.
//!
//! A reservation is a row of the table of VMs that nobody sees yet. When the host certainly did not
//! make the VM, the row goes again and nothing is left. When nobody knows (the answer was lost),
//! the host is asked once what it has; if that stays open, the row stays, in state `error` with the
//! reason, until somebody looks or deletes. It is never sent a second time.

use hostler_operations::{Call, FORBIDDEN, INVALID_INPUT, NOT_FOUND, internal};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::place::Wanted;
use super::{WORK_TIMEOUT, ask, described, note};
use crate::clock;
use crate::codes::{CONFLICT, NO_HOSTS_AVAILABLE};
use crate::connector::{Ask, HostFailure, OrHost};
use crate::fleet::Fleet;
use crate::ids::{HostId, TeamId, VmId};
use crate::model::{Host, HostVm, Observed, Vm, VmName, VmSpec, VmState};
use crate::operations::errors::write_errors;
use crate::placement::{self, Resources};
use crate::reach::Reach;
use crate::secrets;
use crate::store::audit::{self, Actor};
use crate::store::vms::{self, Asked, Record};
use crate::store::{self, Db, StoreError, hosts, teams};

const UNCERTAIN: &str = "its host did not say whether it made it; look again, or delete it";

/// Creates a VM on the host that has most room for it, or on the one that is named.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub(super) struct CreateVm {
    /// What the VM is called; unique in its team.
    name: VmName,
    #[serde(flatten)]
    place: Wanted,
    /// A word of the caller's own by which a repeated request is recognised: it is answered with
    /// the VM that the first one created.
    #[serde(default, skip_serializing)]
    #[schemars(length(min = 1, max = 255))]
    idempotency_key: Option<String>,
    #[serde(flatten)]
    spec: VmSpec,
}

write_errors! {
    /// Why no VM was created.
    pub(super) enum CreateVmError {
        /// There is a VM of this name.
        NameTaken { name: VmName } = CONFLICT,
            "there is a VM called {name} already; choose another name, or delete that one";
        /// The name looks like an id.
        NameIsId = INVALID_INPUT,
            "a VM's name must not have the form of an id (vm- and 25 characters); choose another";
        /// The idempotency key was used for something else.
        KeyReused = CONFLICT,
            "this idempotency key was used for a different request; use another one";
        /// The request with this idempotency key is still under way.
        KeyInUse = CONFLICT,
            "a request with this idempotency key is still under way; ask again in a moment";
        /// There is no such team, or not for this caller.
        NoSuchTeam { team_id: TeamId } = NOT_FOUND, "there is no team {team_id}";
        /// Whoever calls may own no VM.
        NoOwner = FORBIDDEN, "these credentials cannot own a VM; use an API key";
        /// There is no such host, or not for this caller.
        NoSuchHost { id: HostId } = NOT_FOUND,
            "there is no host {id}; leave host out to have one chosen";
        /// Sharing a directory of the host is for those who run the host.
        MountsRefused = FORBIDDEN,
            "only a key of the platform may mount directories of a host; leave mounts out";
        /// It fits nowhere.
        NoHosts { reason: String } = NO_HOSTS_AVAILABLE, "{reason}";
    }
}

impl From<CreateVmError> for OrHost<CreateVmError> {
    fn from(error: CreateVmError) -> Self {
        Self::Own(error)
    }
}

impl From<StoreError> for OrHost<CreateVmError> {
    fn from(error: StoreError) -> Self {
        Self::Own(error.into())
    }
}

pub(super) async fn create(
    fleet: &Fleet,
    call: Call,
    input: CreateVm,
) -> Result<Vm, OrHost<CreateVmError>> {
    match reserve(fleet, &call, input).await? {
        Reserved::Before(vm) => Ok(*vm),
        Reserved::Now(vm, host) => make(fleet, &call, *vm, &host).await,
    }
}

enum Reserved {
    /// By an earlier request with the same idempotency key, which succeeded.
    Before(Box<Vm>),
    /// By this one, on this host.
    Now(Box<Vm>, Box<Host>),
}

async fn reserve(fleet: &Fleet, call: &Call, input: CreateVm) -> Result<Reserved, CreateVmError> {
    if VmId::is_one(input.name.as_str()) {
        return Err(CreateVmError::NameIsId);
    }
    let (reach, actor) = (Reach::of(call), Actor::of(call, clock::now()));
    let mut tx = fleet.store.begin().await?;
    let team_id = owner(&mut tx, &reach, input.place.team_id.clone()).await?;
    if !input.spec.mounts.is_empty() && !reach.is_platform() {
        return Err(CreateVmError::MountsRefused);
    }
    let request = serde_json::to_string(&input).map_err(internal)?;
    let request_hash = secrets::hash(&request);
    if let Some(key) = &input.idempotency_key
        && let Some(before) = vms::by_idempotency_key(&mut tx, team_id.as_ref(), key).await?
    {
        return match before {
            other if other.request_hash != request_hash => Err(CreateVmError::KeyReused),
            Record { placed: false, .. } => Err(CreateVmError::KeyInUse),
            same => Ok(Reserved::Before(Box::new(same.vm))),
        };
    }
    if vms::by_name(&mut tx, team_id.as_ref(), input.name.as_str())
        .await?
        .is_some()
    {
        return Err(CreateVmError::NameTaken { name: input.name });
    }
    let host = choose_host(fleet, &mut tx, &reach, team_id.clone(), &input).await?;
    let vm = Vm {
        name: input.name,
        id: VmId::generate(),
        host: host.id.clone(),
        team_id,
        state: VmState::Created,
        state_reason: None,
        spec: input.spec,
        observed: Observed::default(),
        created_at: actor.now,
    };
    let record = Record {
        vm,
        placed: false,
        request_hash,
    };
    let asked = Asked {
        by: &actor.subject,
        idempotency_key: input.idempotency_key.as_deref(),
        spread_group: input.place.spread_group.as_deref(),
    };
    vms::insert(&mut tx, &record, asked).await?;
    audit::record(&mut tx, &actor, "vm.create", &record.vm.id).await?;
    store::commit(tx).await?;
    Ok(Reserved::Now(Box::new(record.vm), Box::new(host)))
}

/// Whose the VM is to be.
async fn owner(
    db: &mut Db,
    reach: &Reach,
    asked: Option<TeamId>,
) -> Result<Option<TeamId>, CreateVmError> {
    let Ok(team) = reach.team(asked.clone()) else {
        return Err(match asked {
            Some(team_id) => CreateVmError::NoSuchTeam { team_id },
            None => CreateVmError::NoOwner,
        });
    };
    if let Some(team_id) = &team
        && teams::get(db, team_id).await?.is_none()
    {
        return Err(CreateVmError::NoSuchTeam {
            team_id: team_id.clone(),
        });
    }
    Ok(team)
}

async fn choose_host(
    fleet: &Fleet,
    db: &mut Db,
    reach: &Reach,
    team: Option<TeamId>,
    input: &CreateVm,
) -> Result<Host, CreateVmError> {
    if let Some(id) = &input.place.host {
        let named = hosts::get(db, id)
            .await?
            .filter(|host| reach.sees_host(host));
        if named.is_none() {
            return Err(CreateVmError::NoSuchHost { id: id.clone() });
        }
    }
    let resources = Resources {
        cpus: input.spec.cpus.into(),
        memory_mb: input.spec.memory_mb,
        disk_mb: input.spec.disk_size_mb,
    };
    let demand = input.place.demand(db, team, resources).await?;
    let known = fleet.census.look(db).await?;
    let chosen = placement::place(&demand, known.hosts());
    let id = match chosen {
        Ok(chosen) => chosen.host.id.clone(),
        Err(none) => {
            let reason = none.to_string();
            return Err(CreateVmError::NoHosts { reason });
        }
    };
    drop(known);
    let host = hosts::get(db, &id).await?;
    host.ok_or(CreateVmError::NoSuchHost { id })
}

/// Has the host make the VM, and brings the books in line with what came of it.
async fn make(
    fleet: &Fleet,
    call: &Call,
    vm: Vm,
    host: &Host,
) -> Result<Vm, OrHost<CreateVmError>> {
    let mut input: Value = serde_json::to_value(&vm.spec).map_err(|e| own(internal(e)))?;
    input["name"] = json!(vm.id);
    // The guest goes by the name that its owner knows.
    input["hostname"] = json!(vm.name);
    match ask::<HostVm>(fleet, call, (&vm, host), input, WORK_TIMEOUT).await {
        Ok(said) => Ok(confirmed(fleet, vm, said).await?),
        Err(failure) if failure.is_certain() => {
            let mut tx = fleet.store.begin().await?;
            vms::delete(&mut tx, &vm.id).await?;
            let actor = Actor::of(call, clock::now());
            audit::record(&mut tx, &actor, "vm.create-failed", &vm.id).await?;
            store::commit(tx).await?;
            Err(failure.into())
        }
        Err(failure) => uncertain(fleet, call, vm, host, failure).await,
    }
}

fn own(cause: hostler_operations::Internal) -> OrHost<CreateVmError> {
    OrHost::Own(cause.into())
}

/// The host made the VM: from now on it is one.
async fn confirmed(fleet: &Fleet, vm: Vm, said: HostVm) -> Result<Vm, StoreError> {
    note(fleet, &vm.id, &said).await?;
    Ok(described(vm, &said))
}

/// The host may have made it. It is asked once; a no now could still be a yes in a moment, so only
/// a yes settles it.
async fn uncertain(
    fleet: &Fleet,
    call: &Call,
    vm: Vm,
    host: &Host,
    failure: HostFailure,
) -> Result<Vm, OrHost<CreateVmError>> {
    let question = Ask {
        operation: "vms/get",
        input: json!({ "name": vm.id }),
        request_id: call.request_id(),
        timeout: super::inspect::LOOK_TIMEOUT,
    };
    if let Ok(said) = fleet.connector.ask::<HostVm>(host, question).await {
        return Ok(confirmed(fleet, vm, said).await?);
    }
    let mut tx = fleet.store.begin().await?;
    let now = clock::now();
    vms::set_state(&mut tx, &vm.id, VmState::Error, Some(UNCERTAIN), now).await?;
    audit::record(
        &mut tx,
        &Actor::of(call, now),
        "vm.create-uncertain",
        &vm.id,
    )
    .await?;
    store::commit(tx).await?;
    Err(failure.into())
}
