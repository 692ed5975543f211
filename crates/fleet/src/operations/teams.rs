//! `teams/*`: who shares VMs, hosts and keys. Managed by the platform; who is in a team is in
//! [`members`](super::members).

use hostler_operations::{
    Call, FORBIDDEN, Method, NOT_FOUND, Service, StatusCode, mutation, query, service,
};
use schemars::JsonSchema;
use serde::Deserialize;

use super::errors::{ReadError, read_errors, write_errors};
use super::page::Page;
use crate::clock;
use crate::codes::{CONFLICT, TEAM_NOT_EMPTY};
use crate::fleet::Fleet;
use crate::ids::TeamId;
use crate::model::Team;
use crate::reach::Reach;
use crate::scopes::{KEYS_WRITE, TEAMS_READ};
use crate::store::audit::{self, Actor};
use crate::store::{self, Db, StoreError, keys, teams};

pub(super) fn operations() -> Service<Fleet> {
    service("teams")
        .with(mutation("create", create).requires(KEYS_WRITE).rest(
            Method::POST,
            "/v1/teams",
            StatusCode::CREATED,
        ))
        .with(
            query("list", list)
                .requires_any([TEAMS_READ, KEYS_WRITE])
                .rest(Method::GET, "/v1/teams", StatusCode::OK),
        )
        .with(
            query("get", get)
                .requires_any([TEAMS_READ, KEYS_WRITE])
                .rest(Method::GET, "/v1/teams/{team}", StatusCode::OK),
        )
        .with(
            mutation("update", update)
                .requires(KEYS_WRITE)
                .rest(Method::PATCH, "/v1/teams/{team}", StatusCode::OK)
                .idempotent(),
        )
        .with(mutation("delete", delete).requires(KEYS_WRITE).rest(
            Method::DELETE,
            "/v1/teams/{team}",
            StatusCode::NO_CONTENT,
        ))
}

/// The team of this id or name, if the caller sees it.
pub(super) async fn visible(
    db: &mut Db,
    call: &Call,
    team: &str,
) -> Result<Option<Team>, StoreError> {
    let found = teams::find(db, team).await?;
    Ok(found.filter(|team| Reach::of(call).sees_team(Some(&team.id))))
}

/// Creates a team, with nobody in it. Needs a key or an admin of the platform.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct CreateTeam {
    /// What it is called; unique.
    #[schemars(length(min = 1, max = 64))]
    name: String,
    /// Whether it may bring hosts of its own.
    #[serde(default)]
    is_byoc: bool,
}

write_errors! {
    /// Why no team was created.
    enum CreateTeamError {
        /// Only the platform has teams.
        NotThePlatform = FORBIDDEN, "only the platform may create teams";
        /// There is one of this name.
        NameTaken { name: String } = CONFLICT,
            "there is a team called {name:?} already; choose another name";
    }
}

async fn create(fleet: &Fleet, call: Call, input: CreateTeam) -> Result<Team, CreateTeamError> {
    if !Reach::of(&call).is_platform() {
        return Err(CreateTeamError::NotThePlatform);
    }
    let now = clock::now();
    let CreateTeam { name, is_byoc } = input;
    let team = Team {
        id: TeamId::generate(),
        name,
        is_byoc,
        created_at: now,
    };
    let mut tx = fleet.store.begin().await?;
    match teams::insert(&mut tx, &team).await {
        Err(StoreError::Duplicate) => return Err(CreateTeamError::NameTaken { name: team.name }),
        inserted => inserted?,
    }
    audit::record(&mut tx, &Actor::of(&call, now), "team.create", &team.id).await?;
    store::commit(tx).await?;
    Ok(team)
}

/// Lists teams, in the order of their creation. A team sees itself.
#[derive(Debug, Deserialize, JsonSchema)]
struct ListTeams {
    #[serde(flatten)]
    page: Page,
}

async fn list(fleet: &Fleet, call: Call, input: ListTeams) -> Result<Vec<Team>, ReadError> {
    let mut db = fleet.store.read().await?;
    match Reach::of(&call) {
        Reach::Everything => {
            let found = teams::list(&mut db, input.page.after(), input.page.fetch()).await?;
            Ok(input.page.cut(&call, found, |team| team.id.as_str()))
        }
        Reach::Team(own) => Ok(teams::get(&mut db, &own).await?.into_iter().collect()),
        Reach::Nothing => Ok(Vec::new()),
    }
}

/// Shows a team.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct GetTeam {
    /// The team's id or name.
    team: String,
}

read_errors! {
    /// Why nothing can be said of a team.
    pub(super) enum ReadTeamError {
        /// There is no such team, or not for this caller.
        NoSuchTeam { team: String } = NOT_FOUND,
            "there is no team {team:?}; teams/list shows those there are";
    }
}

async fn get(fleet: &Fleet, call: Call, input: GetTeam) -> Result<Team, ReadTeamError> {
    let mut db = fleet.store.read().await?;
    let found = visible(&mut db, &call, &input.team).await?;
    found.ok_or(ReadTeamError::NoSuchTeam { team: input.team })
}

write_errors! {
    /// Why a team was not changed.
    enum ChangeTeamError {
        /// There is no such team, or not for this caller.
        NoSuchTeam { team: String } = NOT_FOUND,
            "there is no team {team:?}; teams/list shows those there are";
        /// Only the platform has teams.
        NotThePlatform = FORBIDDEN, "only the platform may change or delete teams";
        /// Another has this name.
        NameTaken { name: String } = CONFLICT,
            "there is a team called {name:?} already; choose another name";
        /// It still has something.
        NotEmpty { host_ids: Vec<String>, vm_ids: Vec<String> } = TEAM_NOT_EMPTY,
            "the team still has hosts ({host_ids:?}) or VMs ({vm_ids:?}); delete them first";
    }
}

/// Renames a team, or says whether it may bring hosts of its own; those that it has stay. Needs a key
/// or an admin of the platform.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct UpdateTeam {
    /// The team's id or name.
    team: String,
    /// What it is to be called; absent: as before.
    #[serde(default)]
    #[schemars(length(min = 1, max = 64))]
    name: Option<String>,
    /// Whether it may bring hosts of its own; absent: as before.
    #[serde(default)]
    is_byoc: Option<bool>,
}

async fn update(fleet: &Fleet, call: Call, input: UpdateTeam) -> Result<Team, ChangeTeamError> {
    let mut tx = fleet.store.begin().await?;
    let found = visible(&mut tx, &call, &input.team).await?;
    let mut team = found.ok_or(ChangeTeamError::NoSuchTeam { team: input.team })?;
    if !Reach::of(&call).is_platform() {
        return Err(ChangeTeamError::NotThePlatform);
    }
    let before = team.clone();
    team.name = input.name.unwrap_or(team.name);
    team.is_byoc = input.is_byoc.unwrap_or(team.is_byoc);
    if team == before {
        return Ok(team);
    }
    match teams::update(&mut tx, &team).await {
        Err(StoreError::Duplicate) => return Err(ChangeTeamError::NameTaken { name: team.name }),
        updated => updated?,
    }
    let actor = Actor::of(&call, clock::now());
    audit::record(&mut tx, &actor, "team.update", &team.id).await?;
    store::commit(tx).await?;
    fleet.known_users.forget();
    Ok(team)
}

/// Deletes a team that has no hosts and no VMs. Its API keys are deleted with it, and its members are
/// in it no more. Needs a key or an admin of the platform.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct DeleteTeam {
    /// The team's id or name.
    team: String,
}

async fn delete(fleet: &Fleet, call: Call, input: DeleteTeam) -> Result<(), ChangeTeamError> {
    let actor = Actor::of(&call, clock::now());
    let mut tx = fleet.store.begin().await?;
    let found = visible(&mut tx, &call, &input.team).await?;
    let team = found.ok_or(ChangeTeamError::NoSuchTeam { team: input.team })?;
    if !Reach::of(&call).is_platform() {
        return Err(ChangeTeamError::NotThePlatform);
    }
    let (host_ids, vm_ids) = teams::belongings(&mut tx, &team.id).await?;
    if !(host_ids.is_empty() && vm_ids.is_empty()) {
        return Err(ChangeTeamError::NotEmpty { host_ids, vm_ids });
    }
    for key in keys::delete_of_team(&mut tx, &team.id).await? {
        audit::record(&mut tx, &actor, "api-key.delete", &key).await?;
    }
    teams::delete(&mut tx, &team.id).await?;
    let object = format!("{} {}", team.id, team.name);
    audit::record(&mut tx, &actor, "team.delete", object).await?;
    store::commit(tx).await?;
    fleet.known_keys.forget();
    fleet.known_users.forget();
    Ok(())
}
