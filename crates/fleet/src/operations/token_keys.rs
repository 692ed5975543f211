//! `token-keys/*`: which keys sign host tokens and user tokens, and giving them up.

use hostler_operations::{
    Call, FORBIDDEN, Method, Service, StatusCode, internal, mutation, query, service,
};
use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::errors::{read_errors, write_errors};
use crate::clock;
use crate::fleet::Fleet;
use crate::key_rotation::TokenKeyError;
use crate::reach::Reach;
use crate::scopes::AUTHORITY_WRITE;
use crate::secrets::{Reign, SigningKey, reigns};
use crate::store::audit::Actor;
use crate::store::signing;

pub(super) fn operations() -> Service<Fleet> {
    service("token-keys")
        .with(query("list", list).requires(AUTHORITY_WRITE).rest(
            Method::GET,
            "/v1/token-keys",
            StatusCode::OK,
        ))
        .with(mutation("rotate", rotate).requires(AUTHORITY_WRITE).rest(
            Method::POST,
            "/v1/token-keys/rotate",
            StatusCode::OK,
        ))
}

/// A key that signs tokens, or did. It is told by its public name only.
#[derive(Debug, Serialize, JsonSchema)]
struct TokenKey {
    /// Its name, which tokens have in their header (`kid`).
    kid: String,
    /// From when it signs.
    signs_from: Timestamp,
    /// When another key takes over; absent while none does.
    #[serde(skip_serializing_if = "Option::is_none")]
    signs_until: Option<Timestamp>,
    /// Until when what it has signed may be accepted; absent while it may still sign.
    #[serde(skip_serializing_if = "Option::is_none")]
    verifies_until: Option<Timestamp>,
}

fn told(keys: Vec<SigningKey>) -> Vec<TokenKey> {
    let made: Vec<Timestamp> = keys.iter().map(|key| key.created_at).collect();
    let tell = |(key, reign): (SigningKey, Reign)| TokenKey {
        kid: key.kid,
        signs_from: reign.signs_from,
        signs_until: reign.signs_until,
        verifies_until: reign.verifies_until,
    };
    keys.into_iter().zip(reigns(&made)).map(tell).collect()
}

/// Lists the keys that sign host tokens and user tokens, newest first.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct ListTokenKeys {}

read_errors! {
    /// Why no key is shown.
    enum ListTokenKeysError {
        /// Only the platform signs tokens.
        NotThePlatform = FORBIDDEN, "only a key of the platform may see which keys sign tokens";
    }
}

async fn list(
    fleet: &Fleet,
    call: Call,
    _: ListTokenKeys,
) -> Result<Vec<TokenKey>, ListTokenKeysError> {
    if !Reach::of(&call).is_platform() {
        return Err(ListTokenKeysError::NotThePlatform);
    }
    let mut db = fleet.store.read().await?;
    Ok(told(signing::all(&mut db).await?))
}

/// Lets another key sign host tokens and user tokens. It is published at once and signs ten seconds
/// later, when all servers have it; tokens of the keys before it stay good for as long as they say.
/// By itself that happens every 90 days.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct RotateTokenKeys {
    /// Give the present keys up, because they may have become known: all tokens end at once. Users
    /// log in again; hosts go on, by their certificates, and get new tokens with their next ones.
    /// A host that is away for longer than its certificate lives has to be registered anew.
    #[serde(default)]
    give_up: bool,
}

write_errors! {
    /// Why no other key signs.
    enum RotateTokenKeysError {
        /// Only the platform signs tokens.
        NotThePlatform = FORBIDDEN, "only a key of the platform may rotate the keys that sign tokens";
    }
}

async fn rotate(
    fleet: &Fleet,
    call: Call,
    input: RotateTokenKeys,
) -> Result<Vec<TokenKey>, RotateTokenKeysError> {
    if !Reach::of(&call).is_platform() {
        return Err(RotateTokenKeysError::NotThePlatform);
    }
    let actor = Actor::of(&call, clock::now());
    let rotated = fleet.rotate_token_keys(&actor, input.give_up).await;
    Ok(told(rotated.map_err(|error| match error {
        TokenKeyError::Store(error) => error.into(),
        TokenKeyError::Unusable(error) => RotateTokenKeysError::Internal(internal(error)),
    })?))
}
