//! `hosts/*`: creating, showing, closing and removing hosts. How a created host becomes a machine
//! is in [`enrolment`](super::enrolment), its tags are in [`tags`](super::tags).

use hostler_operations::{
    Call, FORBIDDEN, INVALID_INPUT, Method, NOT_FOUND, Service, StatusCode, mutation, query,
    service,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::errors::{ChangeHostError, ReadError, ReadHostError, write_errors};
use super::page::Page;
use crate::clock;
use crate::codes::HAS_VMS;
use crate::enrolment::{Cidr, TokenBinding};
use crate::fleet::Fleet;
use crate::ids::{HostId, TeamId};
use crate::model::{Host, HostStatus, HostType, Tag};
use crate::reach::Reach;
use crate::scopes::{HOSTS_READ, HOSTS_WRITE};
use crate::secrets::RegistrationToken;
use crate::store::audit::{self, Actor};
use crate::store::{self, Db, StoreError, entries, hosts, teams, vms};

pub(super) fn operations() -> Service<Fleet> {
    service("hosts")
        .with(mutation("create", create).requires(HOSTS_WRITE).rest(
            Method::POST,
            "/v1/hosts",
            StatusCode::CREATED,
        ))
        .with(query("list", list).requires(HOSTS_READ).rest(
            Method::GET,
            "/v1/hosts",
            StatusCode::OK,
        ))
        .with(query("get", get).requires(HOSTS_READ).rest(
            Method::GET,
            "/v1/hosts/{id}",
            StatusCode::OK,
        ))
        .with(mutation("delete", delete).requires(HOSTS_WRITE).rest(
            Method::DELETE,
            "/v1/hosts/{id}",
            StatusCode::NO_CONTENT,
        ))
        .with(
            query("delete-preview", delete_preview)
                .requires(HOSTS_WRITE)
                .rest(Method::GET, "/v1/hosts/{id}/delete-preview", StatusCode::OK),
        )
        .with(
            mutation("cordon", cordon)
                .requires(HOSTS_WRITE)
                .rest(Method::POST, "/v1/hosts/{id}/cordon", StatusCode::OK)
                .idempotent(),
        )
        .with(
            mutation("uncordon", uncordon)
                .requires(HOSTS_WRITE)
                .rest(Method::POST, "/v1/hosts/{id}/uncordon", StatusCode::OK)
                .idempotent(),
        )
}

/// The host of this id, if the caller sees it.
pub(super) async fn visible(
    db: &mut Db,
    call: &Call,
    id: &HostId,
) -> Result<Option<Host>, StoreError> {
    let host = hosts::get(db, id).await?;
    Ok(host.filter(|host| Reach::of(call).sees_host(host)))
}

/// Tells when hosts were last heard of where Redis knows of it and the books not yet.
async fn heard(fleet: &Fleet, hosts: &mut [Host]) {
    let ids: Vec<&HostId> = hosts.iter().map(|host| &host.id).collect();
    let Some(heard) = fleet.redis.last_heard(&ids).await else {
        return;
    };
    for (host, heard) in hosts.iter_mut().zip(heard) {
        host.last_heartbeat_at = host.last_heartbeat_at.max(heard);
    }
}

/// Creates a pending host and the one-time token by which a machine becomes it.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct CreateHost {
    /// `regular` (any team's VMs; a key of the platform is needed) or `byoc` (one team's own).
    #[serde(default = "regular", rename = "type")]
    kind: HostType,
    /// The team whose host it is; for byoc hosts only, and unless the key is the team's own.
    #[serde(default)]
    team_id: Option<TeamId>,
    /// Whose machine it is, in your words.
    #[serde(default)]
    #[schemars(length(min = 1, max = 128))]
    provider: Option<String>,
    /// Where it stands, in your words.
    #[serde(default)]
    #[schemars(length(min = 1, max = 128))]
    availability_zone: Option<String>,
    /// Tags to begin with.
    #[serde(default)]
    #[schemars(length(max = 64))]
    tags: Vec<Tag>,
    /// The addresses from which the token may be used; absent: any.
    #[serde(default)]
    token_cidr: Option<Cidr>,
    /// The architecture (`x86_64`, `aarch64`) that the machine must have; absent: any.
    #[serde(default)]
    #[schemars(length(min = 1, max = 32))]
    token_arch: Option<String>,
}

fn regular() -> HostType {
    HostType::Regular
}

/// A pending host with the token that enrols it.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct HostWithToken {
    /// The host.
    pub(super) host: Host,
    /// The token: good for one registration within the hour, and shown only here.
    pub(super) registration_token: RegistrationToken,
}

write_errors! {
    /// Why no host was created.
    enum CreateHostError {
        /// A regular host serves every team.
        RegularOfTeam = INVALID_INPUT,
            "a regular host belongs to no team; leave team_id out, or set type to byoc";
        /// A byoc host serves one team.
        ByocOfNobody = INVALID_INPUT, "a byoc host belongs to a team; set team_id";
        /// There is no such team, or not for this caller.
        NoSuchTeam { team_id: TeamId } = NOT_FOUND, "there is no team {team_id}";
        /// Only the platform has regular hosts.
        NotThePlatform = FORBIDDEN,
            "only a key of the platform may create regular hosts; set type to byoc for one of \
             your team's own";
        /// This team may not bring hosts.
        ByocDisabled { team_id: TeamId } = FORBIDDEN,
            "the team {team_id} may not bring hosts of its own; ask the platform to allow it";
    }
}

/// Whose the new host is to be, if this caller may have one.
async fn owner(
    db: &mut Db,
    call: &Call,
    input: &CreateHost,
) -> Result<Option<TeamId>, CreateHostError> {
    let reach = Reach::of(call);
    if input.kind == HostType::Regular {
        return match (&input.team_id, reach.is_platform()) {
            (_, false) => Err(CreateHostError::NotThePlatform),
            (Some(_), true) => Err(CreateHostError::RegularOfTeam),
            (None, true) => Ok(None),
        };
    }
    let Ok(team_id) = reach.team(input.team_id.clone()) else {
        return Err(match &input.team_id {
            Some(team_id) => CreateHostError::NoSuchTeam {
                team_id: team_id.clone(),
            },
            None => CreateHostError::ByocOfNobody,
        });
    };
    let team_id = team_id.ok_or(CreateHostError::ByocOfNobody)?;
    match teams::get(db, &team_id).await? {
        None => Err(CreateHostError::NoSuchTeam { team_id }),
        Some(team) if !team.is_byoc => Err(CreateHostError::ByocDisabled { team_id }),
        Some(_) => Ok(Some(team_id)),
    }
}

async fn create(
    fleet: &Fleet,
    call: Call,
    input: CreateHost,
) -> Result<HostWithToken, CreateHostError> {
    let now = clock::now();
    let actor = Actor::of(&call, now);
    let mut tx = fleet.store.begin().await?;
    let team_id = owner(&mut tx, &call, &input).await?;
    let mut tags = input.tags;
    tags.sort_unstable();
    tags.dedup();
    let host = Host {
        id: HostId::generate(),
        kind: input.kind,
        team_id,
        provider: input.provider,
        availability_zone: input.availability_zone,
        arch: None,
        cpu_cores: None,
        memory_mb: None,
        disk_gb: None,
        address: None,
        status: HostStatus::Pending,
        cordoned: false,
        tags,
        last_heartbeat_at: None,
        created_by: actor.subject.clone(),
        created_at: now,
        updated_at: now,
    };
    hosts::insert(&mut tx, &host).await?;
    audit::record(&mut tx, &actor, "host.create", &host.id).await?;
    let binding = TokenBinding {
        cidr: input.token_cidr,
        arch: input.token_arch,
    };
    let registration_token =
        super::enrolment::issue_token(&mut tx, &actor, &host.id, &binding).await?;
    store::commit(tx).await?;
    Ok(HostWithToken {
        host,
        registration_token,
    })
}

/// Lists hosts, in the order of their creation. A team's key sees the hosts that the team brought.
#[derive(Debug, Deserialize, JsonSchema)]
struct ListHosts {
    /// Only those in this status.
    #[serde(default)]
    status: Option<HostStatus>,
    /// Only those of this type.
    #[serde(default, rename = "type")]
    kind: Option<HostType>,
    /// Only those with this tag.
    #[serde(default)]
    tag: Option<Tag>,
    /// Only those of this team.
    #[serde(default)]
    team_id: Option<TeamId>,
    #[serde(flatten)]
    page: Page,
}

async fn list(fleet: &Fleet, call: Call, input: ListHosts) -> Result<Vec<Host>, ReadError> {
    let Ok(team) = Reach::of(&call).team(input.team_id) else {
        return Ok(Vec::new());
    };
    let filter = hosts::Filter {
        status: input.status,
        kind: input.kind,
        tag: input.tag,
        team,
        after: input.page.after().to_owned(),
        limit: input.page.fetch(),
    };
    let mut db = fleet.store.read().await?;
    let mut found = hosts::list(&mut db, &filter).await?;
    heard(fleet, &mut found).await;
    Ok(input.page.cut(&call, found, |host| host.id.as_str()))
}

/// Shows a host.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct GetHost {
    /// The host's id.
    id: HostId,
}

async fn get(fleet: &Fleet, call: Call, input: GetHost) -> Result<Host, ReadHostError> {
    let mut db = fleet.store.read().await?;
    let found = visible(&mut db, &call, &input.id).await?;
    drop(db);
    let mut found = found.ok_or(ReadHostError::NoSuchHost { id: input.id })?;
    heard(fleet, std::slice::from_mut(&mut found)).await;
    Ok(found)
}

/// Removes a host. Its machine is out at once: its connections end, its tokens and certificates
/// are good for nothing, and entries that name it are deleted.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct DeleteHost {
    /// The host's id.
    id: HostId,
    /// Forget its VMs too. They run on until somebody stops them on the machine itself.
    #[serde(default)]
    force: bool,
}

write_errors! {
    /// Why a host was not removed.
    enum DeleteHostError {
        /// There is no such host, or not for this caller.
        NoSuchHost { id: HostId } = NOT_FOUND,
            "there is no host {id}; hosts/list shows those there are";
        /// There are VMs on it.
        HasVms { vm_ids: Vec<String> } = HAS_VMS,
            "there are VMs on it ({vm_ids:?}); delete them first, or use force to forget them";
    }
}

async fn delete(fleet: &Fleet, call: Call, input: DeleteHost) -> Result<(), DeleteHostError> {
    let actor = Actor::of(&call, clock::now());
    let mut tx = fleet.store.begin().await?;
    let found = visible(&mut tx, &call, &input.id).await?;
    let host = found.ok_or(DeleteHostError::NoSuchHost { id: input.id })?;
    let on_it = vms::on_host(&mut tx, &host.id).await?;
    if !on_it.is_empty() {
        if !input.force {
            let vm_ids = on_it.iter().map(|(id, _)| id.to_string()).collect();
            return Err(DeleteHostError::HasVms { vm_ids });
        }
        for (vm, _) in &on_it {
            audit::record(&mut tx, &actor, "vm.forget", vm).await?;
        }
        vms::delete_on_host(&mut tx, &host.id).await?;
    }
    for entry in entries::delete_of_host(&mut tx, &host.id).await? {
        audit::record(&mut tx, &actor, "entry.delete", &entry).await?;
    }
    hosts::delete(&mut tx, &host.id).await?;
    audit::record(&mut tx, &actor, "host.delete", &host.id).await?;
    store::commit(tx).await?;
    fleet.roll.strike(&host.id);
    fleet.connector.forget(&host.id);
    fleet.workloads_changed();
    Ok(())
}

/// Shows what removing a host would take with it.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct PreviewDelete {
    /// The host's id.
    id: HostId,
}

/// A host and what is on it.
#[derive(Debug, Serialize, JsonSchema)]
struct DeletePreview {
    /// The host.
    host: Host,
    /// The names of the VMs on it.
    vm_names: Vec<String>,
}

async fn delete_preview(
    fleet: &Fleet,
    call: Call,
    input: PreviewDelete,
) -> Result<DeletePreview, ReadHostError> {
    let mut db = fleet.store.read().await?;
    let found = visible(&mut db, &call, &input.id).await?;
    let host = found.ok_or(ReadHostError::NoSuchHost { id: input.id })?;
    let on_it = vms::on_host(&mut db, &host.id).await?;
    Ok(DeletePreview {
        host,
        vm_names: on_it.into_iter().map(|(_, name)| name).collect(),
    })
}

/// Closes a host to new VMs. Those on it stay.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct CordonHost {
    /// The host's id.
    id: HostId,
}

async fn cordon(fleet: &Fleet, call: Call, input: CordonHost) -> Result<Host, ChangeHostError> {
    set_cordoned(fleet, &call, input.id, true).await
}

/// Opens a host to new VMs again. One that was draining is online.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct UncordonHost {
    /// The host's id.
    id: HostId,
}

async fn uncordon(fleet: &Fleet, call: Call, input: UncordonHost) -> Result<Host, ChangeHostError> {
    set_cordoned(fleet, &call, input.id, false).await
}

async fn set_cordoned(
    fleet: &Fleet,
    call: &Call,
    id: HostId,
    cordoned: bool,
) -> Result<Host, ChangeHostError> {
    let now = clock::now();
    let mut tx = fleet.store.begin().await?;
    let found = visible(&mut tx, call, &id).await?;
    let mut host = found.ok_or(ChangeHostError::NoSuchHost { id })?;
    let drained = !cordoned && host.status == HostStatus::Draining;
    if host.cordoned == cordoned && !drained {
        return Ok(host);
    }
    let actor = Actor::of(call, now);
    if host.cordoned != cordoned {
        hosts::set_cordoned(&mut tx, &host.id, cordoned, now).await?;
        host.cordoned = cordoned;
    }
    if drained {
        hosts::set_status(&mut tx, &host, HostStatus::Online, now).await?;
        host.status = HostStatus::Online;
    }
    let action = match cordoned {
        true => "host.cordon",
        false => "host.uncordon",
    };
    audit::record(&mut tx, &actor, action, &host.id).await?;
    store::commit(tx).await?;
    host.updated_at = now;
    Ok(host)
}
