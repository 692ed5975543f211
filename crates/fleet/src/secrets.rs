//! The secrets that the fleet hands out, as types that cannot be mixed up and do not print.
//!
//! | secret | proves | life | kept as |
//! |---|---|---|---|
//! | [`RegistrationToken`] | that a machine may become one certain host | 1 h, used once | hash |
//! | host token ([`Tokens`]) | to be that host | 1 year | nothing: it is signed |
//! | user token ([`Tokens`]) | to be that user | 6 h | nothing: it is signed |
//! | [`Password`] | to be that user, at a login | until it is changed | argon2id |
//! | [`ApiKey`] | who calls | until its expiry | hash |
//!
//! Tokens and keys are random, 128 bits at least, so a plain SHA-256 of them keeps them secret, and
//! finding them by that hash takes no time that depends on how much of a guess is right. Passwords
//! are chosen by people; for them see [`passwords`](crate::passwords).

mod api_key;
mod password;
mod registration;
mod token_keys;
mod tokens;

pub use api_key::ApiKey;
pub(crate) use password::{NewPassword, Password};
pub use registration::RegistrationToken;
pub use token_keys::KeyUnusable;
pub(crate) use token_keys::{KEY_LEAD, KEY_LIFE, Reign, SigningKey, reigns};
pub use tokens::{HOST_TOKEN_LIFE, USER_TOKEN_LIFE};
pub(crate) use tokens::{Tokens, UserToken};

use secrecy::{ExposeSecret, SecretString};
use serde::Serializer;
use sha2::{Digest, Sha256};

/// How a secret is kept and found: the lower-case hex of its SHA-256.
pub(crate) fn hash(secret: &str) -> String {
    hex::encode(Sha256::digest(secret.as_bytes()))
}

/// Writes a secret into the one answer that shows it.
pub(crate) fn reveal<S: Serializer>(
    secret: &SecretString,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(secret.expose_secret())
}

/// Fresh random bytes from the operating system's generator, in lower-case hex.
pub(crate) fn random_hex<const BYTES: usize>() -> String {
    hex::encode(rand::random::<[u8; BYTES]>())
}
