//! The private authority of the people's door: an ordinary web CA.
//!
//! People trust `ca.pem` once; it lives for ten years and its key never leaves `ca.key`. The
//! server's own certificate lives for ninety days in memory only: it is made at start, and made
//! anew in the first handshake after two thirds of its life.

use std::fs::File;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use hostler_identity::crypto_provider;
use jiff::{SignedDuration, Timestamp};
use rcgen::{ExtendedKeyUsagePurpose, KeyPair, PKCS_ECDSA_P256_SHA256, SanType};
use rustls::ServerConfig;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use tracing::{info, warn};

use crate::files::{self, FileError};
use crate::shared::{SharedState, SharedStateError};
use crate::signer::{Leaf, Signer};
use crate::succession::Dated;

const ROOT_LIFE: SignedDuration = SignedDuration::from_hours(24 * 365 * 10);
const LEAF_LIFE: SignedDuration = SignedDuration::from_hours(24 * 90);
/// For clients whose clocks are behind.
const BACKDATE: SignedDuration = SignedDuration::from_hours(1);

/// A private web CA and the server certificate that it keeps fresh. Cheap to clone.
#[derive(Debug, Clone)]
pub struct WebAuthority {
    resolver: Arc<SelfRenewing>,
    ca_path: PathBuf,
}

/// Why the people's door has no certificate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WebAuthorityError {
    /// A file or the directory could not be used.
    #[error(transparent)]
    File(#[from] FileError),
    /// The certificate is there, its key is not.
    #[error(
        "{} exists but its key {} does not; put the key back, or remove the certificate to make a \
         new one, which clients must then trust anew", ca.display(), key.display()
    )]
    KeyMissing {
        /// The CA's certificate.
        ca: PathBuf,
        /// Where its key should be.
        key: PathBuf,
    },
    /// A file is not what was written.
    #[error(
        "{} and its key cannot be used: {reason}; put back a backup, or remove both to make new \
         ones, which clients must then trust anew", ca.display()
    )]
    Damaged {
        /// The CA's certificate.
        ca: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The CA has come to its end.
    #[error(
        "{} expired at {at}; remove it and its key to make new ones, which clients must then \
         trust anew", ca.display()
    )]
    Expired {
        /// The CA's certificate.
        ca: PathBuf,
        /// When it ended.
        at: Timestamp,
    },
    /// Where replicas share their keys there is another CA.
    #[error(
        "{} is another CA than the one that the replicas share; remove it and its key to use the \
         shared one", ca.display()
    )]
    OtherCa {
        /// The CA's certificate in this replica's directory.
        ca: PathBuf,
    },
    /// The place where replicas share their keys could not be used.
    #[error(transparent)]
    Shared(#[from] SharedStateError),
    /// A name for the certificate is neither a DNS name nor an IP address, or there is none.
    #[error("{0:?} cannot stand in a certificate: give DNS names or IP addresses, at least one")]
    Name(String),
    /// A key or certificate could not be made.
    #[error("cannot make a certificate: {0}")]
    Make(#[from] rcgen::Error),
    /// The TLS library did not take the new certificate.
    #[error("cannot use the new certificate: {0}")]
    Use(#[from] rustls::Error),
}

impl WebAuthority {
    /// Opens the CA in `dir` (`ca.pem`, `ca.key`), or makes it, and signs a server certificate
    /// for these DNS names and IP addresses.
    pub fn open(dir: &Path, names: &[String], now: Timestamp) -> Result<Self, WebAuthorityError> {
        let names = names
            .iter()
            .map(|name| san(name))
            .collect::<Result<Vec<_>, _>>()?;
        if names.is_empty() {
            return Err(WebAuthorityError::Name(String::new()));
        }
        files::make_private_dir(dir)?;
        let _lock: File = files::lock(&dir.join("ca.lock"))?;
        let ca_path = dir.join("ca.pem");
        let ca = open_ca(&ca_path, &dir.join("ca.key"), now)?;
        let current = Mutex::new(Current::make(&ca, &names, now)?);
        Ok(Self {
            resolver: Arc::new(SelfRenewing { ca, names, current }),
            ca_path,
        })
    }

    /// [`open`](Self::open) with the CA that all replicas have: whichever of them is first brings
    /// its own, or makes it. The directory keeps a copy.
    pub fn open_shared(
        dir: &Path,
        state: &dyn SharedState,
        names: &[String],
        now: Timestamp,
    ) -> Result<Self, WebAuthorityError> {
        files::make_private_dir(dir)?;
        {
            let _lock: File = files::lock(&dir.join("ca.lock"))?;
            share_ca(&dir.join("ca.pem"), &dir.join("ca.key"), state, now)?;
        }
        Self::open(dir, names, now)
    }

    /// The CA's certificate in PEM: what clients trust.
    #[must_use]
    pub fn ca_pem(&self) -> &str {
        self.resolver.ca.root().pem()
    }

    /// Where the CA's certificate lies.
    #[must_use]
    pub fn ca_path(&self) -> &Path {
        &self.ca_path
    }

    /// The CA's certificate in DER, for clients that pin its key instead of keeping a file.
    #[must_use]
    pub fn ca_der(&self) -> &CertificateDer<'static> {
        self.resolver.ca.root().der()
    }

    /// One-way TLS 1.3 with the server certificate, offering these protocols in this order
    /// (`h2`, `http/1.1`). It renews itself; no replacement is needed.
    #[must_use]
    pub fn server_config(&self, alpn: &[&[u8]]) -> ServerConfig {
        let mut config = ServerConfig::builder_with_provider(crypto_provider())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .expect("the provider has the suites of TLS 1.3")
            .with_no_client_auth()
            .with_cert_resolver(Arc::clone(&self.resolver) as Arc<dyn ResolvesServerCert>);
        config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
        config
    }
}

/// Loads the CA, or makes it. The key is written before the certificate: a certificate without
/// its key can only be a loss, a key without its certificate only a first start that was cut off,
/// when nobody can have trusted anything yet.
fn open_ca(ca_path: &Path, key_path: &Path, now: Timestamp) -> Result<Signer, WebAuthorityError> {
    let damaged = |reason: String| WebAuthorityError::Damaged {
        ca: ca_path.to_owned(),
        reason,
    };
    match (files::read(ca_path)?, files::read_private(key_path)?) {
        (Some(ca), Some(key)) => {
            let text = |bytes| String::from_utf8(bytes).map_err(|error| damaged(error.to_string()));
            let (ca, key) = (text(ca)?, SecretString::from(text(key)?));
            let ca = Signer::load(&ca, &key).map_err(|error| damaged(error.to_string()))?;
            let at = ca.root().not_after();
            if at <= now {
                return Err(WebAuthorityError::Expired {
                    ca: ca_path.to_owned(),
                    at,
                });
            }
            Ok(ca)
        }
        (Some(_), None) => Err(WebAuthorityError::KeyMissing {
            ca: ca_path.to_owned(),
            key: key_path.to_owned(),
        }),
        (None, _) => {
            let ca = Signer::web(now - BACKDATE, ROOT_LIFE)?;
            files::replace(key_path, ca.key_pem().expose_secret().as_bytes(), 0o600)?;
            files::replace(ca_path, ca.root().pem().as_bytes(), 0o644)?;
            info!(path = %ca_path.display(), "new private CA for the people's door");
            Ok(ca)
        }
    }
}

/// The name of the CA in a shared place.
const SHARED_NAME: &str = "people-ca";

/// Both files of the CA, as replicas share them.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SharedCa {
    /// PEM.
    certificate: String,
    /// PEM, PKCS#8.
    key: String,
}

/// Makes the CA in the directory and the one that replicas share the same.
fn share_ca(
    ca_path: &Path,
    key_path: &Path,
    state: &dyn SharedState,
    now: Timestamp,
) -> Result<(), WebAuthorityError> {
    let own = files::read(ca_path)?;
    let shared = match state.load(SHARED_NAME)? {
        Some(shared) => shared.text,
        None => {
            let ca = match &own {
                Some(_) => open_ca(ca_path, key_path, now)?,
                None => Signer::web(now - BACKDATE, ROOT_LIFE)?,
            };
            let shared = SharedCa {
                certificate: ca.root().pem().to_owned(),
                key: ca.key_pem().expose_secret().to_owned(),
            };
            let text = serde_json::to_string(&shared).expect("strings serialize");
            let text = SecretString::from(text);
            match state.replace(SHARED_NAME, 0, &text)? {
                true => text,
                // Another replica was faster; then it is there.
                false => match state.load(SHARED_NAME)? {
                    Some(shared) => shared.text,
                    None => {
                        let reason = "the people's CA was removed while it was being shared";
                        return Err(SharedStateError(reason.into()).into());
                    }
                },
            }
        }
    };
    let shared: SharedCa = serde_json::from_str(shared.expose_secret()).map_err(|error| {
        WebAuthorityError::Damaged {
            ca: "the people's CA in the database".into(),
            reason: error.to_string(),
        }
    })?;
    match own {
        Some(own) if own != shared.certificate.as_bytes() => Err(WebAuthorityError::OtherCa {
            ca: ca_path.to_owned(),
        }),
        Some(_) => Ok(()),
        None => {
            files::replace(key_path, shared.key.as_bytes(), 0o600)?;
            files::replace(ca_path, shared.certificate.as_bytes(), 0o644)?;
            Ok(())
        }
    }
}

fn san(name: &str) -> Result<SanType, WebAuthorityError> {
    if let Ok(address) = name.parse::<IpAddr>() {
        return Ok(SanType::IpAddress(address));
    }
    // Validated as a DNS name, because an IA5 string may hold anything in ASCII.
    match rustls_pki_types::DnsName::try_from(name) {
        Ok(_) => Ok(SanType::DnsName(name.try_into()?)),
        Err(_) => Err(WebAuthorityError::Name(name.to_owned())),
    }
}

/// The certificate in use.
#[derive(Debug)]
struct Current {
    certified: Arc<CertifiedKey>,
    renew_at: Timestamp,
    not_after: Timestamp,
}

impl Current {
    fn make(ca: &Signer, names: &[SanType], now: Timestamp) -> Result<Self, WebAuthorityError> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let not_after = (now + LEAF_LIFE).min(ca.root().not_after());
        let leaf = Leaf {
            names: names.to_vec(),
            // Whoever probes the port reads it, so it does not say what answers there.
            common_name: "Web server".to_owned(),
            usages: vec![ExtendedKeyUsagePurpose::ServerAuth],
            not_before: now - BACKDATE,
            not_after,
        };
        let (certificate, _) = ca.sign(leaf, &key)?;
        // With its issuer, so that a client that pins the CA sees what it pinned.
        let chain = vec![certificate.into(), ca.root().der().clone()];
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let certified = CertifiedKey::from_der(chain, key, &crypto_provider())?;
        let renew_at = now + not_after.duration_since(now) / 3 * 2;
        Ok(Self {
            certified: Arc::new(certified),
            renew_at,
            not_after,
        })
    }
}

/// Answers each handshake with a certificate that has at least a third of its life left.
#[derive(Debug)]
struct SelfRenewing {
    ca: Signer,
    names: Vec<SanType>,
    current: Mutex<Current>,
}

impl SelfRenewing {
    fn certificate(&self, now: Timestamp) -> Option<Arc<CertifiedKey>> {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if now >= current.renew_at {
            match Current::make(&self.ca, &self.names, now) {
                Ok(fresh) => *current = fresh,
                Err(error) => warn!(%error, "cannot renew the people's door's certificate"),
            }
        }
        (now < current.not_after).then(|| Arc::clone(&current.certified))
    }
}

impl ResolvesServerCert for SelfRenewing {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.certificate(Timestamp::now())
    }
}
