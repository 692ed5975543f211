//! Whose a credential is.
//!
//! There are three: a bearer token (an API key, or what a login gave a user), a host token, and a
//! machine's certificate. The first of them that is presented counts, and if it is not good the request is refused; a bad
//! credential is never passed over for a better one.

mod known;
mod users;

use hostler_identity::SpiffeId;
use hostler_operations::{Grants, Identity};
use jiff::Timestamp;
use secrecy::{ExposeSecret, SecretString};

use crate::clock;
use crate::fleet::Fleet;
use crate::ids::HostId;
use crate::reach::Principal;
use crate::scopes::{self, HOST_SELF};
use crate::secrets::{self, ApiKey};
use crate::store::{StoreError, keys};

pub(crate) use known::Known;
pub(crate) use users::Standing;

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
            return match ApiKey::may_be_one(bearer) {
                true => self.key_holder(bearer, now).await.map(Some),
                false => self.token_holder(bearer, now).await.map(Some),
            };
        }
        if let Some(token) = host_token {
            let host = self.tokens.verify_host(token, now).map_err(|reason| {
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
        let hash = secrets::hash(bearer.expose_secret());
        let key = match self.known_keys.get(&hash) {
            Some(key) => key,
            None => {
                let era = self.known_keys.era();
                let mut db = self.store.read().await?;
                let found = keys::by_hash(&mut db, &hash).await?;
                drop(db);
                let mut key = found.ok_or(IdentifyError::Refused)?;
                self.key_is_used(&mut key, now).await;
                self.known_keys.remember(era, hash, key.clone());
                key
            }
        };
        if key.expires_at.is_some_and(|end| end <= now) {
            return Err(IdentifyError::Refused);
        }
        if let Some(user) = &key.user_id {
            return self.user_key(&key, user).await;
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
