//! `svids/rotate`: an administrator gives the authority's keys up.

use hostler_operations::{Call, FORBIDDEN, Method, Service, StatusCode, internal, mutation};
use jiff::{SignedDuration, Timestamp};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::errors::write_errors;
use crate::clock;
use crate::fleet::Fleet;
use crate::reach::Reach;
use crate::scopes::AUTHORITY_WRITE;
use crate::store;
use crate::store::audit::{self, Actor};

/// How long a new key is out before it signs, unless it is said otherwise: hosts follow the bundle
/// and have it within a second.
const OVERLAP_SECS: u32 = 30;

pub(super) fn operations(svids: Service<Fleet>) -> Service<Fleet> {
    svids.with(mutation("rotate", rotate).requires(AUTHORITY_WRITE).rest(
        Method::POST,
        "/v1/svids/rotate",
        StatusCode::OK,
    ))
}

/// Gives the authority's keys up, because they may have become known: new ones are published at
/// once, sign after the overlap, and then every host and process gets a new identity. Roots before
/// them are trusted until the last SVID that they signed has expired. Asked again before the new
/// keys sign, it changes nothing.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct RotateKeys {
    /// For how long the new keys are published before they sign, in seconds; absent: 30. Hosts that
    /// are connected have them at once; federated trust domains may take as long as the bundle's
    /// refresh hint.
    #[serde(default)]
    #[schemars(range(min = 5, max = 604_800))]
    overlap_secs: Option<u32>,
}

/// When what happens.
#[derive(Debug, Serialize, JsonSchema)]
struct Rotation {
    /// From then on the new keys sign, and everybody gets a new identity.
    signs_at: Timestamp,
    /// Until then the roots before them are trusted.
    ends_at: Timestamp,
}

write_errors! {
    /// Why the keys were not given up.
    enum RotateError {
        /// Only the platform has an authority.
        NotThePlatform = FORBIDDEN, "only a key of the platform may rotate the authority's keys";
    }
}

async fn rotate(fleet: &Fleet, call: Call, input: RotateKeys) -> Result<Rotation, RotateError> {
    if !Reach::of(&call).is_platform() {
        return Err(RotateError::NotThePlatform);
    }
    let now = clock::now();
    let overlap = SignedDuration::from_secs(input.overlap_secs.unwrap_or(OVERLAP_SECS).into());
    // First the line: a rotation that is not in the trail is worse than a line without one.
    let mut tx = fleet.store.begin().await?;
    let actor = Actor::of(&call, now);
    audit::record(
        &mut tx,
        &actor,
        "svid.rotate",
        fleet.authority.trust_domain(),
    )
    .await?;
    store::commit(tx).await?;
    let rotation = fleet.authority.rotate(overlap, now).map_err(internal)?;
    tracing::warn!(signs_at = %rotation.signs_at, ends_at = %rotation.ends_at,
        "the authority's keys are given up");
    Ok(Rotation {
        signs_at: rotation.signs_at,
        ends_at: rotation.ends_at,
    })
}
