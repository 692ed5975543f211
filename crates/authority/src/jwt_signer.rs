//! One key that signs JWT-SVIDs, and its public half.

use std::sync::Arc;

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hostler_identity::JwtKey;
use jiff::{SignedDuration, Timestamp};
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256, PublicKeyData};
use rustls_pki_types::SubjectPublicKeyInfoDer;
use rustls_pki_types::pem::PemObject;
use secrecy::{ExposeSecret, SecretString};
use serde::Serialize;

use crate::signer::LoadError;
use crate::succession::{Dated, Root};

/// A key pair for ES256. Cheap to clone.
#[derive(Clone)]
pub(crate) struct JwtSigner(Arc<Inner>);

struct Inner {
    public: JwtPublic,
    key: KeyPair,
    /// The same key once more, because `KeyPair` signs in DER and JWS wants r and s side by side
    /// (RFC 7518 §3.4).
    signing: EcdsaKeyPair,
}

/// The public half: what others need to recognise what the key signed.
#[derive(Debug, Clone)]
pub(crate) struct JwtPublic {
    pub(crate) kid: String,
    pub(crate) key: JwtKey,
    pub(crate) pem: String,
    pub(crate) not_before: Timestamp,
    pub(crate) not_after: Timestamp,
}

#[derive(Serialize)]
struct Header<'a> {
    alg: &'static str,
    kid: &'a str,
    typ: &'static str,
}

impl JwtSigner {
    pub(crate) fn generate(
        not_before: Timestamp,
        life: SignedDuration,
    ) -> Result<Self, rcgen::Error> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        // A library that cannot read the key that it has just made cannot make keys.
        Self::new(key, not_before, not_before + life)
            .map_err(|_| rcgen::Error::KeyGenerationUnavailable)
    }

    pub(crate) fn load(
        key_pem: &SecretString,
        not_before: Timestamp,
        not_after: Timestamp,
    ) -> Result<Self, LoadError> {
        let key = KeyPair::from_pem(key_pem.expose_secret()).map_err(|_| LoadError::Key)?;
        Self::new(key, not_before, not_after)
    }

    fn new(key: KeyPair, not_before: Timestamp, not_after: Timestamp) -> Result<Self, LoadError> {
        let signing =
            EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, key.serialized_der())
                .map_err(|_| LoadError::Key)?;
        let public = JwtPublic::new(
            &key.subject_public_key_info(),
            key.public_key_pem(),
            not_before,
            not_after,
        )?;
        Ok(Self(Arc::new(Inner {
            public,
            key,
            signing,
        })))
    }

    pub(crate) fn public(&self) -> &JwtPublic {
        &self.0.public
    }

    pub(crate) fn key_pem(&self) -> SecretString {
        self.0.key.serialize_pem().into()
    }

    /// Signs these claims (JWS compact serialization, RFC 7515 §7.1).
    pub(crate) fn sign(&self, claims: &impl Serialize) -> Result<SecretString, rcgen::Error> {
        let header = Header {
            alg: "ES256",
            kid: &self.0.public.kid,
            typ: "JWT",
        };
        let signed = format!("{}.{}", part(&header), part(claims));
        let signature = self
            .0
            .signing
            .sign(&SystemRandom::new(), signed.as_bytes())
            .map_err(|_| rcgen::Error::RemoteKeyError)?;
        let signature = URL_SAFE_NO_PAD.encode(signature);
        Ok(format!("{signed}.{signature}").into())
    }
}

fn part(json: &impl Serialize) -> String {
    URL_SAFE_NO_PAD.encode(serde_json::to_vec(json).expect("strings and numbers serialize"))
}

impl JwtPublic {
    pub(crate) fn load(
        pem: &str,
        not_before: Timestamp,
        not_after: Timestamp,
    ) -> Result<Self, LoadError> {
        let spki = SubjectPublicKeyInfoDer::from_pem_slice(pem.as_bytes())
            .map_err(|_| LoadError::Certificate)?;
        Self::new(&spki, pem.to_owned(), not_before, not_after)
    }

    fn new(
        spki: &[u8],
        pem: String,
        not_before: Timestamp,
        not_after: Timestamp,
    ) -> Result<Self, LoadError> {
        Ok(Self {
            // Half of the key's digest: unique, and the same whoever computes it.
            kid: hex::encode(&digest(&SHA256, spki).as_ref()[..16]),
            key: JwtKey::from_spki_der(spki).map_err(|_| LoadError::Key)?,
            pem,
            not_before,
            not_after,
        })
    }
}

impl Root for JwtSigner {
    type Certificate = JwtPublic;

    fn certificate(&self) -> &JwtPublic {
        self.public()
    }
}

impl Dated for JwtPublic {
    fn not_before(&self) -> Timestamp {
        self.not_before
    }

    fn not_after(&self) -> Timestamp {
        self.not_after
    }
}

impl std::fmt::Debug for JwtSigner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("JwtSigner")
            .field("kid", &self.0.public.kid)
            .finish_non_exhaustive()
    }
}
