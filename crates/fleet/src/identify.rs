//! Whose a credential is.
//!
//! There are three: a bearer token (an API key), a host token, and a machine's certificate. The
//! first of them that is presented counts, and if it is not good the request is refused; a bad
//! credential is never passed over for a better one.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use hostler_identity::SpiffeId;
use hostler_operations::{Grants, Identity};
use jiff::Timestamp;
use secrecy::{ExposeSecret, SecretString};

use crate::clock;
use crate::fleet::Fleet;
use crate::ids::HostId;
use crate::model::ApiKeyInfo;
use crate::reach::Principal;
use crate::scopes::{self, HOST_SELF};
use crate::secrets::{self, ApiKey};
use crate::store::{StoreError, keys};

/// How long a key that was found is taken for good without another look.
const REMEMBERED_FOR: Duration = Duration::from_secs(5);
/// How many keys are remembered at most.
const REMEMBERED: usize = 4096;

/// Why a request has no identity though it presented a credential.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IdentifyError {
    /// It is unknown, expired, revoked, or somebody else's. Which of them is not said.
    #[error("the credential is unknown, expired or revoked; present another one")]
    Refused,
    /// The books cannot be read now.
    #[error("credentials cannot be checked now: {0}")]
    Unavailable(#[from] StoreError),
}

impl Fleet {
    /// Whose a request is that presents this bearer token, this `X-Host-Token`, and this peer of a
    /// mutual TLS handshake. `None` when it presents nothing.
    ///
    /// The identity of a host grants only `host:self`, which lets it speak about itself; that the
    /// host still exists is looked up by the operations themselves each time, so that one that was
    /// deleted learns it (404) and is out at once.
    ///
    /// # Errors
    /// [`IdentifyError`]: the credential is not good, or it cannot be checked.
    pub async fn identify(
        &self,
        bearer: Option<&SecretString>,
        host_token: Option<&SecretString>,
        peer: Option<&SpiffeId>,
    ) -> Result<Option<Identity>, IdentifyError> {
        let now = clock::now();
        if let Some(bearer) = bearer {
            return self.key_holder(bearer, now).await.map(Some);
        }
        if let Some(token) = host_token {
            let host = self.host_tokens.verify(token, now).map_err(|reason| {
                tracing::debug!(%reason, "a host token was refused");
                IdentifyError::Refused
            })?;
            // A host that shows two faces must show the same one twice.
            if peer.is_some_and(|peer| self.host_of(peer).is_some_and(|other| other != host)) {
                return Err(IdentifyError::Refused);
            }
            return Ok(Some(host_identity(&host, format!("host-token:{host}"))));
        }
        Ok(peer.map(|peer| match self.host_of(peer) {
            Some(host) => host_identity(&host, peer.to_string()),
            None => Identity::new(peer.to_string(), Grants::from_iter([])),
        }))
    }

    /// The host whose SPIFFE ID this is.
    pub(crate) fn host_of(&self, peer: &SpiffeId) -> Option<HostId> {
        let ours = peer.trust_domain() == self.authority.trust_domain();
        let id = peer.path().strip_prefix("/host/").filter(|_| ours)?;
        HostId::is_one(id).then(|| HostId::named(id))
    }

    async fn key_holder(
        &self,
        bearer: &SecretString,
        now: Timestamp,
    ) -> Result<Identity, IdentifyError> {
        if !ApiKey::may_be_one(bearer) {
            return Err(IdentifyError::Refused);
        }
        let hash = secrets::hash(bearer.expose_secret());
        let key = match self.known_keys.get(&hash) {
            Some(key) => key,
            None => {
                let era = self.known_keys.era();
                let mut db = self.store.read().await?;
                let found = keys::by_hash(&mut db, &hash).await?;
                let key = found.ok_or(IdentifyError::Refused)?;
                self.known_keys.remember(era, hash, key.clone());
                key
            }
        };
        if key.expires_at.is_some_and(|end| end <= now) {
            return Err(IdentifyError::Refused);
        }
        let principal = match key.team_id {
            Some(team) => Principal::Team(team),
            None => Principal::Platform,
        };
        let grants = scopes::grants(&key.scopes);
        Ok(Identity::new(key.id.as_str(), grants).with_principal(principal))
    }
}

fn host_identity(host: &HostId, subject: String) -> Identity {
    Identity::new(subject, Grants::from_iter([HOST_SELF]))
        .with_principal(Principal::Host(host.clone()))
}

/// The keys that were found lately, by their hashes. Only good ones are remembered, so that guesses
/// take no room.
#[derive(Default)]
pub(crate) struct KnownKeys(Mutex<Known>);

#[derive(Default)]
struct Known {
    keys: HashMap<String, (Instant, ApiKeyInfo)>,
    /// How often everything was forgotten.
    era: u64,
}

impl KnownKeys {
    fn known(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn get(&self, hash: &str) -> Option<ApiKeyInfo> {
        let known = self.known();
        let (since, key) = known.keys.get(hash)?;
        (since.elapsed() < REMEMBERED_FOR).then(|| key.clone())
    }

    /// To be asked before a key is looked up, and told when it is remembered.
    fn era(&self) -> u64 {
        self.known().era
    }

    /// Remembers a key that was looked up in this era. What was read before something was
    /// forgotten may be the very thing, and is not remembered.
    fn remember(&self, era: u64, hash: String, key: ApiKeyInfo) {
        let mut known = self.known();
        if known.era != era {
            return;
        }
        if known.keys.len() >= REMEMBERED {
            known
                .keys
                .retain(|_, (since, _)| since.elapsed() < REMEMBERED_FOR);
        }
        if known.keys.len() < REMEMBERED {
            known.keys.insert(hash, (Instant::now(), key));
        }
    }

    /// Forgets everything, because some key is no longer good.
    pub(crate) fn forget(&self) {
        let mut known = self.known();
        known.era += 1;
        known.keys.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::KeyId;

    #[test]
    fn a_key_that_was_looked_up_before_it_was_deleted_is_not_remembered() {
        let known = KnownKeys::default();
        let key = ApiKeyInfo {
            id: KeyId::generate(),
            name: "k".to_owned(),
            scopes: Vec::new(),
            team_id: None,
            created_by: "ada".to_owned(),
            created_at: clock::now(),
            expires_at: None,
        };
        let before = known.era();
        known.forget();
        known.remember(before, "hash".to_owned(), key.clone());
        assert_eq!(known.get("hash"), None);
        known.remember(known.era(), "hash".to_owned(), key.clone());
        assert_eq!(known.get("hash"), Some(key));
        known.forget();
        assert_eq!(known.get("hash"), None);
    }
}
