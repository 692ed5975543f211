//! The embedded certificate authority of one trust domain.

use std::fs::File;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use hostler_identity::{
    JwtBundles, KeyAndCsr, Source, SpiffeId, Svid, TrustBundles, TrustDomain, wait_until,
};
use jiff::{SignedDuration, Timestamp};
use rcgen::ExtendedKeyUsagePurpose;
use tokio::sync::watch;
use tracing::{info, warn};

use crate::csr;
use crate::error::{OpenError, SignError};
use crate::files;
use crate::keys::{Bundles, Keys};
use crate::mint::{self, IssuedJwtSvid};
use crate::renewer;
use crate::shared::{SharedState, SharedStateError};
use crate::signer::{self, Leaf};
use crate::store::{SaveError, Store};
use crate::succession::Dated;

/// After keys could not be changed, or had no need to although it seemed so.
const TEND_AGAIN: Duration = Duration::from_secs(5);
/// How often replicas that start together may be in each other's way.
const OVERTAKEN_AT_MOST: u32 = 5;

/// How long keys, certificates and tokens live.
#[derive(Debug, Clone, Copy)]
pub struct Lifetimes {
    /// A root, and a key that signs JWT-SVIDs (default 30 days).
    pub root: SignedDuration,
    /// An X.509-SVID (default 1 hour).
    pub svid: SignedDuration,
    /// A JWT-SVID, unless its caller says otherwise (default 5 minutes).
    pub jwt_svid: SignedDuration,
    /// How far `notBefore` lies in the past, for peers whose clocks are behind (default 30 s).
    pub backdate: SignedDuration,
}

impl Default for Lifetimes {
    fn default() -> Self {
        Self {
            root: SignedDuration::from_hours(30 * 24),
            svid: SignedDuration::from_hours(1),
            jwt_svid: SignedDuration::from_mins(5),
            backdate: SignedDuration::from_secs(30),
        }
    }
}

/// The authority of one trust domain. Cheap to clone; clones are the same authority.
#[derive(Clone)]
pub struct Authority(Arc<Inner>);

struct Inner {
    trust_domain: TrustDomain,
    lifetimes: Lifetimes,
    store: Store,
    keys: Mutex<Keys>,
    bundles: watch::Sender<Bundles>,
    /// Held so that no second process signs from the same directory.
    _lock: Option<File>,
    /// When a change of keys last failed to be stored where replicas share them.
    failed_at: Mutex<Option<Instant>>,
}

/// An X.509-SVID that was signed for somebody else's key.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct IssuedSvid {
    /// Who it is for.
    pub id: SpiffeId,
    /// The certificate chain in PEM, leaf first.
    pub chain_pem: String,
    /// The serial number, in hexadecimal.
    pub serial: String,
    /// Valid from.
    pub not_before: Timestamp,
    /// Valid until.
    pub not_after: Timestamp,
}

/// A succession of keys that was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Rotation {
    /// The new keys sign from then on.
    pub signs_at: Timestamp,
    /// The roots before them are trusted until then.
    pub ends_at: Timestamp,
}

impl Authority {
    /// Opens the authority that lives in `dir`, or begins a new one there.
    pub fn open(dir: &Path, trust_domain: TrustDomain) -> Result<Self, OpenError> {
        Self::open_with(dir, trust_domain, Lifetimes::default(), Timestamp::now())
    }

    /// [`open`](Self::open) with other lifetimes, at another time.
    pub fn open_with(
        dir: &Path,
        trust_domain: TrustDomain,
        lifetimes: Lifetimes,
        now: Timestamp,
    ) -> Result<Self, OpenError> {
        files::make_private_dir(dir)?;
        let lock = files::lock(&dir.join("authority.lock"))?;
        let store = Store::new(dir.join("authority.json"), trust_domain.clone());
        Self::open_store(store, Some(lock), trust_domain, lifetimes, now)
    }

    /// Opens the authority whose memory lies where replicas share it, or begins a new one there.
    /// Whichever replica is first, all have the same keys.
    pub fn open_shared(
        state: Arc<dyn SharedState>,
        trust_domain: TrustDomain,
        lifetimes: Lifetimes,
        now: Timestamp,
    ) -> Result<Self, OpenError> {
        let store = Store::shared(state, trust_domain.clone());
        Self::open_store(store, None, trust_domain, lifetimes, now)
    }

    fn open_store(
        store: Store,
        lock: Option<File>,
        trust_domain: TrustDomain,
        lifetimes: Lifetimes,
        now: Timestamp,
    ) -> Result<Self, OpenError> {
        let mut tries = 0;
        let keys = loop {
            match stored_keys(&store, &trust_domain, &lifetimes, now) {
                // What the other has stored is there now.
                Err(OpenError::Overtaken) if tries < OVERTAKEN_AT_MOST => tries += 1,
                opened => break opened?,
            }
        };
        let (bundles, _) = watch::channel(keys.bundles(&trust_domain));
        let keys = Mutex::new(keys);
        Ok(Self(Arc::new(Inner {
            trust_domain,
            lifetimes,
            store,
            keys,
            bundles,
            _lock: lock,
            failed_at: Mutex::new(None),
        })))
    }

    /// Takes over what another replica has made of the keys. May block as a disk does.
    ///
    /// # Errors
    /// The shared place cannot be read; the present keys stay in force.
    pub fn refresh(&self) -> Result<(), OpenError> {
        let mut keys = self.lock();
        self.adopt(&mut keys)
    }

    fn adopt(&self, keys: &mut Keys) -> Result<(), OpenError> {
        let newer = self.0.store.load_newer();
        let newer = newer.map_err(|error| OpenError::from_store(error, &self.0.trust_domain))?;
        if let Some((roots, Some(jwt))) = newer {
            self.publish(keys, Keys { roots, jwt });
        }
        Ok(())
    }

    /// The trust domain that this authority speaks for.
    #[must_use]
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.0.trust_domain
    }

    /// Signs an X.509-SVID for the key of a certificate request (PEM). The ID is the caller's
    /// decision; whatever else the request asks for is ignored.
    pub fn sign_csr(
        &self,
        csr_pem: &str,
        id: &SpiffeId,
        now: Timestamp,
    ) -> Result<IssuedSvid, SignError> {
        self.sign_csr_for(csr_pem, id, self.0.lifetimes.svid, now)
    }

    /// [`sign_csr`](Self::sign_csr) for a shorter life; a longer one is cut to the usual.
    pub fn sign_csr_for(
        &self,
        csr_pem: &str,
        id: &SpiffeId,
        life: SignedDuration,
        now: Timestamp,
    ) -> Result<IssuedSvid, SignError> {
        self.must_be_member(id)?;
        let key = csr::public_key(csr_pem)?;
        let lifetimes = &self.0.lifetimes;
        let signer = self.settled(now)?.roots.active.clone();
        let not_before = now - lifetimes.backdate;
        let not_after = (now + life.min(lifetimes.svid)).min(signer.root().not_after());
        let leaf = Leaf {
            names: vec![signer::uri(id)?],
            common_name: id.path().trim_start_matches('/').to_owned(),
            usages: vec![
                ExtendedKeyUsagePurpose::ServerAuth,
                ExtendedKeyUsagePurpose::ClientAuth,
            ],
            not_before,
            not_after,
        };
        let (certificate, serial) = signer.sign(leaf, &key)?;
        info!(%id, %serial, %not_after, "issued an X.509-SVID");
        let chain_pem = certificate.pem();
        Ok(IssuedSvid {
            id: id.clone(),
            chain_pem,
            serial,
            not_before,
            not_after,
        })
    }

    /// Issues a JWT-SVID for this audience (who will check it; the fewer the better). Without a
    /// `life` of its own it lives for five minutes; an hour is the most.
    pub fn mint_jwt_svid(
        &self,
        id: &SpiffeId,
        audience: &[String],
        life: Option<SignedDuration>,
        now: Timestamp,
    ) -> Result<IssuedJwtSvid, SignError> {
        self.must_be_member(id)?;
        let Lifetimes {
            jwt_svid, backdate, ..
        } = self.0.lifetimes;
        let signer = self.settled(now)?.jwt.active.clone();
        let life = life.unwrap_or(jwt_svid);
        let issued = mint::mint(&signer, id, audience, life, backdate, now)?;
        let (serial, expires_at) = (&issued.serial, issued.expires_at);
        info!(%id, %serial, %expires_at, ?audience, "issued a JWT-SVID");
        Ok(issued)
    }

    /// Gives the present keys up, because they may have become known: new ones are published at
    /// once and sign after `overlap`, which members must have to fetch the new bundle; then
    /// everything that follows [`watch_bundles`](Self::watch_bundles) is made anew, and what was
    /// signed before is trusted for as long as an SVID lives. While that is under way, asking again
    /// changes nothing and answers the same.
    pub fn rotate(&self, overlap: SignedDuration, now: Timestamp) -> Result<Rotation, SignError> {
        let mut keys = self.settled(now)?;
        if keys.roots.sign_early_at.is_none() {
            let Inner {
                trust_domain,
                lifetimes,
                store,
                ..
            } = &*self.0;
            let force = |keys: &Keys| -> Result<Keys, SignError> {
                let mut forced = keys.clone();
                forced.force(now + overlap, trust_domain, lifetimes, now)?;
                store.save(&forced)?;
                Ok(forced)
            };
            match force(&keys) {
                Ok(forced) => self.publish(&mut keys, forced),
                Err(SignError::Overtaken) => {
                    self.adopt(&mut keys).map_err(unreadable)?;
                    // Unless it was asked for on another replica, too, at the same moment.
                    if keys.roots.sign_early_at.is_none() {
                        let forced = force(&keys)?;
                        self.publish(&mut keys, forced);
                    }
                }
                Err(error) => return Err(error),
            }
        }
        let signs_at = keys.roots.sign_early_at.unwrap_or(now);
        let ends_at = keys.roots.drop_retired_at.unwrap_or(signs_at);
        Ok(Rotation { signs_at, ends_at })
    }

    /// Changes the keys when it is time, for as long as this is polled. Without it they change with
    /// the next signature after that; a server runs it, so that bundles are out in time.
    pub async fn tend(&self) {
        let mut bundles = self.watch_bundles();
        loop {
            bundles.mark_unchanged();
            let due = self.lock().due();
            tokio::select! {
                () = wait_until(due) => {}
                // A forced succession has another date. The sender lives in `self`.
                _ = bundles.changed() => continue,
            }
            // What went wrong is in the log.
            drop(self.settled(Timestamp::now()));
            if self.lock().due() <= Timestamp::now() {
                tokio::time::sleep(TEND_AGAIN).await;
            }
        }
    }

    fn must_be_member(&self, id: &SpiffeId) -> Result<(), SignError> {
        let trust_domain = &self.0.trust_domain;
        if id.is_member_of(trust_domain) && !id.path().is_empty() {
            return Ok(());
        }
        Err(SignError::NotAMember {
            id: id.clone(),
            trust_domain: trust_domain.clone(),
        })
    }

    /// An identity for this process itself, with a key of its own. It renews itself at half-life
    /// and follows the authority's bundle, in a background task that ends with the last clone of
    /// the source. Must be called within a tokio runtime.
    pub fn source(&self, id: &SpiffeId) -> Result<Source, SignError> {
        let svid = self.issue_own(id, Timestamp::now())?;
        let bundles = self.0.bundles.subscribe();
        let (source, writer) = Source::memory(svid, bundles.borrow().x509.clone());
        tokio::spawn(renewer::renew(self.clone(), id.clone(), writer, bundles));
        Ok(source)
    }

    /// A fresh key and an SVID for it.
    pub(crate) fn issue_own(&self, id: &SpiffeId, now: Timestamp) -> Result<Svid, SignError> {
        let own = KeyAndCsr::generate(None)?;
        let issued = self.sign_csr(&own.csr_pem, id, now)?;
        Ok(Svid::from_pem(&issued.chain_pem, &own.key_pem)?)
    }

    /// The roots by which members recognise each other's certificates, now.
    #[must_use]
    pub fn bundles(&self) -> TrustBundles {
        self.0.bundles.borrow().x509.clone()
    }

    /// The keys by which members recognise each other's JWT-SVIDs, now.
    #[must_use]
    pub fn jwt_bundles(&self) -> JwtBundles {
        self.0.bundles.borrow().jwt.clone()
    }

    /// Both bundles, and every change of them.
    #[must_use]
    pub fn watch_bundles(&self) -> watch::Receiver<Bundles> {
        self.0.bundles.subscribe()
    }

    /// The roots as PEM `CERTIFICATE` blocks.
    #[must_use]
    pub fn bundle_pem(&self) -> String {
        self.lock().roots.roots().map(|root| root.pem()).collect()
    }

    /// Both bundles as a SPIFFE JWK set (`application/json`), for `GET /bundle`.
    #[must_use]
    pub fn bundle_jwks(&self) -> String {
        // A new key is published half its predecessor's life before it signs; asking ten times
        // in that span leaves room for failed attempts.
        self.lock().document(self.0.lifetimes.root / 30)
    }

    /// The keys as they must be at `now`: when it is time for another one, this makes, stores
    /// and publishes it first. A failure to do so is an error only when a present one can no
    /// longer do its work; until then it is tried again with every signature.
    fn settled(&self, now: Timestamp) -> Result<MutexGuard<'_, Keys>, SignError> {
        let mut keys = self.lock();
        if self.failed_lately() && keys.first_end() > now + self.0.lifetimes.svid {
            return Ok(keys);
        }
        let mut advanced = keys.clone();
        match self.advance(&mut advanced, now) {
            Ok(false) => {}
            Ok(true) => self.publish(&mut keys, advanced),
            // Another replica has done what was due.
            Err(SignError::Overtaken) => self.adopt(&mut keys).map_err(unreadable)?,
            Err(error) if keys.first_end() <= now + self.0.lifetimes.svid => return Err(error),
            Err(error) => warn!(%error, "the authority's keys are due to change"),
        }
        Ok(keys)
    }

    /// Puts stored keys into force.
    fn publish(&self, keys: &mut Keys, new: Keys) {
        let (sequence, bundles) = (new.sequence(), new.bundles(&self.0.trust_domain));
        info!(
            sequence,
            signer = bundles.signer,
            "the authority's keys have changed"
        );
        *keys = new;
        self.0.bundles.send_replace(bundles);
    }

    fn advance(&self, keys: &mut Keys, now: Timestamp) -> Result<bool, SignError> {
        let Inner {
            trust_domain,
            lifetimes,
            store,
            ..
        } = &*self.0;
        let changed = keys.advance(trust_domain, lifetimes, now)?;
        if changed {
            let saved = store.save(keys);
            let failed = matches!(saved, Err(SaveError::Shared(_)));
            *self.failure() = failed.then(Instant::now);
            saved?;
        }
        Ok(changed)
    }

    /// Whether the shared place was out of reach a moment ago: then not every signature waits for
    /// it again.
    fn failed_lately(&self) -> bool {
        self.0.store.is_shared() && self.failure().is_some_and(|at| at.elapsed() < TEND_AGAIN)
    }

    fn failure(&self) -> MutexGuard<'_, Option<Instant>> {
        let failed_at = &self.0.failed_at;
        failed_at.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The keys are replaced whole, so a panic elsewhere cannot have left them half changed.
    fn lock(&self) -> MutexGuard<'_, Keys> {
        self.0.keys.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The keys as they are stored, moved on to `now`, or new ones.
fn stored_keys(
    store: &Store,
    trust_domain: &TrustDomain,
    lifetimes: &Lifetimes,
    now: Timestamp,
) -> Result<Keys, OpenError> {
    let stored = store
        .load()
        .map_err(|error| OpenError::from_store(error, trust_domain))?;
    let (keys, changed) = match stored {
        Some((roots, Some(jwt))) => {
            let mut keys = Keys { roots, jwt };
            let changed = keys.advance(trust_domain, lifetimes, now)?;
            (keys, changed)
        }
        Some((roots, None)) => {
            let mut keys = Keys::with_first_jwt_key(roots, lifetimes, now)?;
            keys.advance(trust_domain, lifetimes, now)?;
            (keys, true)
        }
        None => (Keys::begin(trust_domain, lifetimes, now)?, true),
    };
    if changed {
        store.save(&keys)?;
        info!(%trust_domain, sequence = keys.sequence(), "the authority's keys are stored");
    }
    Ok(keys)
}

fn unreadable(error: OpenError) -> SignError {
    SignError::Shared(SharedStateError(error.into()))
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authority")
            .field("trust_domain", &self.0.trust_domain.as_str())
            .finish_non_exhaustive()
    }
}
