//! Passwords as hashes: argon2id (RFC 9106) with the parameters that OWASP names, 19 MiB and two
//! passes. That is slow on purpose, so it runs on threads of its own, few at a time, and whoever
//! would have to wait too long is told to come again.
//!
//! An unknown user costs the same work as a known one: there is a hash that no password fits.

use std::sync::Arc;

use argon2::password_hash::phc::PasswordHash;
use argon2::password_hash::{PasswordHasher, PasswordVerifier};
use argon2::{Algorithm, Argon2, Params, Version};
use secrecy::{ExposeSecret, SecretString};
use tokio::sync::Semaphore;

use crate::secrets::Password;

/// OWASP Password Storage Cheat Sheet: m = 19 MiB, t = 2, p = 1.
const MEMORY_KIB: u32 = 19 * 1024;
const PASSES: u32 = 2;
const LANES: u32 = 1;
/// How many are computed at the same time: 38 MiB at most.
const AT_ONCE: usize = 2;
/// How many may be under way or wait: at 30 ms each, the last one waits for half a second.
const MOST: usize = 32;
/// The hash of something that nobody chose, with a text for its 32 bytes that is no hash of anything.
const FITS_NOBODY: &str = "$argon2id$v=19$m=19456,t=2,p=1$aG9zdGxlci1mbGVldC11cw\
                           $AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8";

/// Where passwords are hashed and compared.
pub(crate) struct Passwords {
    places: Arc<Semaphore>,
    turns: Arc<Semaphore>,
}

/// Why a password was neither hashed nor compared.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unhashed {
    /// Too many others are at it.
    #[error("too many logins at once")]
    Busy,
    /// That is a bug, or a hash in the books is none.
    #[error("cannot hash a password: {0}")]
    Failed(String),
}

/// What a comparison found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It is not the password.
    Wrong,
    /// It is.
    Right,
    /// It is, and its hash is weaker than one that would be made now.
    RightButWeak,
}

impl Passwords {
    pub(crate) fn new() -> Self {
        Self {
            places: Arc::new(Semaphore::new(MOST)),
            turns: Arc::new(Semaphore::new(AT_ONCE)),
        }
    }

    /// The hash of a password, as the books keep it.
    pub(crate) async fn hash(&self, password: Password) -> Result<SecretString, Unhashed> {
        self.in_turn(move || hash(&password)).await
    }

    /// Compares a password with a hash; with none, it takes as long and is wrong.
    pub(crate) async fn verify(
        &self,
        password: Password,
        hash: Option<SecretString>,
    ) -> Result<Verdict, Unhashed> {
        self.in_turn(move || match hash {
            Some(hash) => verify(&password, hash.expose_secret()),
            None => verify(&password, FITS_NOBODY).map(|_| Verdict::Wrong),
        })
        .await
    }

    /// Runs it on a thread that may block. Work that has begun keeps its turn when its caller goes
    /// away: otherwise callers that hang up could make us work without limit.
    async fn in_turn<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, Unhashed> + Send + 'static,
    ) -> Result<T, Unhashed> {
        let place = Arc::clone(&self.places).try_acquire_owned();
        let place = place.map_err(|_| Unhashed::Busy)?;
        let turn = Arc::clone(&self.turns).acquire_owned().await;
        let turn = turn.map_err(|_| Unhashed::Busy)?;
        let done = tokio::task::spawn_blocking(move || {
            let done = work();
            drop((turn, place));
            done
        });
        done.await
            .unwrap_or_else(|error| Err(Unhashed::Failed(error.to_string())))
    }
}

fn failed(reason: &dyn ToString) -> Unhashed {
    Unhashed::Failed(reason.to_string())
}

fn hash(password: &Password) -> Result<SecretString, Unhashed> {
    let params = Params::new(MEMORY_KIB, PASSES, LANES, None).map_err(|e| failed(&e))?;
    let hasher = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
    let salt: [u8; 16] = rand::random();
    let hash: PasswordHash = hasher
        .hash_password_with_salt(password.bytes(), &salt)
        .map_err(|e| failed(&e))?;
    Ok(hash.to_string().into())
}

fn verify(password: &Password, hash: &str) -> Result<Verdict, Unhashed> {
    let hash = PasswordHash::new(hash).map_err(|e| failed(&e))?;
    // Its own parameters count, whatever they were when it was made.
    match Argon2::default().verify_password(password.bytes(), &hash) {
        Ok(()) if is_weak(&hash) => Ok(Verdict::RightButWeak),
        Ok(()) => Ok(Verdict::Right),
        Err(argon2::password_hash::Error::PasswordInvalid) => Ok(Verdict::Wrong),
        Err(error) => Err(failed(&error)),
    }
}

fn is_weak(hash: &PasswordHash) -> bool {
    let argon2id = hash.algorithm == Algorithm::Argon2id.ident();
    let strong = Params::try_from(hash)
        .is_ok_and(|params| params.m_cost() >= MEMORY_KIB && params.t_cost() >= PASSES);
    !(argon2id && strong)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn password(text: &str) -> Password {
        serde_json::from_value(text.into()).expect("a text")
    }

    #[tokio::test]
    async fn a_password_fits_its_own_hash_and_no_other() {
        let passwords = Passwords::new();
        let hash = passwords
            .hash(password("correct horse"))
            .await
            .expect("hashed");
        let text = hash.expose_secret().to_owned();
        assert!(
            text.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"),
            "{text}"
        );
        let again = passwords
            .hash(password("correct horse"))
            .await
            .expect("hashed");
        assert_ne!(text, again.expose_secret(), "each has a salt of its own");
        for (typed, verdict) in [
            ("correct horse", Verdict::Right),
            ("correct hors", Verdict::Wrong),
        ] {
            let found = passwords.verify(password(typed), Some(hash.clone())).await;
            assert_eq!(found.expect("compared"), verdict, "{typed}");
        }
    }

    #[tokio::test]
    async fn a_hash_with_less_work_in_it_is_told_to_be_weak() {
        let weak = Argon2::new(
            Algorithm::Argon2id,
            Version::V0x13,
            Params::new(8 * 1024, 1, 1, None).expect("parameters"),
        );
        let hash = weak.hash_password_with_salt(b"correct horse", b"0123456789abcdef");
        let hash = hash.expect("hashed").to_string().into();
        let found = Passwords::new()
            .verify(password("correct horse"), Some(hash))
            .await;
        assert_eq!(found.expect("compared"), Verdict::RightButWeak);
    }

    #[tokio::test]
    async fn nobody_has_no_password_and_it_is_as_much_work_to_find_out() {
        let passwords = Passwords::new();
        let hash = passwords
            .hash(password("correct horse"))
            .await
            .expect("hashed");
        // Algorithm, version, memory, passes and lanes; then salt and result, of which as much is
        // made. A clock would say it worse, on a machine that does something else too.
        let work = |hash: &str| {
            let parts: Vec<String> = hash.split('$').map(str::to_owned).collect();
            let [_, algorithm, version, parameters, salt, result] = &parts[..] else {
                panic!("{hash}");
            };
            let kind = [algorithm, version, parameters].map(String::clone);
            (kind, salt.len(), result.len())
        };
        assert_eq!(work(FITS_NOBODY), work(hash.expose_secret()));
        let found = passwords.verify(password("wrong horse"), None).await;
        assert_eq!(found.expect("compared"), Verdict::Wrong);
    }

    #[tokio::test]
    async fn who_would_have_to_wait_too_long_is_told_so_at_once() {
        let passwords = Passwords::new();
        let all = (0..MOST + 1).map(|_| passwords.verify(password("x"), None));
        let all = futures::future::join_all(all).await;
        let busy = all
            .iter()
            .filter(|found| matches!(found, Err(Unhashed::Busy)));
        assert_eq!(busy.count(), 1);
        let after = passwords.verify(password("x"), None).await;
        assert_eq!(after.expect("there is room again"), Verdict::Wrong);
    }
}
