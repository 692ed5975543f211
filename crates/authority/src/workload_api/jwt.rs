//! The JWT-SVID profile.

use std::time::Duration;

use hostler_identity::{JwtSvid, SpiffeId};
use jiff::Timestamp;
use prost_types::value::Kind;
use prost_types::{ListValue, Struct, Value as ProtoValue};
use secrecy::ExposeSecret;
use serde_json::{Map, Value};
use tonic::Status;

use super::entries::Entry;
use super::follow::Profile;
use super::issuer::{Issuer, IssuerError};
use super::proto::{
    JwtBundlesResponse, Jwtsvid, JwtsvidRequest, JwtsvidResponse, ValidateJwtsvidRequest,
    ValidateJwtsvidResponse,
};
use super::service::{Desk, status};
use super::x509::Hints;
use crate::keys::Bundles;

/// How long the issuer may take for a token.
const PATIENCE: Duration = Duration::from_secs(10);

/// `FetchJWTBundles`: whose tokens to believe.
pub(super) struct Keys;

impl<I: Issuer> Profile<I> for Keys {
    type Message = JwtBundlesResponse;

    async fn compose(
        _: &Desk<I>,
        _: &[Entry],
        bundles: &Bundles,
    ) -> Result<(JwtBundlesResponse, Option<Timestamp>), Status> {
        let bundles = bundles.jwt.iter();
        let bundles = bundles
            .map(|(trust_domain, bundle)| (trust_domain.id_string(), bundle.to_jwks().into()))
            .collect();
        Ok((JwtBundlesResponse { bundles }, None))
    }
}

/// `FetchJWTSVID`: a token for each of the caller's identities, or for the one that it names.
pub(super) async fn svids<I: Issuer>(
    desk: &Desk<I>,
    entries: Vec<Entry>,
    request: JwtsvidRequest,
) -> Result<JwtsvidResponse, Status> {
    if request.audience.is_empty() || request.audience.iter().any(String::is_empty) {
        return Err(Status::invalid_argument(
            "a JWT-SVID needs at least one audience, and none may be empty",
        ));
    }
    let wanted = match request.spiffe_id.as_str() {
        "" => None,
        named => Some(SpiffeId::new(named).map_err(|error| {
            Status::invalid_argument(format!("{named:?} is no SPIFFE ID: {error}"))
        })?),
    };
    let asked_for = |entry: &&Entry| wanted.as_ref().is_none_or(|id| id == entry.id());
    let (mut svids, mut hints) = (Vec::new(), Hints::default());
    for entry in entries.iter().filter(asked_for) {
        let Some(hint) = hints.of(entry) else {
            continue;
        };
        let issuer = desk.identities.issuer();
        let minting = issuer.mint(entry.id().clone(), request.audience.clone());
        let token = tokio::time::timeout(PATIENCE, minting)
            .await
            .unwrap_or_else(|_| {
                let reason = format!("no answer within {} s", PATIENCE.as_secs());
                Err(IssuerError::Unavailable(reason))
            })
            .map_err(status)?;
        svids.push(Jwtsvid {
            spiffe_id: entry.id().to_string(),
            svid: token.expose_secret().to_owned(),
            hint,
        });
    }
    match (svids.is_empty(), wanted) {
        (true, Some(id)) => Err(Status::permission_denied(format!(
            "no registration entry of this process is for {id}"
        ))),
        _ => Ok(JwtsvidResponse { svids }),
    }
}

/// `ValidateJWTSVID`: who presents this token to this audience.
pub(super) fn validate(
    request: &ValidateJwtsvidRequest,
    bundles: &Bundles,
) -> Result<ValidateJwtsvidResponse, Status> {
    if request.audience.is_empty() {
        return Err(Status::invalid_argument(
            "say for which audience to validate",
        ));
    }
    let svid = JwtSvid::validate(
        &request.svid,
        &request.audience,
        &bundles.jwt,
        Timestamp::now(),
    )
    .map_err(|rule| Status::invalid_argument(format!("the JWT-SVID is refused: {rule}")))?;
    Ok(ValidateJwtsvidResponse {
        spiffe_id: svid.id().to_string(),
        claims: Some(object(svid.claims())),
    })
}

fn object(claims: &Map<String, Value>) -> Struct {
    let fields = claims.iter();
    let fields = fields.map(|(name, value)| (name.clone(), proto(value)));
    Struct {
        fields: fields.collect(),
    }
}

/// JSON in protobuf. The depth is limited by the JSON reader that has read the claims.
fn proto(value: &Value) -> ProtoValue {
    let kind = match value {
        Value::Null => Kind::NullValue(0),
        Value::Bool(bool) => Kind::BoolValue(*bool),
        // Numbers are doubles there (google/protobuf/struct.proto).
        Value::Number(number) => Kind::NumberValue(number.as_f64().unwrap_or(f64::NAN)),
        Value::String(string) => Kind::StringValue(string.clone()),
        Value::Array(values) => Kind::ListValue(ListValue {
            values: values.iter().map(proto).collect(),
        }),
        Value::Object(members) => Kind::StructValue(object(members)),
    };
    ProtoValue { kind: Some(kind) }
}
