//! `bundle/get`: the roots by which members of the trust domain recognise each other, for whoever
//! asks. They are public; a SPIFFE federation reads them here.

use hostler_operations::{Call, Method, Service, StatusCode, errors, internal, query, service};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;

use crate::fleet::Fleet;

pub(super) fn operations() -> Service<Fleet> {
    service("bundle").with(
        query("get", get)
            .open()
            .rest(Method::GET, "/bundle", StatusCode::OK),
    )
}

/// Shows the trust domain's bundle, a JWK set (SPIFFE Trust Domain and Bundle, section 4).
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct GetBundle {}

errors! {
    /// Why there is no bundle.
    enum BundleError {}
}

async fn get(fleet: &Fleet, _: Call, _: GetBundle) -> Result<Value, BundleError> {
    Ok(serde_json::from_str(&fleet.authority.bundle_jwks()).map_err(internal)?)
}
