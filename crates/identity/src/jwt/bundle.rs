//! JWT bundles: by which keys a trust domain's JWT-SVIDs are recognised.

use std::collections::BTreeMap;

use serde::Serialize;
use spiffe::TrustDomain;

use super::key::{Jwk, JwtKey};

/// The keys that sign one trust domain's JWT-SVIDs, by key ID.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct JwtBundle(BTreeMap<String, JwtKey>);

/// JWT bundles by trust domain; never pooled.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct JwtBundles(BTreeMap<TrustDomain, JwtBundle>);

impl JwtBundle {
    /// No keys: recognises nobody.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a key, replacing one of the same ID, which is answered.
    pub fn insert(&mut self, kid: impl Into<String>, key: JwtKey) -> Option<JwtKey> {
        self.0.insert(kid.into(), key)
    }

    /// The key of this ID.
    #[must_use]
    pub fn get(&self, kid: &str) -> Option<&JwtKey> {
        self.0.get(kid)
    }

    /// Every key with its ID, in the order of the IDs.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &JwtKey)> {
        self.0.iter().map(|(kid, key)| (kid.as_str(), key))
    }

    /// The bundle as a JWK set, as the Workload API hands it out.
    #[must_use]
    pub fn to_jwks(&self) -> String {
        #[derive(Serialize)]
        struct Jwks {
            keys: Vec<Jwk>,
        }
        let keys = self.to_jwk().collect();
        serde_json::to_string(&Jwks { keys }).expect("strings serialize")
    }

    /// The entries of a JWK set (JWT-SVID §6.1: `use` and `kid` are set).
    pub(crate) fn to_jwk(&self) -> impl Iterator<Item = Jwk> {
        self.iter().map(|(kid, key)| {
            let mut jwk = key.to_jwk("jwt-svid");
            jwk.kid = Some(kid.to_owned());
            jwk
        })
    }
}

impl JwtBundles {
    /// No bundles: recognises nobody.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the bundle of a trust domain, replacing the one it had.
    pub fn insert(&mut self, trust_domain: TrustDomain, bundle: JwtBundle) {
        self.0.insert(trust_domain, bundle);
    }

    /// The bundle of a trust domain.
    #[must_use]
    pub fn get(&self, trust_domain: &TrustDomain) -> Option<&JwtBundle> {
        self.0.get(trust_domain)
    }

    /// Every trust domain with its bundle, in the order of their names.
    pub fn iter(&self) -> impl Iterator<Item = (&TrustDomain, &JwtBundle)> {
        self.0.iter()
    }
}
