//! Registration tokens that somebody has just brought: of those who race with one, one asks the
//! books, and whoever brings a token that was used is refused without asking them.
//!
//! The books decide. A claim lasts for as long as a registration may take; that a token was used is
//! said only once that is in the books.

use std::time::Duration;

use redis::ExistenceCheck::NX;
use redis::{SetExpiry, SetOptions};

use super::RedisLink;
use crate::enrolment::REGISTRATION_TOKEN_LIFE;

/// How long a claim lasts whose holder says nothing more: it has died, or the books are slow.
const CLAIM_LIFE: Duration = Duration::from_secs(2);
/// How often others look what became of it.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// What is known of a token that somebody brings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Claim {
    /// The books must say; others who bring the same wait meanwhile.
    Ask,
    /// It was used up.
    Used,
}

impl RedisLink {
    fn claimed(&self, hash: &str) -> String {
        self.key(&format!("token:{hash}:claimed"))
    }

    fn used(&self, hash: &str) -> String {
        self.key(&format!("token:{hash}:used"))
    }

    /// Claims the token of this hash; where another has claimed it, waits until that one is done or
    /// has died.
    pub(crate) async fn claim_token(&self, hash: &str) -> Claim {
        let life = SetExpiry::PX(CLAIM_LIFE.as_millis() as u64);
        let once = SetOptions::default()
            .conditional_set(NX)
            .with_expiration(life);
        let mut claim = redis::pipe();
        claim
            .exists(self.used(hash))
            .set_options(self.claimed(hash), &self.replica, once);
        loop {
            let answer: Option<(bool, Option<String>)> = self.ask(&claim).await;
            match answer {
                Some((true, _)) => return Claim::Used,
                Some((false, None)) => tokio::time::sleep(LOOK_EVERY).await,
                Some((false, Some(_))) | None => return Claim::Ask,
            }
        }
    }

    /// Says that a token was used up, which is in the books.
    pub(crate) async fn token_is_used(&self, hash: &str) {
        let mut said = redis::pipe();
        let life = REGISTRATION_TOKEN_LIFE.as_secs().unsigned_abs();
        said.set_ex(self.used(hash), &self.replica, life).ignore();
        let _: Option<()> = self.ask(&said).await;
    }

    /// Lets others try: the registration came to nothing.
    pub(crate) async fn give_token_up(&self, hash: &str) {
        let mut given = redis::pipe();
        given.del(self.claimed(hash)).ignore();
        let _: Option<()> = self.ask(&given).await;
    }
}
