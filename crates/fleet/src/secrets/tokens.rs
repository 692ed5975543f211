//! Tokens that are signed: JWTs (RFC 7519). An enrolled host presents one in `X-Host-Token`, a user
//! who has logged in another one as a bearer.
//!
//! They are signed with ES256 by keys that have names (`kid`, RFC 7515 section 4.1.4), so that a new
//! key can take over while the tokens of an old one live on. The claim `typ` says what a token is for; a token of
//! another kind is refused even when one of our own keys signed it.

use std::sync::{Arc, PoisonError, RwLock};

use jiff::{SignedDuration, Timestamp};
use jsonwebtoken::{Algorithm, Header, Validation};
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};

use super::token_keys::{KeyUnusable, Ring, SigningKey};
use crate::ids::{HostId, TeamId, UserId};

/// How long a host token is good for.
pub const HOST_TOKEN_LIFE: SignedDuration = SignedDuration::from_hours(365 * 24);
/// How long a user's token is good for.
pub const USER_TOKEN_LIFE: SignedDuration = SignedDuration::from_hours(6);
const HOST: &str = "host";
const USER: &str = "user";

/// Signs tokens and checks them. A core: the caller says what time it is.
pub(crate) struct Tokens {
    keys: RwLock<Arc<Ring>>,
}

/// Why something is not a good token of its kind. The caller is told only that it is not.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TokenRefused {
    /// It is no JWT, or its signature is not of the key that it names.
    #[error("it does not verify: {0}")]
    Unverified(#[from] jsonwebtoken::errors::Error),
    /// No key of ours has this name.
    #[error("no key is called {0:?}")]
    UnknownKey(String),
    /// It is a token for something else.
    #[error("its type is {0:?}")]
    OtherType(String),
    /// It says not enough.
    #[error("it lacks {0}")]
    Lacks(&'static str),
    /// Its time is over.
    #[error("it expired at {0}")]
    Expired(Timestamp),
}

#[derive(Serialize, Deserialize)]
struct Claims {
    typ: String,
    sub: String,
    iat: i64,
    exp: i64,
    /// The team for which a user acts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    team: Option<String>,
    /// Which of a user's tokens are good: those with the epoch that the books have.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    epoch: Option<i64>,
}

/// What the token of a user says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct UserToken {
    /// Whose it is.
    pub(crate) user: UserId,
    /// The team for which they act.
    pub(crate) team: Option<TeamId>,
    /// It is good for as long as the books have this epoch for the user.
    pub(crate) epoch: i64,
}

impl Tokens {
    /// With the keys of the books.
    pub(crate) fn new(keys: &[SigningKey]) -> Result<Self, KeyUnusable> {
        let keys = RwLock::new(Arc::new(Ring::new(keys)?));
        Ok(Self { keys })
    }

    /// Takes over the keys as they are in the books now. When one cannot be used, the present ones
    /// stay.
    pub(crate) fn replace(&self, keys: &[SigningKey]) -> Result<(), KeyUnusable> {
        let ring = Arc::new(Ring::new(keys)?);
        *self.keys.write().unwrap_or_else(PoisonError::into_inner) = ring;
        Ok(())
    }

    fn keys(&self) -> Arc<Ring> {
        Arc::clone(&self.keys.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// A token that says, from `now` for [`HOST_TOKEN_LIFE`], that its bearer is this host.
    pub(crate) fn issue_host(
        &self,
        host: &HostId,
        now: Timestamp,
    ) -> Result<SecretString, jsonwebtoken::errors::Error> {
        self.sign(
            now,
            &Claims {
                typ: HOST.to_owned(),
                sub: host.to_string(),
                iat: now.as_second(),
                exp: (now + HOST_TOKEN_LIFE).as_second(),
                team: None,
                epoch: None,
            },
        )
    }

    /// A token by which a user is known, from `now` for [`USER_TOKEN_LIFE`].
    pub(crate) fn issue_user(
        &self,
        token: &UserToken,
        now: Timestamp,
    ) -> Result<SecretString, jsonwebtoken::errors::Error> {
        self.sign(
            now,
            &Claims {
                typ: USER.to_owned(),
                sub: token.user.to_string(),
                iat: now.as_second(),
                exp: (now + USER_TOKEN_LIFE).as_second(),
                team: token.team.as_ref().map(TeamId::to_string),
                epoch: Some(token.epoch),
            },
        )
    }

    fn sign(
        &self,
        now: Timestamp,
        claims: &Claims,
    ) -> Result<SecretString, jsonwebtoken::errors::Error> {
        let keys = self.keys();
        let (kid, key) = keys.signing(now);
        let header = Header {
            kid: Some(kid.to_owned()),
            ..Header::new(Algorithm::ES256)
        };
        jsonwebtoken::encode(&header, claims, key).map(Into::into)
    }

    /// Whose host token it is, if it is a good one at `now`.
    pub(crate) fn verify_host(
        &self,
        token: &SecretString,
        now: Timestamp,
    ) -> Result<HostId, TokenRefused> {
        Ok(HostId::named(self.verify(HOST, token, now)?.sub))
    }

    /// What a user's token says, if it is a good one at `now`. Whether there is still such a user,
    /// and with this epoch, is the caller's to look up.
    pub(crate) fn verify_user(
        &self,
        token: &SecretString,
        now: Timestamp,
    ) -> Result<UserToken, TokenRefused> {
        let claims = self.verify(USER, token, now)?;
        Ok(UserToken {
            user: UserId::named(claims.sub),
            team: claims.team.map(TeamId::named),
            epoch: claims.epoch.ok_or(TokenRefused::Lacks("epoch"))?,
        })
    }

    fn verify(
        &self,
        kind: &str,
        token: &SecretString,
        now: Timestamp,
    ) -> Result<Claims, TokenRefused> {
        let token = token.expose_secret();
        let kid = jsonwebtoken::decode_header(token)?.kid.unwrap_or_default();
        let keys = self.keys();
        let key = keys.verifying(&kid).ok_or(TokenRefused::UnknownKey(kid))?;
        let mut rules = Validation::new(Algorithm::ES256);
        // The library would ask its own clock; ours is `now`, below.
        rules.validate_exp = false;
        rules.set_required_spec_claims(&["exp", "sub"]);
        let claims = jsonwebtoken::decode::<Claims>(token, key, &rules)?.claims;
        if claims.typ != kind {
            return Err(TokenRefused::OtherType(claims.typ));
        }
        if claims.exp <= now.as_second() {
            let expired = Timestamp::from_second(claims.exp).unwrap_or(Timestamp::MIN);
            return Err(TokenRefused::Expired(expired));
        }
        Ok(claims)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).expect("a time")
    }

    fn tokens() -> Tokens {
        Tokens::new(&[SigningKey::generate(at(0)).expect("a key")]).expect("usable")
    }

    #[test]
    fn a_host_token_names_its_host_for_a_year() {
        let (tokens, host) = (tokens(), HostId::generate());
        let token = tokens.issue_host(&host, at(1_000_000)).expect("signed");
        let year = 365 * 24 * 3600;
        assert_eq!(
            tokens
                .verify_host(&token, at(1_000_000 + year - 1))
                .expect("good"),
            host
        );
        let late = tokens.verify_host(&token, at(1_000_000 + year));
        assert!(matches!(late, Err(TokenRefused::Expired(_))), "{late:?}");
    }

    #[test]
    fn a_token_for_something_else_is_refused_though_our_key_signed_it() {
        let tokens = tokens();
        let user = tokens.issue_user(&ada(), at(0)).expect("signed");
        let refused = tokens.verify_host(&user, at(1));
        assert!(
            matches!(refused, Err(TokenRefused::OtherType(_))),
            "{refused:?}"
        );
        let host = tokens
            .issue_host(&HostId::generate(), at(0))
            .expect("signed");
        let refused = tokens.verify_user(&host, at(1));
        assert!(
            matches!(refused, Err(TokenRefused::OtherType(_))),
            "{refused:?}"
        );
    }

    fn ada() -> UserToken {
        UserToken {
            user: UserId::generate(),
            team: Some(TeamId::generate()),
            epoch: 3,
        }
    }

    #[test]
    fn a_users_token_says_who_and_for_whom_for_six_hours() {
        let (tokens, ada) = (tokens(), ada());
        let token = tokens.issue_user(&ada, at(1_000_000)).expect("signed");
        let six_hours = 6 * 3600;
        let good = tokens.verify_user(&token, at(1_000_000 + six_hours - 1));
        assert_eq!(good.expect("good"), ada);
        let late = tokens.verify_user(&token, at(1_000_000 + six_hours));
        assert!(matches!(late, Err(TokenRefused::Expired(_))), "{late:?}");
    }

    #[test]
    fn a_token_of_a_strangers_key_is_refused() {
        let token = tokens()
            .issue_host(&HostId::generate(), at(0))
            .expect("signed");
        let refused = tokens().verify_host(&token, at(1));
        assert!(
            matches!(refused, Err(TokenRefused::UnknownKey(_))),
            "{refused:?}"
        );
    }

    #[test]
    fn a_changed_token_is_refused() {
        let (tokens, host) = (tokens(), HostId::generate());
        let token = tokens.issue_host(&host, at(0)).expect("signed");
        let mut parts: Vec<String> = token
            .expose_secret()
            .split('.')
            .map(str::to_owned)
            .collect();
        let other = tokens
            .issue_host(&HostId::generate(), at(0))
            .expect("signed");
        parts[1] = other
            .expose_secret()
            .split('.')
            .nth(1)
            .expect("claims")
            .to_owned();
        let refused = tokens.verify_host(&parts.join(".").into(), at(1));
        assert!(
            matches!(refused, Err(TokenRefused::Unverified(_))),
            "{refused:?}"
        );
        for garbage in ["", "a.b.c", "....", "hst_00000000000000000000000000000000"] {
            assert!(
                tokens.verify_host(&garbage.into(), at(1)).is_err(),
                "{garbage}"
            );
        }
    }

    #[test]
    fn tokens_outlive_the_rotation_of_their_key_and_end_with_its_removal() {
        let old_key = SigningKey::generate(at(0)).expect("a key");
        let tokens = Tokens::new(std::slice::from_ref(&old_key)).expect("usable");
        let host = HostId::generate();
        let token = tokens.issue_host(&host, at(0)).expect("signed");
        let new_key = SigningKey::generate(at(100)).expect("a key");
        tokens
            .replace(&[new_key.clone(), old_key])
            .expect("both are usable");
        assert_eq!(tokens.verify_host(&token, at(101)).expect("good"), host);
        let fresh = tokens.issue_host(&host, at(200)).expect("signed");
        tokens.replace(&[new_key]).expect("usable");
        assert_eq!(tokens.verify_host(&fresh, at(201)).expect("good"), host);
        let gone = tokens.verify_host(&token, at(201));
        assert!(matches!(gone, Err(TokenRefused::UnknownKey(_))), "{gone:?}");
    }
}
