//! The identities that are handed out here: one key and one certificate per SPIFFE ID, shared by
//! every process that has it, made when somebody first asks and renewed when somebody still does:
//! at half of its life, and within two seconds when another root signs.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hostler_identity::{KeyAndCsr, SpiffeId, Svid, renewal_due};
use jiff::{SignedDuration, Timestamp};
use rustls_pki_types::PrivatePkcs8KeyDer;
use rustls_pki_types::pem::PemObject;
use secrecy::{ExposeSecret, SecretSlice, SecretString};
use tracing::{info, warn};

use super::issuer::{Issuer, IssuerError};
use crate::random;

/// How long the issuer may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// After a failure; whoever asks before is told of the failure, or given the present identity.
const RETRY: SignedDuration = SignedDuration::from_secs(5);
/// When another root signs, every identity of every host is due. They come within this time
/// instead of all at once, which still is well within the five seconds that are promised.
const SPREAD: SignedDuration = SignedDuration::from_secs(2);
/// However short lives are, nothing is renewed more often.
const AT_MOST_EVERY: SignedDuration = SignedDuration::from_secs(1);

/// What is handed out: an SVID in the form of the wire.
#[derive(Debug)]
pub(super) struct Identity {
    pub(super) svid: Svid,
    /// PKCS#8.
    pub(super) key_der: SecretSlice<u8>,
}

#[derive(Debug)]
pub(super) struct Identities<I> {
    issuer: I,
    slots: Mutex<HashMap<SpiffeId, Arc<Slot>>>,
}

/// One ID's identity. The lock is held while it is made, so that a thousand processes that ask
/// together make one.
type Slot = tokio::sync::Mutex<State>;

#[derive(Debug)]
struct State {
    last: Result<Arc<Identity>, IssuerError>,
    /// When to ask the issuer again; until then, what there is is the answer.
    due: Timestamp,
    /// Which root signed when the issuer was asked last. Under another one it is asked soon.
    signer: String,
}

impl<I: Issuer> Identities<I> {
    pub(super) fn new(issuer: I) -> Self {
        Self {
            issuer,
            slots: Mutex::default(),
        }
    }

    pub(super) fn issuer(&self) -> &I {
        &self.issuer
    }

    /// The identity of this ID, and when to come back for the next one. `signer` is the root that
    /// signs at present.
    pub(super) async fn get(
        &self,
        id: &SpiffeId,
        signer: &str,
    ) -> Result<(Arc<Identity>, Timestamp), IssuerError> {
        let slot = self.slot(id);
        let mut state = slot.lock().await;
        let now = Timestamp::now();
        let lapsed = state.last.is_ok() && !state.is_of_use(now);
        if state.signer != signer {
            signer.clone_into(&mut state.signer);
            state.due_soon(now, random::fraction());
        }
        if now >= state.due || lapsed {
            match self.make(id).await {
                Ok(identity) => state.renewed(identity, id),
                Err(error) => state.not_renewed(error, id),
            }
        }
        match &state.last {
            Ok(identity) => Ok((Arc::clone(identity), state.due)),
            Err(error) => Err(error.clone()),
        }
    }

    fn slot(&self, id: &SpiffeId) -> Arc<Slot> {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(slot) = slots.get(id) {
            return Arc::clone(slot);
        }
        // Whose time is over and who is not being asked for: the entry is gone.
        let now = Timestamp::now();
        slots.retain(|_, slot| slot.try_lock().map_or(true, |state| state.is_of_use(now)));
        let fresh = Arc::new(Slot::new(State {
            last: Err(IssuerError::Unavailable("nobody has asked yet".to_owned())),
            due: Timestamp::MIN,
            signer: String::new(),
        }));
        slots.insert(id.clone(), Arc::clone(&fresh));
        fresh
    }

    async fn make(&self, id: &SpiffeId) -> Result<Identity, IssuerError> {
        let unusable = |error: String| IssuerError::Unavailable(error);
        let own = KeyAndCsr::generate(None).map_err(|error| unusable(error.to_string()))?;
        let signing = self.issuer.sign(id.clone(), own.csr_pem);
        let chain_pem = tokio::time::timeout(PATIENCE, signing)
            .await
            .map_err(|_| unusable(format!("no answer within {} s", PATIENCE.as_secs())))??;
        let svid = Svid::from_pem(&chain_pem, &own.key_pem)
            .map_err(|error| unusable(format!("its answer is no identity: {error}")))?;
        if svid.id() != id {
            return Err(unusable(format!(
                "its answer is the identity of {}",
                svid.id()
            )));
        }
        Ok(Identity {
            svid,
            key_der: key_der(&own.key_pem)?,
        })
    }
}

impl State {
    /// Another root signs: what there is serves for a moment more, `share` of the spread.
    fn due_soon(&mut self, now: Timestamp, share: f64) {
        self.due = match &self.last {
            Ok(_) => self.due.min(now + SPREAD.mul_f64(share)),
            // There is nothing to serve meanwhile.
            Err(_) => now,
        };
    }

    fn renewed(&mut self, identity: Identity, id: &SpiffeId) {
        let (now, end) = (Timestamp::now(), identity.svid.not_after());
        info!(%id, expires_at = %end, "identity for local processes");
        let due = renewal_due(now, end, now, random::jitter());
        self.due = due.max(now + AT_MOST_EVERY);
        self.last = Ok(Arc::new(identity));
    }

    /// An issuer that is away takes nothing back; one that refuses does.
    fn not_renewed(&mut self, error: IssuerError, id: &SpiffeId) {
        let now = Timestamp::now();
        warn!(%id, %error, "no new identity for local processes");
        self.due = now + RETRY;
        if matches!(error, IssuerError::Refused(_)) || !self.is_of_use(now) {
            self.last = Err(error);
        }
    }

    fn is_of_use(&self, now: Timestamp) -> bool {
        matches!(&self.last, Ok(identity) if identity.svid.not_after() > now)
    }
}

fn key_der(pem: &SecretString) -> Result<SecretSlice<u8>, IssuerError> {
    PrivatePkcs8KeyDer::from_pem_slice(pem.expose_secret().as_bytes())
        .map(|key| key.secret_pkcs8_der().to_vec().into())
        .map_err(|error| IssuerError::Unavailable(format!("our own key is unreadable: {error}")))
}

#[cfg(test)]
mod tests {
    use hostler_identity::{TrustDomain, wait_until};

    use super::*;
    use crate::Authority;

    fn authority(dir: &std::path::Path) -> Authority {
        let domain = TrustDomain::new("a.example").expect("a name");
        Authority::open(&dir.join("keys"), domain).expect("an authority")
    }

    #[tokio::test]
    async fn under_another_root_identities_are_renewed_soon_and_not_all_at_once() {
        let dir = tempfile::tempdir().expect("a directory");
        let identities = Identities::new(authority(dir.path()));
        let ids: Vec<SpiffeId> = (0..50)
            .map(|n| format!("spiffe://a.example/{n}").parse().expect("an ID"))
            .collect();
        let mut before = Vec::new();
        for id in &ids {
            before.push(identities.get(id, "one").await.expect("an identity").0);
        }
        let now = Timestamp::now();
        let mut dues = Vec::new();
        for (id, before) in ids.iter().zip(&before) {
            let (kept, due) = identities.get(id, "two").await.expect("an identity");
            // What there is serves on until its turn has come, which may be at once.
            assert!(Arc::ptr_eq(&kept, before) || due > now + SPREAD);
            dues.push(due);
        }
        dues.retain(|due| *due <= Timestamp::now() + SPREAD);
        let (first, last) = (dues.iter().min(), dues.iter().max());
        let apart = last.expect("some").duration_since(*first.expect("some"));
        assert!(dues.len() > 10 && apart > SPREAD / 4, "{apart:#}");
        wait_until(*last.expect("some")).await;
        for (id, before) in ids.iter().zip(&before) {
            let (renewed, _) = identities.get(id, "two").await.expect("an identity");
            assert!(!Arc::ptr_eq(&renewed, before), "{id}");
        }
    }
}
