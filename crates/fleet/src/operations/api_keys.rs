//! `api-keys/*`: who may come in, and what they may do. Nobody gives what they do not have.

use hostler_operations::{
    Call, FORBIDDEN, INVALID_INPUT, Method, NOT_FOUND, Service, StatusCode, mutation, query,
    service,
};
use jiff::SignedDuration;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::errors::{ReadError, write_errors};
use super::page::Page;
use super::users::{is_admin, nobody_is_admin};
use crate::clock;
use crate::codes::CONFLICT;
use crate::fleet::Fleet;
use crate::ids::{KeyId, TeamId};
use crate::model::ApiKeyInfo;
use crate::reach::{Reach, calling_user};
use crate::scopes::{KEYS_WRITE, KeyScope, lacking};
use crate::secrets::ApiKey;
use crate::store::audit::{self, Actor};
use crate::store::{self, keys, teams};

const DEFAULT_LIFE_SECS: u32 = 90 * 24 * 3600;

pub(super) fn operations() -> Service<Fleet> {
    service("api-keys")
        .with(mutation("create", create).requires(KEYS_WRITE).rest(
            Method::POST,
            "/v1/api-keys",
            StatusCode::CREATED,
        ))
        .with(query("list", list).requires(KEYS_WRITE).rest(
            Method::GET,
            "/v1/api-keys",
            StatusCode::OK,
        ))
        .with(mutation("delete", delete).requires(KEYS_WRITE).rest(
            Method::DELETE,
            "/v1/api-keys/{id}",
            StatusCode::NO_CONTENT,
        ))
}

/// Creates an API key. Its secret is in the answer and can never be seen again. A key that a user
/// makes is theirs: it may never do more than they may, and ends with them.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct CreateApiKey {
    /// What it is for, in your words.
    #[schemars(length(min = 1, max = 128))]
    name: String,
    /// What it may do; no more than the key that creates it.
    #[schemars(length(min = 1, max = 32))]
    scopes: Vec<KeyScope>,
    /// The team to whose things it is confined; absent: that of the key that creates it.
    #[serde(default)]
    team_id: Option<TeamId>,
    /// Whether the key is to be the platform's, and outlive the user who makes it. Only admins of the
    /// platform may say so; keys that are made with a key of the platform are the platform's.
    #[serde(default)]
    of_platform: bool,
    /// For how long it is good, in seconds; absent: 90 days.
    #[serde(default)]
    #[schemars(range(min = 60, max = 315_360_000))]
    expires_in_secs: Option<u32>,
}

/// A new API key.
#[derive(Debug, Serialize, JsonSchema)]
struct CreatedApiKey {
    /// What is kept of it.
    api_key: ApiKeyInfo,
    /// The key itself, for `Authorization: Bearer`. It is shown only here.
    secret: ApiKey,
}

write_errors! {
    /// Why no API key was created.
    enum CreateApiKeyError {
        /// The caller has not got what the key is to have.
        Escalation { scope: KeyScope } = FORBIDDEN,
            "your own key does not grant {scope}, so it cannot give it away; leave it out";
        /// Only the platform administrates everything.
        AdminOfTeam = INVALID_INPUT,
            "admin is for keys of the platform; leave team_id out, or name the scopes one by one";
        /// There is no such team, or not for this caller.
        NoSuchTeam { team_id: TeamId } = NOT_FOUND, "there is no team {team_id}";
        /// Only the platform has keys that outlive their makers.
        NotThePlatform = FORBIDDEN,
            "only an admin of the platform may make a key that is the platform's; leave \
             of_platform out";
        /// Whoever calls may own no key.
        NoOwner = FORBIDDEN, "these credentials cannot create an API key; log in for a team, or \
             use an API key";
    }
}

async fn create(
    fleet: &Fleet,
    call: Call,
    input: CreateApiKey,
) -> Result<CreatedApiKey, CreateApiKeyError> {
    if let Some(scope) = lacking(call.identity(), &input.scopes) {
        return Err(CreateApiKeyError::Escalation { scope });
    }
    let Ok(team_id) = Reach::of(&call).team(input.team_id.clone()) else {
        return Err(match input.team_id {
            Some(team_id) => CreateApiKeyError::NoSuchTeam { team_id },
            None => CreateApiKeyError::NoOwner,
        });
    };
    if team_id.is_some() && input.scopes.contains(&KeyScope::Admin) {
        return Err(CreateApiKeyError::AdminOfTeam);
    }
    if input.of_platform && !(Reach::of(&call).is_platform() && is_admin(&call)) {
        return Err(CreateApiKeyError::NotThePlatform);
    }
    let user_id = calling_user(&call).filter(|_| !input.of_platform).cloned();
    let mut tx = fleet.store.begin().await?;
    if let Some(team_id) = &team_id
        && teams::get(&mut tx, team_id).await?.is_none()
    {
        return Err(CreateApiKeyError::NoSuchTeam {
            team_id: team_id.clone(),
        });
    }
    let now = clock::now();
    let actor = Actor::of(&call, now);
    let life = SignedDuration::from_secs(input.expires_in_secs.unwrap_or(DEFAULT_LIFE_SECS).into());
    let mut scopes = input.scopes;
    scopes.sort_unstable();
    scopes.dedup();
    let secret = ApiKey::generate();
    let api_key = ApiKeyInfo {
        id: KeyId::generate(),
        name: input.name,
        scopes,
        team_id,
        user_id,
        created_by: actor.subject.clone(),
        created_at: now,
        expires_at: Some(now + life),
        last_used_at: None,
    };
    keys::insert(&mut tx, &api_key, &secret.hash()).await?;
    audit::record(&mut tx, &actor, "api-key.create", &api_key.id).await?;
    store::commit(tx).await?;
    Ok(CreatedApiKey { api_key, secret })
}

/// Lists API keys, in the order of their creation, without their secrets.
#[derive(Debug, Deserialize, JsonSchema)]
struct ListApiKeys {
    /// Only those of this team.
    #[serde(default)]
    team_id: Option<TeamId>,
    #[serde(flatten)]
    page: Page,
}

async fn list(fleet: &Fleet, call: Call, input: ListApiKeys) -> Result<Vec<ApiKeyInfo>, ReadError> {
    let Ok(team) = Reach::of(&call).team(input.team_id) else {
        return Ok(Vec::new());
    };
    let mut db = fleet.store.read().await?;
    let (after, limit) = (input.page.after(), input.page.fetch());
    let found = keys::list(&mut db, team.as_ref(), after, limit).await?;
    Ok(input.page.cut(&call, found, |key| key.id.as_str()))
}

/// Deletes an API key. It is refused from then on; on other replicas within 5 s.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct DeleteApiKey {
    /// The key's id (not the key).
    id: KeyId,
}

write_errors! {
    /// Why no API key was deleted.
    enum DeleteApiKeyError {
        /// There is no such key, or not for this caller.
        NoSuchKey { id: KeyId } = NOT_FOUND,
            "there is no API key {id}; api-keys/list shows those there are";
        /// Nobody could do everything any more, nor make a key that can.
        LastAdminKey { id: KeyId } = CONFLICT,
            "{id} is the last key with the scope admin, and no user is an admin; create another \
             one first, or a user who is";
    }
}

async fn delete(fleet: &Fleet, call: Call, input: DeleteApiKey) -> Result<(), DeleteApiKeyError> {
    let no_such_key = || DeleteApiKeyError::NoSuchKey {
        id: input.id.clone(),
    };
    let team = Reach::of(&call).team(None).map_err(|_| no_such_key())?;
    let mut tx = fleet.store.begin().await?;
    if !keys::delete(&mut tx, &input.id, team.as_ref()).await? {
        return Err(no_such_key());
    }
    let now = clock::now();
    if nobody_is_admin(&mut tx).await? {
        return Err(DeleteApiKeyError::LastAdminKey { id: input.id });
    }
    audit::record(&mut tx, &Actor::of(&call, now), "api-key.delete", &input.id).await?;
    store::commit(tx).await?;
    fleet.known_keys.forget();
    Ok(())
}
