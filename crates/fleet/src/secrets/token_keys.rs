//! The keys that sign tokens, and which of them does when.
//!
//! All servers on the same books must know a key before one of them signs with it, or a host that
//! is signed for here would be refused there. So a new key is published first and signs
//! [`KEY_LEAD`] later. One that has been followed verifies for as long as something may live that
//! it has signed.

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use jiff::{SignedDuration, Timestamp};
use jsonwebtoken::{DecodingKey, EncodingKey};
use secrecy::{ExposeSecret, SecretString};

use super::tokens::HOST_TOKEN_LIFE;

/// From when a key is in the books until it signs. Servers look twice a second.
pub(crate) const KEY_LEAD: SignedDuration = SignedDuration::from_secs(10);
/// After how long another key follows.
pub(crate) const KEY_LIFE: SignedDuration = SignedDuration::from_hours(90 * 24);

/// A private key that signs tokens, as it is stored.
#[derive(Debug, Clone)]
pub(crate) struct SigningKey {
    /// Its name in the header of what it signs.
    pub(crate) kid: String,
    /// PKCS#8, base64.
    pub(crate) pkcs8: SecretString,
    /// Since when it is in the books.
    pub(crate) created_at: Timestamp,
}

/// A signing key cannot be made or read.
#[derive(Debug, thiserror::Error)]
#[error("the signing key {kid} cannot be used: {reason}")]
pub struct KeyUnusable {
    kid: String,
    reason: String,
}

impl SigningKey {
    pub(crate) fn generate(now: Timestamp) -> Result<Self, KeyUnusable> {
        let kid = super::random_hex::<8>();
        let made =
            EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &SystemRandom::new());
        match made {
            Ok(document) => Ok(Self {
                kid,
                pkcs8: BASE64.encode(document).into(),
                created_at: now,
            }),
            Err(reason) => Err(KeyUnusable {
                kid,
                reason: reason.to_string(),
            }),
        }
    }

    fn load(&self) -> Result<(EncodingKey, DecodingKey), KeyUnusable> {
        let unusable = |reason: &dyn ToString| KeyUnusable {
            kid: self.kid.clone(),
            reason: reason.to_string(),
        };
        let der = BASE64
            .decode(self.pkcs8.expose_secret())
            .map_err(|error| unusable(&error))?;
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &der)
            .map_err(|error| unusable(&error))?;
        let public = DecodingKey::from_ec_der(pair.public_key().as_ref());
        Ok((EncodingKey::from_ec_der(&der), public))
    }
}

/// From when to when a key signs, and until when what it has signed is accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Reign {
    pub(crate) signs_from: Timestamp,
    /// When its successor takes over; `None` while there is none.
    pub(crate) signs_until: Option<Timestamp>,
    /// From then on nothing can be alive that it signed.
    pub(crate) verifies_until: Option<Timestamp>,
}

/// The reigns of keys that were made then, newest first. The first of all signs at once: nobody
/// else is there.
pub(crate) fn reigns(made: &[Timestamp]) -> Vec<Reign> {
    let signs_from = |at: usize| match at + 1 == made.len() {
        true => made[at],
        false => made[at] + KEY_LEAD,
    };
    let reign = |at: usize| {
        let signs_until = at.checked_sub(1).map(signs_from);
        Reign {
            signs_from: signs_from(at),
            signs_until,
            verifies_until: signs_until.map(|until| until + HOST_TOKEN_LIFE),
        }
    };
    (0..made.len()).map(reign).collect()
}

/// All keys, newest first, ready for use. There is at least one.
pub(super) struct Ring(Vec<Usable>);

struct Usable {
    kid: String,
    signs_from: Timestamp,
    encoding: EncodingKey,
    decoding: DecodingKey,
}

impl Ring {
    /// Of keys that are sorted, newest first.
    pub(super) fn new(keys: &[SigningKey]) -> Result<Self, KeyUnusable> {
        let made: Vec<Timestamp> = keys.iter().map(|key| key.created_at).collect();
        let usable = |(key, reign): (&SigningKey, Reign)| {
            let (encoding, decoding) = key.load()?;
            Ok(Usable {
                kid: key.kid.clone(),
                signs_from: reign.signs_from,
                encoding,
                decoding,
            })
        };
        let all: Result<Vec<_>, _> = keys.iter().zip(reigns(&made)).map(usable).collect();
        match all? {
            none if none.is_empty() => Err(KeyUnusable {
                kid: "of any name".to_owned(),
                reason: "there is none".to_owned(),
            }),
            some => Ok(Self(some)),
        }
    }

    /// The key that signs now, by its name. When none does yet (the clock was set back), the
    /// oldest, which everybody knows.
    pub(super) fn signing(&self, now: Timestamp) -> (&str, &EncodingKey) {
        let reigning = self.0.iter().find(|key| key.signs_from <= now);
        let key = reigning.unwrap_or(&self.0[self.0.len() - 1]);
        (&key.kid, &key.encoding)
    }

    /// The key of this name.
    pub(super) fn verifying(&self, kid: &str) -> Option<&DecodingKey> {
        let key = self.0.iter().find(|key| key.kid == kid)?;
        Some(&key.decoding)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).expect("a time")
    }

    #[test]
    fn a_key_signs_only_once_all_servers_know_it() {
        let keys = [200, 100].map(|made| SigningKey::generate(at(made)).expect("a key"));
        let ring = Ring::new(&keys).expect("usable");
        let [newer, older] = &keys;
        let lead = KEY_LEAD.as_secs();
        for (now, expected) in [
            (0, older),
            (100, older),
            (200, older),
            (200 + lead - 1, older),
            (200 + lead, newer),
            (1_000_000_000, newer),
        ] {
            assert_eq!(ring.signing(at(now)).0, expected.kid, "at {now}");
            assert!(ring.verifying(&older.kid).is_some() && ring.verifying(&newer.kid).is_some());
        }
        assert!(ring.verifying("another").is_none());
    }

    #[test]
    fn a_key_verifies_for_as_long_as_a_token_of_its_last_second_lives() {
        let lead = KEY_LEAD.as_secs();
        let [third, second, first] = reigns(&[at(300), at(200), at(100)])[..] else {
            panic!("three keys");
        };
        assert_eq!(first.signs_from, at(100));
        assert_eq!(first.signs_until, Some(at(200 + lead)));
        let year = HOST_TOKEN_LIFE.as_secs();
        assert_eq!(first.verifies_until, Some(at(200 + lead + year)));
        assert_eq!(second.signs_until, Some(third.signs_from));
        assert_eq!((third.signs_until, third.verifies_until), (None, None));
        assert!(reigns(&[]).is_empty());
    }

    #[test]
    fn no_key_and_no_private_key_are_refused() {
        assert!(Ring::new(&[]).is_err());
        let mut key = SigningKey::generate(at(0)).expect("a key");
        key.pkcs8 = "bm8ga2V5".into();
        let refused = Ring::new(std::slice::from_ref(&key)).err();
        let message = refused.expect("refused").to_string();
        assert!(message.contains(&key.kid), "{message}");
    }
}
