//! JWT-SVIDs: an identity as a bearer token, for where no mutual TLS reaches.
//!
//! [`JwtSvid::validate`] is the only way to one: a token is either checked by every rule of the
//! [JWT-SVID standard](https://github.com/spiffe/spiffe/blob/main/standards/JWT-SVID.md), or it
//! is text. A token is checked by the keys of exactly the trust domain that its subject names,
//! [`JwtBundles`], which are never pooled and never the keys of X.509.
//!
//! Everything here is a core without a clock, sockets or files. The record
//! `docs/decisions/024-own-jwt-svid-verification.md` says why it is ours.

mod algorithm;
mod bundle;
mod key;
mod token;

use jiff::{SignedDuration, Timestamp};
use serde_json::{Map, Value};
use spiffe::{SpiffeId, TrustDomain};

use crate::id::IdError;

pub use bundle::{JwtBundle, JwtBundles};
pub(crate) use key::Jwk;
pub use key::{JwtKey, JwtKeyError};
use token::Token;

/// How far in the future a token's `nbf` may lie, for issuers whose clocks are ahead. There is no
/// such grace for `exp`: a token that is used early hurts nobody, one that is used late is what
/// its expiry is there for.
const EARLY: SignedDuration = SignedDuration::from_secs(30);

/// A JWT-SVID whose signature, times and audience have been checked.
///
/// It says who *made* the token's bearer able to present it, not who holds the connection: a
/// token can be stolen, so it belongs into TLS and lives for minutes.
#[derive(Debug, Clone, PartialEq)]
pub struct JwtSvid {
    id: SpiffeId,
    audience: Vec<String>,
    expires_at: Timestamp,
    claims: Map<String, Value>,
}

/// A rule of the JWT-SVID standard that a token breaks. None of these texts contains the token.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum JwtSvidRule {
    /// No JWT-SVID is this long.
    #[error("it is longer than {limit} bytes")]
    TooLong {
        /// The limit in bytes.
        limit: usize,
    },
    /// §3: the JWS compact serialization, three parts of base64url without padding (RFC 7515 §7.1).
    #[error("it is not a JWS in compact form (header.payload.signature in base64url)")]
    NotCompact,
    /// §2: the header is a JSON object of `alg`, `kid` and `typ` as strings, and nothing else.
    #[error("its header is malformed, or has a parameter other than alg, kid and typ")]
    Header,
    /// §2.1: RS, ES or PS with 256, 384 or 512.
    #[error("its algorithm {0:?} is not allowed; RS, ES and PS with 256, 384 or 512 are")]
    Algorithm(String),
    /// §2.2: the key is found by `kid`.
    #[error("its header names no key (kid)")]
    NoKeyId,
    /// §2.3: `typ`, if present, is `JWT` or `JOSE`.
    #[error("its type {0:?} is neither JWT nor JOSE")]
    Type(String),
    /// The payload is a JSON object whose registered claims have their types (RFC 7519 §4.1).
    #[error("its claims are malformed")]
    Claims,
    /// §3.1: `sub` is present.
    #[error("it has no subject (sub), so it carries no SPIFFE ID")]
    NoSubject,
    /// §3.1: `sub` is a SPIFFE ID.
    #[error("its subject is not a SPIFFE ID: {0}")]
    InvalidSubject(IdError),
    /// §3.2: `aud` is present, and names somebody.
    #[error("it has no audience (aud)")]
    NoAudience,
    /// §3.3: `exp` is present.
    #[error("it has no expiry (exp)")]
    NoExpiry,
    /// §4: there is a bundle for the subject's trust domain.
    #[error("there is no JWT bundle for {0}, so its members cannot be recognised")]
    NoBundle(TrustDomain),
    /// §4: the key is in the bundle of the subject's trust domain.
    #[error("the JWT bundle of {trust_domain} has no key {kid:?}; is the bundle up to date?")]
    UnknownKey {
        /// The subject's trust domain.
        trust_domain: TrustDomain,
        /// The key that the token names.
        kid: String,
    },
    /// The algorithm in the header is not one for the key (RFC 8725 §3.1).
    #[error("its algorithm {0} does not fit its key")]
    AlgorithmOfAnotherKey(&'static str),
    /// §4: the key's owner has signed it.
    #[error("its signature is wrong")]
    Signature,
    /// §3.3: it is used before its expiry.
    #[error("it expired at {0}; the caller must fetch a new one")]
    Expired(Timestamp),
    /// `nbf`, if present, is past (RFC 7519 §4.1.5).
    #[error("it is not valid before {0}; check the clocks")]
    NotYetValid(Timestamp),
    /// §3.2: the validator is in the audience.
    #[error("its audience is not {expected:?}")]
    OtherAudience {
        /// Who we are.
        expected: String,
    },
}

impl JwtSvid {
    /// Checks a token that was presented to `audience` (who *we* are) at `now`.
    ///
    /// The signature is checked before times and audience, so a reason that speaks of those is
    /// about a token that its trust domain has really issued.
    pub fn validate(
        token: &str,
        audience: &str,
        bundles: &JwtBundles,
        now: Timestamp,
    ) -> Result<Self, JwtSvidRule> {
        let token = Token::parse(token)?;
        let trust_domain = token.claims.sub.trust_domain();
        let bundle = bundles
            .get(trust_domain)
            .ok_or_else(|| JwtSvidRule::NoBundle(trust_domain.clone()))?;
        let key = bundle
            .get(&token.kid)
            .ok_or_else(|| JwtSvidRule::UnknownKey {
                trust_domain: trust_domain.clone(),
                kid: token.kid.clone(),
            })?;
        key.verify(token.algorithm, token.signed.as_bytes(), &token.signature)?;
        let claims = token.claims;
        if claims.exp <= now {
            return Err(JwtSvidRule::Expired(claims.exp));
        }
        if let Some(nbf) = claims.nbf.filter(|nbf| *nbf > now + EARLY) {
            return Err(JwtSvidRule::NotYetValid(nbf));
        }
        if !claims.aud.iter().any(|named| named == audience) {
            return Err(JwtSvidRule::OtherAudience {
                expected: audience.to_owned(),
            });
        }
        Ok(Self {
            id: claims.sub,
            audience: claims.aud,
            expires_at: claims.exp,
            claims: claims.all,
        })
    }

    /// Whose token this says it is, unchecked: to find the bundle by which
    /// [`validate`](Self::validate) will check it, and for nothing else.
    pub fn claimed_id(token: &str) -> Result<SpiffeId, JwtSvidRule> {
        Ok(Token::parse(token)?.claims.sub)
    }

    /// Who presents it.
    #[must_use]
    pub fn id(&self) -> &SpiffeId {
        &self.id
    }

    /// Everybody whom it is for; we are among them.
    #[must_use]
    pub fn audience(&self) -> &[String] {
        &self.audience
    }

    /// Until when it is valid.
    #[must_use]
    pub fn expires_at(&self) -> Timestamp {
        self.expires_at
    }

    /// All claims, the registered ones included, as they stand in the token.
    #[must_use]
    pub fn claims(&self) -> &Map<String, Value> {
        &self.claims
    }
}
