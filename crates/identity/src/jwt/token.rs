//! A token taken apart: its form, its header and its claims, nothing verified yet.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::{Map, Number, Value};
use spiffe::SpiffeId;

use super::JwtSvidRule;
use super::algorithm::Algorithm;
use crate::id::parse_spiffe_id;

/// Far above any JWT-SVID, and what an HTTP header may hold.
const MAX_BYTES: usize = 16 * 1024;

/// A well-formed token whose signature nobody has looked at.
pub(super) struct Token<'a> {
    pub(super) algorithm: Algorithm,
    pub(super) kid: String,
    pub(super) claims: Claims,
    /// What the signature is over: header and payload as they stand in the token.
    pub(super) signed: &'a str,
    pub(super) signature: Vec<u8>,
}

/// The claims that the standard asks for, and all of them.
pub(super) struct Claims {
    pub(super) sub: SpiffeId,
    pub(super) aud: Vec<String>,
    pub(super) exp: Timestamp,
    pub(super) nbf: Option<Timestamp>,
    pub(super) all: Map<String, Value>,
}

/// Parameters that the standard does not describe must not be there (§2), which takes `crit`,
/// `jku`, `jwk` and `x5c` out of play. A parameter that appears twice is refused too.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    alg: String,
    kid: Option<String>,
    typ: Option<String>,
}

/// The registered claims by their types. One that appears twice is refused: two readers might
/// choose differently (RFC 7519 §4).
#[derive(Deserialize)]
struct Registered {
    sub: Option<String>,
    aud: Option<Audience>,
    exp: Option<Number>,
    nbf: Option<Number>,
}

/// RFC 7519 §4.1.3: one name may stand alone.
#[derive(Deserialize)]
#[serde(untagged)]
enum Audience {
    One(String),
    Several(Vec<String>),
}

impl<'a> Token<'a> {
    pub(super) fn parse(token: &'a str) -> Result<Self, JwtSvidRule> {
        if token.len() > MAX_BYTES {
            return Err(JwtSvidRule::TooLong { limit: MAX_BYTES });
        }
        let decode = |part: &str| {
            URL_SAFE_NO_PAD
                .decode(part)
                .map_err(|_| JwtSvidRule::NotCompact)
        };
        let (signed, signature) = token.rsplit_once('.').ok_or(JwtSvidRule::NotCompact)?;
        // A payload with another dot in it is no base64url.
        let (header, payload) = signed.split_once('.').ok_or(JwtSvidRule::NotCompact)?;
        let (algorithm, kid) = header_of(&decode(header)?)?;
        Ok(Self {
            algorithm,
            kid,
            claims: Claims::of(&decode(payload)?)?,
            signed,
            signature: decode(signature)?,
        })
    }
}

fn header_of(json: &[u8]) -> Result<(Algorithm, String), JwtSvidRule> {
    let header: Header = serde_json::from_slice(json).map_err(|_| JwtSvidRule::Header)?;
    let Some(algorithm) = Algorithm::named(&header.alg) else {
        return Err(JwtSvidRule::Algorithm(header.alg));
    };
    if let Some(typ) = header.typ.filter(|typ| typ != "JWT" && typ != "JOSE") {
        return Err(JwtSvidRule::Type(typ));
    }
    match header.kid {
        Some(kid) if !kid.is_empty() => Ok((algorithm, kid)),
        _ => Err(JwtSvidRule::NoKeyId),
    }
}

impl Claims {
    fn of(json: &[u8]) -> Result<Self, JwtSvidRule> {
        let malformed = |_| JwtSvidRule::Claims;
        let all = serde_json::from_slice(json).map_err(malformed)?;
        let registered: Registered = serde_json::from_slice(json).map_err(malformed)?;
        let sub = registered.sub.ok_or(JwtSvidRule::NoSubject)?;
        let aud = match registered.aud.ok_or(JwtSvidRule::NoAudience)? {
            Audience::One(name) => vec![name],
            Audience::Several(names) => names,
        };
        if aud.is_empty() {
            return Err(JwtSvidRule::NoAudience);
        }
        Ok(Self {
            sub: parse_spiffe_id(&sub).map_err(JwtSvidRule::InvalidSubject)?,
            aud,
            exp: moment(&registered.exp.ok_or(JwtSvidRule::NoExpiry)?)?,
            nbf: registered.nbf.as_ref().map(moment).transpose()?,
            all,
        })
    }
}

/// A `NumericDate` (RFC 7519 §2): seconds since 1970, possibly with a fraction, which is cut off.
fn moment(date: &Number) -> Result<Timestamp, JwtSvidRule> {
    let whole = match (date.as_i64(), date.as_f64()) {
        (Some(whole), _) => whole,
        // Saturates; what is out of range is refused below.
        (None, Some(fraction)) => fraction.floor() as i64,
        (None, None) => return Err(JwtSvidRule::Claims),
    };
    Timestamp::from_second(whole).map_err(|_| JwtSvidRule::Claims)
}
