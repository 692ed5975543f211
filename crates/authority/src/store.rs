//! The authority's memory: one file, so that keys, roots and their order change together or not
//! at all.

use std::path::PathBuf;

use hostler_identity::TrustDomain;
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::files::{self, FileError};
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

impl Store {
    pub(crate) fn new(path: PathBuf, trust_domain: TrustDomain) -> Self {
        Self { path, trust_domain }
    }

    /// The stored roots; `None` before the first start.
    pub(crate) fn load(&self) -> Result<Option<Succession<Signer>>, StoreError> {
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
            .into_succession()
            .map(Some)
            .map_err(|error| damaged(error.to_string()))
    }

    pub(crate) fn save(&self, roots: &Succession<Signer>) -> Result<(), FileError> {
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
        };
        let text = serde_json::to_string_pretty(&stored);
        let text = SecretString::from(text.expect("strings and numbers serialize"));
        files::replace(&self.path, text.expose_secret().as_bytes(), 0o600)
    }
}

impl Stored {
    fn into_succession(self) -> Result<Succession<Signer>, LoadError> {
        let load = |stored: StoredSigner| Signer::load(&stored.certificate, &stored.key);
        Ok(Succession {
            active: load(self.active)?,
            next: self.next.map(load).transpose()?,
            retired: self
                .retired
                .iter()
                .map(|pem| RootCertificate::load(pem))
                .collect::<Result<_, _>>()?,
            sequence: self.sequence,
        })
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
