//! The bundle document: a trust domain's keys for X.509 and for JWT as one JWK set
//! ([SPIFFE Trust Domain and Bundle](https://github.com/spiffe/spiffe/blob/main/standards/SPIFFE_Trust_Domain_and_Bundle.md) §4),
//! which is how one trust domain learns of another.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rustls_pki_types::CertificateDer;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::jwt::{Jwk, JwtBundle, JwtKey, JwtKeyError};
use crate::rules::{self, SvidRule};

const X509: &str = "x509-svid";
const JWT: &str = "jwt-svid";

/// What one trust domain publishes about itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BundleDocument {
    /// The roots of its X.509-SVIDs; none means that no X.509-SVID is trusted.
    pub roots: Vec<CertificateDer<'static>>,
    /// The keys of its JWT-SVIDs; none means that no JWT-SVID is trusted.
    pub jwt: JwtBundle,
    /// Grows with every change (`spiffe_sequence`).
    pub sequence: Option<u64>,
    /// After how long to ask again (`spiffe_refresh_hint`, whole seconds).
    pub refresh_hint: Option<Duration>,
}

/// Why a bundle document was not taken. An entry that cannot be read refuses the whole document:
/// leaving it out would quietly stop trusting those whom it vouches for.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BundleDocumentError {
    /// It is not a JSON object with `keys`, or a member has another type than it should.
    #[error("it is not a SPIFFE bundle (a JSON object with an array of keys): {0}")]
    Malformed(#[source] serde_json::Error),
    /// An `x509-svid` entry does not hold exactly one certificate (X.509-SVID §6.2).
    #[error("key {position} does not hold exactly one certificate in base64 (x5c)")]
    Certificate {
        /// Position in `keys`, from 0.
        position: usize,
    },
    /// The certificate of an `x509-svid` entry cannot be a root.
    #[error("the certificate of key {position} cannot be a root: {rule}")]
    Root {
        /// Position in `keys`, from 0.
        position: usize,
        /// The rule that it breaks.
        rule: SvidRule,
    },
    /// A `jwt-svid` entry has no key ID (JWT-SVID §6.1).
    #[error("key {position} is for JWT-SVIDs and has no key ID (kid)")]
    NoKeyId {
        /// Position in `keys`, from 0.
        position: usize,
    },
    /// Two `jwt-svid` entries have the same key ID.
    #[error("there are two keys with the ID {kid:?}")]
    SameKeyId {
        /// The ID.
        kid: String,
    },
    /// The public key of an entry cannot be used.
    #[error("key {position} cannot be used: {source}")]
    Key {
        /// Position in `keys`, from 0.
        position: usize,
        /// What is wrong with it.
        source: JwtKeyError,
    },
}

#[derive(Serialize, Deserialize)]
struct Wire<Key> {
    keys: Vec<Key>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    spiffe_sequence: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    spiffe_refresh_hint: Option<u64>,
}

impl BundleDocument {
    /// Reads a document. Entries of a use or kind that is not known here are passed over
    /// (§4.2.1 and §4.2.2), and so are members that the standard does not describe.
    pub fn parse(json: &[u8]) -> Result<Self, BundleDocumentError> {
        let wire: Wire<Value> =
            serde_json::from_slice(json).map_err(BundleDocumentError::Malformed)?;
        let mut document = Self {
            sequence: wire.spiffe_sequence,
            refresh_hint: wire.spiffe_refresh_hint.map(Duration::from_secs),
            ..Self::default()
        };
        for (position, key) in wire.keys.into_iter().enumerate() {
            // Before their other members are read, which may be of any type in a foreign kind.
            let named = |member: &str| key.get(member).and_then(Value::as_str);
            let purpose = named("use").filter(|_| matches!(named("kty"), Some("EC" | "RSA")));
            match purpose.map(str::to_owned).as_deref() {
                Some(X509) => document.take_root(position, entry(key)?)?,
                Some(JWT) => document.take_jwt_key(position, entry(key)?)?,
                _ => {}
            }
        }
        Ok(document)
    }

    fn take_root(&mut self, position: usize, jwk: Jwk) -> Result<(), BundleDocumentError> {
        let certificate = match jwk.x5c.as_deref() {
            Some([certificate]) => STANDARD.decode(certificate).ok(),
            _ => None,
        };
        let certificate = certificate.ok_or(BundleDocumentError::Certificate { position })?;
        rules::root(&certificate).map_err(|rule| BundleDocumentError::Root { position, rule })?;
        self.roots.push(certificate.into());
        Ok(())
    }

    fn take_jwt_key(&mut self, position: usize, jwk: Jwk) -> Result<(), BundleDocumentError> {
        let kid = jwk.kid.as_deref().filter(|kid| !kid.is_empty());
        let kid = kid.ok_or(BundleDocumentError::NoKeyId { position })?;
        let key = match JwtKey::from_jwk(&jwk) {
            Ok(key) => key,
            // A curve that is not known here is a kind that is not known here.
            Err(JwtKeyError::Kind) => return Ok(()),
            Err(source) => return Err(BundleDocumentError::Key { position, source }),
        };
        match self.jwt.insert(kid, key) {
            None => Ok(()),
            Some(_) => Err(BundleDocumentError::SameKeyId {
                kid: kid.to_owned(),
            }),
        }
    }

    /// Writes the document. A root whose key is neither EC nor RSA has no form here and is an
    /// error.
    pub fn to_json(&self) -> Result<String, BundleDocumentError> {
        let mut keys = Vec::new();
        for (position, root) in self.roots.iter().enumerate() {
            keys.push(root_entry(position, root)?);
        }
        keys.extend(self.jwt.to_jwk());
        let wire = Wire {
            keys,
            spiffe_sequence: self.sequence,
            spiffe_refresh_hint: self.refresh_hint.map(|hint| hint.as_secs()),
        };
        serde_json::to_string(&wire).map_err(BundleDocumentError::Malformed)
    }
}

fn entry(key: Value) -> Result<Jwk, BundleDocumentError> {
    serde_json::from_value(key).map_err(BundleDocumentError::Malformed)
}

fn root_entry(position: usize, root: &CertificateDer<'static>) -> Result<Jwk, BundleDocumentError> {
    let (_, x509) = X509Certificate::from_der(root).map_err(|_| BundleDocumentError::Root {
        position,
        rule: SvidRule::Malformed,
    })?;
    let key = JwtKey::from_spki_der(x509.public_key().raw)
        .map_err(|source| BundleDocumentError::Key { position, source })?;
    let mut jwk = key.to_jwk(X509);
    jwk.x5c = Some(vec![STANDARD.encode(root)]);
    Ok(jwk)
}
