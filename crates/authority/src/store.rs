//! The authority's memory: one file, so that keys, roots and their order change together or not
//! at all.

use std::path::PathBuf;

use hostler_identity::TrustDomain;
use jiff::Timestamp;
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::files::{self, FileError};
use crate::jwt_signer::{JwtPublic, JwtSigner};
use crate::keys::Keys;
use crate::signer::{LoadError, RootCertificate, Signer};
use crate::succession::Succession;

/// The only layout so far; another one gets another number.
const LAYOUT: u32 = 1;

/// Where the state of one trust domain's authority is kept.
pub(crate) struct Store {
    path: PathBuf,
    trust_domain: TrustDomain,
}

/// The stored state cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StoreError {
    #[error(transparent)]
    File(#[from] FileError),
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
        Self { path, trust_domain }
    }

    /// The stored keys; `None` before the first start.
    pub(crate) fn load(&self) -> Result<Option<Loaded>, StoreError> {
        let Some(bytes) = files::read_private(&self.path)? else {
            return Ok(None);
        };
        let damaged = |reason: String| StoreError::Damaged {
            path: self.path.clone(),
            reason,
        };
        let stored: Stored = serde_json::from_slice(&bytes).map_err(|e| damaged(e.to_string()))?;
        if stored.layout != LAYOUT {
            return Err(damaged(format!(
                "its layout {} is not known here",
                stored.layout
            )));
        }
        if stored.trust_domain != self.trust_domain.as_str() {
            let (path, found) = (self.path.clone(), stored.trust_domain);
            return Err(StoreError::OtherTrustDomain { path, found });
        }
        stored
            .load()
            .map(Some)
            .map_err(|error| damaged(error.to_string()))
    }

    pub(crate) fn save(&self, keys: &Keys) -> Result<(), FileError> {
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
        files::replace(&self.path, text.expose_secret().as_bytes(), 0o600)
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
