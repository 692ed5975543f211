//! `teams/*`: who shares VMs, hosts and keys. Managed by the platform.

use hostler_operations::{Call, FORBIDDEN, Method, Service, StatusCode, mutation, query, service};
use schemars::JsonSchema;
use serde::Deserialize;

use super::errors::{ReadError, write_errors};
use super::page::Page;
use crate::clock;
use crate::codes::CONFLICT;
use crate::fleet::Fleet;
use crate::ids::TeamId;
use crate::model::Team;
use crate::reach::Reach;
use crate::scopes::KEYS_WRITE;
use crate::store::audit::{self, Actor};
use crate::store::{self, StoreError, teams};

pub(super) fn operations() -> Service<Fleet> {
    service("teams")
        .with(mutation("create", create).requires(KEYS_WRITE).rest(
            Method::POST,
            "/v1/teams",
            StatusCode::CREATED,
        ))
        .with(query("list", list).requires(KEYS_WRITE).rest(
            Method::GET,
            "/v1/teams",
            StatusCode::OK,
        ))
}

/// Creates a team. Needs a key of the platform.
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
        NotThePlatform = FORBIDDEN, "only a key of the platform may create teams";
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

/// Lists teams, in the order of their creation. A team's key sees its own.
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
