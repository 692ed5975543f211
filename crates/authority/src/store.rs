//! The authority's memory: one text, in a file or in a place that processes share, so that keys,
//! roots and their order change together or not at all.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use hostler_identity::TrustDomain;
use jiff::Timestamp;
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::files::{self, FileError};
use crate::jwt_signer::{JwtPublic, JwtSigner};
use crate::keys::Keys;
use crate::shared::{SharedState, SharedStateError};
use crate::signer::{LoadError, RootCertificate, Signer};
use crate::succession::Succession;

/// The only layout so far; another one gets another number.
const LAYOUT: u32 = 1;

/// Where the state of one trust domain's authority is kept.
pub(crate) struct Store {
    place: Place,
    trust_domain: TrustDomain,
}

enum Place {
    File(PathBuf),
    Shared {
        state: Arc<dyn SharedState>,
        /// What this process has read or written last.
        revision: AtomicU64,
    },
}

/// The name of an authority's memory in a shared place.
const SHARED_NAME: &str = "authority";

/// Nothing was stored.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SaveError {
    #[error(transparent)]
    File(#[from] FileError),
    #[error(transparent)]
    Shared(#[from] SharedStateError),
    /// Another process has changed the state since it was loaded.
    #[error("another replica was faster")]
    Overtaken,
}

/// The stored state cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StoreError {
    #[error(transparent)]
    File(#[from] FileError),
    #[error(transparent)]
    Shared(#[from] SharedStateError),
    #[error("{} is damaged: {reason}", path.display())]
    Damaged { path: PathBuf, reason: String },
    #[error("{} belongs to the trust domain {found}", path.display())]
    OtherTrustDomain { path: PathBuf, found: String },
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Stored {
    layout: u32,
    trust_domain: String,
    sequence: u64,
    active: StoredSigner,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    next: Option<StoredSigner>,
    /// Certificates in PEM.
    retired: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    sign_early_at: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    drop_retired_at: Option<Timestamp>,
    /// Not there in the file of an authority that began before it signed JWT-SVIDs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    jwt: Option<StoredJwt>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StoredSigner {
    /// PEM.
    certificate: String,
    /// PEM, PKCS#8.
    #[serde(serialize_with = "expose", deserialize_with = "conceal")]
    key: SecretString,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StoredJwt {
    sequence: u64,
    active: StoredJwtSigner,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    next: Option<StoredJwtSigner>,
    retired: Vec<StoredJwtPublic>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    sign_early_at: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    drop_retired_at: Option<Timestamp>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StoredJwtSigner {
    /// PEM, PKCS#8.
    #[serde(serialize_with = "expose", deserialize_with = "conceal")]
    key: SecretString,
    not_before: Timestamp,
    not_after: Timestamp,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StoredJwtPublic {
    /// PEM, SubjectPublicKeyInfo.
    public_key: String,
    not_before: Timestamp,
    not_after: Timestamp,
}

/// What was stored; JWT keys only if there were any.
pub(crate) type Loaded = (Succession<Signer>, Option<Succession<JwtSigner>>);

impl Store {
    pub(crate) fn new(path: PathBuf, trust_domain: TrustDomain) -> Self {
        let place = Place::File(path);
        Self {
            place,
            trust_domain,
        }
    }

    pub(crate) fn shared(state: Arc<dyn SharedState>, trust_domain: TrustDomain) -> Self {
        let revision = AtomicU64::new(0);
        Self {
            place: Place::Shared { state, revision },
            trust_domain,
        }
    }

    pub(crate) fn is_shared(&self) -> bool {
        matches!(self.place, Place::Shared { .. })
    }

    /// The stored keys; `None` before the first start.
    pub(crate) fn load(&self) -> Result<Option<Loaded>, StoreError> {
        match &self.place {
            Place::File(path) => match files::read_private(path)? {
                Some(bytes) => self.read(&bytes, path).map(Some),
                None => Ok(None),
            },
            Place::Shared { state, revision } => match state.load(SHARED_NAME)? {
                Some(stored) => {
                    let name = Path::new("the authority's state in the database");
                    let loaded = self.read(stored.text.expose_secret().as_bytes(), name)?;
                    revision.store(stored.number, Ordering::Release);
                    Ok(Some(loaded))
                }
                None => Ok(None),
            },
        }
    }

    /// The stored keys, if another process has changed them since they were last read here.
    pub(crate) fn load_newer(&self) -> Result<Option<Loaded>, StoreError> {
        let Place::Shared { revision, .. } = &self.place else {
            return Ok(None);
        };
        let known = revision.load(Ordering::Acquire);
        let loaded = self.load()?;
        Ok(loaded.filter(|_| revision.load(Ordering::Acquire) != known))
    }

    fn read(&self, bytes: &[u8], path: &Path) -> Result<Loaded, StoreError> {
        let damaged = |reason: String| StoreError::Damaged {
            path: path.to_owned(),
            reason,
        };
        let stored: Stored = serde_json::from_slice(bytes).map_err(|e| damaged(e.to_string()))?;
        if stored.layout != LAYOUT {
            return Err(damaged(format!(
                "its layout {} is not known here",
                stored.layout
            )));
        }
        if stored.trust_domain != self.trust_domain.as_str() {
            let (path, found) = (path.to_owned(), stored.trust_domain);
            return Err(StoreError::OtherTrustDomain { path, found });
        }
        stored.load().map_err(|error| damaged(error.to_string()))
    }

    pub(crate) fn save(&self, keys: &Keys) -> Result<(), SaveError> {
        let roots = &keys.roots;
        let stored = Stored {
            layout: LAYOUT,
            trust_domain: self.trust_domain.to_string(),
            sequence: roots.sequence,
            active: StoredSigner::new(&roots.active),
            next: roots.next.as_ref().map(StoredSigner::new),
            retired: roots
                .retired
                .iter()
                .map(|root| root.pem().to_owned())
                .collect(),
            sign_early_at: roots.sign_early_at,
            drop_retired_at: roots.drop_retired_at,
            jwt: Some(StoredJwt::new(&keys.jwt)),
        };
        let text = serde_json::to_string_pretty(&stored);
        let text = SecretString::from(text.expect("strings and numbers serialize"));
        match &self.place {
            Place::File(path) => Ok(files::replace(
                path,
                text.expose_secret().as_bytes(),
                0o600,
            )?),
            Place::Shared { state, revision } => {
                let over = revision.load(Ordering::Acquire);
                if !state.replace(SHARED_NAME, over, &text)? {
                    return Err(SaveError::Overtaken);
                }
                revision.store(over + 1, Ordering::Release);
                Ok(())
            }
        }
    }
}

impl Stored {
    fn load(self) -> Result<Loaded, LoadError> {
        let load = |stored: StoredSigner| Signer::load(&stored.certificate, &stored.key);
        let roots = Succession {
            active: load(self.active)?,
            next: self.next.map(load).transpose()?,
            retired: self
                .retired
                .iter()
                .map(|pem| RootCertificate::load(pem))
                .collect::<Result<_, _>>()?,
            sequence: self.sequence,
            sign_early_at: self.sign_early_at,
            drop_retired_at: self.drop_retired_at,
        };
        Ok((roots, self.jwt.map(StoredJwt::load).transpose()?))
    }
}

impl StoredJwt {
    fn new(keys: &Succession<JwtSigner>) -> Self {
        Self {
            sequence: keys.sequence,
            active: StoredJwtSigner::new(&keys.active),
            next: keys.next.as_ref().map(StoredJwtSigner::new),
            retired: keys.retired.iter().map(StoredJwtPublic::new).collect(),
            sign_early_at: keys.sign_early_at,
            drop_retired_at: keys.drop_retired_at,
        }
    }

    fn load(self) -> Result<Succession<JwtSigner>, LoadError> {
        let load = |stored: StoredJwtSigner| {
            JwtSigner::load(&stored.key, stored.not_before, stored.not_after)
        };
        let retired = self
            .retired
            .into_iter()
            .map(|stored| JwtPublic::load(&stored.public_key, stored.not_before, stored.not_after));
        Ok(Succession {
            active: load(self.active)?,
            next: self.next.map(load).transpose()?,
            retired: retired.collect::<Result<_, _>>()?,
            sequence: self.sequence,
            sign_early_at: self.sign_early_at,
            drop_retired_at: self.drop_retired_at,
        })
    }
}

impl StoredJwtSigner {
    fn new(signer: &JwtSigner) -> Self {
        Self {
            key: signer.key_pem(),
            not_before: signer.public().not_before,
            not_after: signer.public().not_after,
        }
    }
}

impl StoredJwtPublic {
    fn new(public: &JwtPublic) -> Self {
        Self {
            public_key: public.pem.clone(),
            not_before: public.not_before,
            not_after: public.not_after,
        }
    }
}

impl StoredSigner {
    fn new(signer: &Signer) -> Self {
        Self {
            certificate: signer.root().pem().to_owned(),
            key: signer.key_pem(),
        }
    }
}

fn expose<S: Serializer>(key: &SecretString, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(key.expose_secret())
}

fn conceal<'de, D: Deserializer<'de>>(deserializer: D) -> Result<SecretString, D::Error> {
    String::deserialize(deserializer).map(SecretString::from)
}
