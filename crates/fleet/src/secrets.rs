//! The secrets that the fleet hands out, as types that cannot be mixed up and do not print.
//!
//! | secret | proves | life | kept as |
//! |---|---|---|---|
//! | [`RegistrationToken`] | that a machine may become one certain host | 1 h, used once | hash |
//! | host token ([`HostTokens`]) | to be that host | 1 year | nothing: it is signed |
//! | [`ApiKey`] | who calls | until its expiry | hash |
//!
//! Tokens and keys are random, 128 bits at least, so a plain SHA-256 of them keeps them secret, and
//! finding them by that hash takes no time that depends on how much of a guess is right.

mod api_key;
mod host_token;
mod registration;

pub use api_key::ApiKey;
pub use host_token::{HOST_TOKEN_LIFE, KeyUnusable};
pub(crate) use host_token::{HostTokens, SigningKey};
pub use registration::RegistrationToken;

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
