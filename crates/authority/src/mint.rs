//! What a JWT-SVID says ([JWT-SVID](https://github.com/spiffe/spiffe/blob/main/standards/JWT-SVID.md) §3).

use hostler_identity::SpiffeId;
use jiff::{SignedDuration, Timestamp};
use secrecy::SecretString;
use serde::Serialize;

use crate::error::SignError;
use crate::jwt_signer::JwtSigner;
use crate::random;
use crate::succession::Dated;

/// A bearer token that lives longer is a password.
pub(crate) const LONGEST: SignedDuration = SignedDuration::from_hours(1);

/// A JWT-SVID that was issued.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct IssuedJwtSvid {
    /// Who it is for.
    pub id: SpiffeId,
    /// The token: JWS in compact form. Whoever has it is `id` to its audience.
    pub token: SecretString,
    /// Its `jti`, in hexadecimal.
    pub serial: String,
    /// Valid until.
    pub expires_at: Timestamp,
}

#[derive(Serialize)]
struct Claims<'a> {
    sub: String,
    aud: &'a [String],
    exp: i64,
    /// Back-dated like a certificate's `notBefore`: some verifiers refuse an `iat` of the future.
    iat: i64,
    jti: &'a str,
}

pub(crate) fn mint(
    signer: &JwtSigner,
    id: &SpiffeId,
    audience: &[String],
    life: SignedDuration,
    backdate: SignedDuration,
    now: Timestamp,
) -> Result<IssuedJwtSvid, SignError> {
    if audience.is_empty() || audience.iter().any(String::is_empty) {
        return Err(SignError::NoAudience);
    }
    if life < SignedDuration::from_secs(1) || life > LONGEST {
        return Err(SignError::Life {
            asked: life,
            longest: LONGEST,
        });
    }
    let expires_at = (now + life).min(signer.public().not_after());
    let serial = hex::encode(random::bytes::<16>());
    let token = signer.sign(&Claims {
        sub: id.to_string(),
        aud: audience,
        exp: expires_at.as_second(),
        iat: (now - backdate).as_second(),
        jti: &serial,
    })?;
    Ok(IssuedJwtSvid {
        id: id.clone(),
        token,
        serial,
        expires_at: Timestamp::from_second(expires_at.as_second()).unwrap_or(expires_at),
    })
}
