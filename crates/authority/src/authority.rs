//! The embedded certificate authority of one trust domain.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hostler_identity::{
    EnrollError, KeyAndCsr, Source, SpiffeId, Svid, SvidError, TrustBundles, TrustDomain,
};
use jiff::{SignedDuration, Timestamp};
use rcgen::ExtendedKeyUsagePurpose;
use rustls_pki_types::CertificateDer;
use tokio::sync::watch;
use tracing::{info, warn};

use crate::csr::{self, CsrRefused};
use crate::files::{self, FileError};
use crate::jwks;
use crate::renewer;
use crate::signer::{self, Leaf, Signer};
use crate::store::{Store, StoreError};
use crate::succession::{Dated, Succession};

/// How long certificates live.
#[derive(Debug, Clone, Copy)]
pub struct Lifetimes {
    /// A root (default 30 days).
    pub root: SignedDuration,
    /// An X.509-SVID (default 1 hour).
    pub svid: SignedDuration,
    /// How far `notBefore` lies in the past, for peers whose clocks are behind (default 30 s).
    pub backdate: SignedDuration,
}

impl Default for Lifetimes {
    fn default() -> Self {
        Self {
            root: SignedDuration::from_hours(30 * 24),
            svid: SignedDuration::from_hours(1),
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
    roots: Mutex<Succession<Signer>>,
    bundles: watch::Sender<TrustBundles>,
    /// Held so that no second process signs from the same directory.
    _lock: File,
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

/// Why an authority could not be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// A file or the directory could not be used.
    #[error(transparent)]
    File(#[from] FileError),
    /// The state file is not what was written.
    #[error(
        "{} is damaged: {reason}; put back a backup, or remove the file to begin a new authority, \
         which every host must then enrol with again", path.display()
    )]
    Damaged {
        /// The state file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The directory holds the authority of another trust domain.
    #[error(
        "{} belongs to the trust domain {found}, not {wanted}; start with that trust domain, or \
         with another data directory", path.display()
    )]
    OtherTrustDomain {
        /// The state file.
        path: PathBuf,
        /// The trust domain in it.
        found: String,
        /// The trust domain that was asked for.
        wanted: TrustDomain,
    },
    /// A key or certificate could not be made.
    #[error("cannot make a root certificate: {0}")]
    Make(#[from] rcgen::Error),
}

/// Why nothing was signed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SignError {
    /// The ID is not one that this authority speaks for.
    #[error("{id} is not a member of {trust_domain} (spiffe://{trust_domain}/...)")]
    NotAMember {
        /// The ID that was asked for.
        id: SpiffeId,
        /// The authority's trust domain.
        trust_domain: TrustDomain,
    },
    /// The request was refused. The sender of the request is at fault.
    #[error("the certificate request was refused: {0}")]
    Csr(#[from] CsrRefused),
    /// The roots had to change, and that could not be stored.
    #[error("the authority's roots are due to change, which failed: {0}")]
    Store(#[from] FileError),
    /// Making the certificate failed.
    #[error("cannot make a certificate: {0}")]
    Make(#[from] rcgen::Error),
    /// Making a key for this process failed.
    #[error(transparent)]
    Key(#[from] EnrollError),
    /// The new certificate and its key do not make an SVID.
    #[error("cannot make an identity: {0}")]
    Svid(#[from] SvidError),
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
        let make = || Signer::spiffe(&trust_domain, now - lifetimes.backdate, lifetimes.root);
        let roots = match store
            .load()
            .map_err(|error| explain(error, &trust_domain))?
        {
            Some(mut roots) => {
                if roots.advance(now, make)? {
                    store.save(&roots)?;
                }
                roots
            }
            None => {
                let roots = Succession::begin(make()?);
                store.save(&roots)?;
                info!(%trust_domain, "new certificate authority");
                roots
            }
        };
        let (bundles, _) = watch::channel(bundles_of(&trust_domain, &roots));
        let roots = Mutex::new(roots);
        Ok(Self(Arc::new(Inner {
            trust_domain,
            lifetimes,
            store,
            roots,
            bundles,
            _lock: lock,
        })))
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
        let Inner {
            trust_domain,
            lifetimes,
            ..
        } = &*self.0;
        if !id.is_member_of(trust_domain) || id.path().is_empty() {
            let (id, trust_domain) = (id.clone(), trust_domain.clone());
            return Err(SignError::NotAMember { id, trust_domain });
        }
        let key = csr::public_key(csr_pem)?;
        let signer = self.settled(now)?.active.clone();
        let not_before = now - lifetimes.backdate;
        let not_after = (now + lifetimes.svid).min(signer.root().not_after());
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

    /// An identity for this process itself, with a key of its own. It renews itself at half-life
    /// and follows the authority's bundle, in a background task that ends with the last clone of
    /// the source. Must be called within a tokio runtime.
    pub fn source(&self, id: &SpiffeId) -> Result<Source, SignError> {
        let svid = self.issue_own(id, Timestamp::now())?;
        let bundles = self.0.bundles.subscribe();
        let (source, writer) = Source::memory(svid, bundles.borrow().clone());
        tokio::spawn(renewer::renew(self.clone(), id.clone(), writer, bundles));
        Ok(source)
    }

    /// A fresh key and an SVID for it.
    pub(crate) fn issue_own(&self, id: &SpiffeId, now: Timestamp) -> Result<Svid, SignError> {
        let own = KeyAndCsr::generate(None)?;
        let issued = self.sign_csr(&own.csr_pem, id, now)?;
        Ok(Svid::from_pem(&issued.chain_pem, &own.key_pem)?)
    }

    /// The bundle by which members recognise each other, now.
    #[must_use]
    pub fn bundles(&self) -> TrustBundles {
        self.0.bundles.borrow().clone()
    }

    /// The bundle, and every change of it.
    #[must_use]
    pub fn watch_bundles(&self) -> watch::Receiver<TrustBundles> {
        self.0.bundles.subscribe()
    }

    /// The bundle as PEM `CERTIFICATE` blocks.
    #[must_use]
    pub fn bundle_pem(&self) -> String {
        self.lock().roots().map(|root| root.pem()).collect()
    }

    /// The bundle as a SPIFFE JWK set (`application/json`), for `GET /bundle`.
    #[must_use]
    pub fn bundle_jwks(&self) -> String {
        let roots = self.lock();
        let certificates = roots.roots().map(|root| root.der());
        // A new root is published half its predecessor's life before it signs; asking ten times
        // in that span leaves room for failed attempts.
        jwks::bundle(certificates, roots.sequence, self.0.lifetimes.root / 30)
    }

    /// The roots as they must be at `now`: when it is time for another one, this makes, stores
    /// and publishes it first. A failure to do so is an error only when the present root can no
    /// longer do its work; until then it is tried again with every signature.
    fn settled(&self, now: Timestamp) -> Result<MutexGuard<'_, Succession<Signer>>, SignError> {
        let mut roots = self.lock();
        let mut advanced = roots.clone();
        match self.advance(&mut advanced, now) {
            Ok(false) => {}
            Ok(true) => {
                info!(
                    sequence = advanced.sequence,
                    "the authority's roots have changed"
                );
                self.0
                    .bundles
                    .send_replace(bundles_of(&self.0.trust_domain, &advanced));
                *roots = advanced;
            }
            Err(error) if roots.active.root().not_after() <= now + self.0.lifetimes.svid => {
                return Err(error);
            }
            Err(error) => warn!(%error, "the authority's roots are due to change"),
        }
        Ok(roots)
    }

    fn advance(&self, roots: &mut Succession<Signer>, now: Timestamp) -> Result<bool, SignError> {
        let Inner {
            trust_domain,
            lifetimes,
            store,
            ..
        } = &*self.0;
        let make = || Signer::spiffe(trust_domain, now - lifetimes.backdate, lifetimes.root);
        let changed = roots.advance(now, make)?;
        if changed {
            store.save(roots)?;
        }
        Ok(changed)
    }

    /// The roots are replaced whole, so a panic elsewhere cannot have left them half changed.
    fn lock(&self) -> MutexGuard<'_, Succession<Signer>> {
        self.0.roots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authority")
            .field("trust_domain", &self.0.trust_domain.as_str())
            .finish_non_exhaustive()
    }
}

fn bundles_of(trust_domain: &TrustDomain, roots: &Succession<Signer>) -> TrustBundles {
    let certificates: Vec<CertificateDer<'static>> =
        roots.roots().map(|root| root.der().clone()).collect();
    let mut bundles = TrustBundles::new();
    bundles
        .insert(trust_domain.clone(), certificates)
        .expect("our own roots are certificate authorities");
    bundles
}

fn explain(error: StoreError, wanted: &TrustDomain) -> OpenError {
    match error {
        StoreError::File(error) => OpenError::File(error),
        StoreError::Damaged { path, reason } => OpenError::Damaged { path, reason },
        StoreError::OtherTrustDomain { path, found } => OpenError::OtherTrustDomain {
            path,
            found,
            wanted: wanted.clone(),
        },
    }
}
