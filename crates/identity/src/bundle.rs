//! Trust bundles: whom a trust domain's certificates must come from.
//!
//! Roots are kept by trust domain and never pooled: a certificate of `a.example` is checked
//! against the roots of `a.example` alone, so no other domain's authority can vouch for it.

use std::collections::BTreeMap;

use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use spiffe::TrustDomain;

use crate::rules::{self, SvidRule};

/// Root certificates (DER), by the trust domain that they speak for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TrustBundles(BTreeMap<TrustDomain, Vec<CertificateDer<'static>>>);

/// Why a bundle was not taken.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BundleError {
    /// The text holds something else than readable PEM certificates.
    #[error("cannot read the bundle of {trust_domain} as PEM: {reason}")]
    Pem {
        /// Whose bundle it is.
        trust_domain: TrustDomain,
        /// What the PEM reader said.
        reason: String,
    },
    /// A certificate in the bundle cannot be a root.
    #[error("certificate {position} in the bundle of {trust_domain} cannot be a root: {rule}")]
    Root {
        /// Whose bundle it is.
        trust_domain: TrustDomain,
        /// Position in the bundle, from 0.
        position: usize,
        /// The rule that it breaks.
        rule: SvidRule,
    },
}

impl TrustBundles {
    /// No bundles: trusts nobody.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The bundle of one trust domain from PEM `CERTIFICATE` blocks.
    pub fn from_pem(trust_domain: TrustDomain, pem: &str) -> Result<Self, BundleError> {
        let roots = CertificateDer::pem_slice_iter(pem.as_bytes())
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| BundleError::Pem {
                trust_domain: trust_domain.clone(),
                reason: error.to_string(),
            })?;
        let mut bundles = Self::new();
        bundles.insert(trust_domain, roots)?;
        Ok(bundles)
    }

    /// Sets the roots of a trust domain, replacing those it had. An empty list is a bundle too:
    /// it trusts nobody.
    pub fn insert(
        &mut self,
        trust_domain: TrustDomain,
        roots: Vec<CertificateDer<'static>>,
    ) -> Result<(), BundleError> {
        for (position, root) in roots.iter().enumerate() {
            rules::root(root).map_err(|rule| BundleError::Root {
                trust_domain: trust_domain.clone(),
                position,
                rule,
            })?;
        }
        self.0.insert(trust_domain, roots);
        Ok(())
    }

    /// The roots of a trust domain; `None` when there is no bundle for it.
    #[must_use]
    pub fn get(&self, trust_domain: &TrustDomain) -> Option<&[CertificateDer<'static>]> {
        self.0.get(trust_domain).map(Vec::as_slice)
    }

    /// Every trust domain with its roots, in the order of their names.
    pub fn iter(&self) -> impl Iterator<Item = (&TrustDomain, &[CertificateDer<'static>])> {
        self.0
            .iter()
            .map(|(trust_domain, roots)| (trust_domain, roots.as_slice()))
    }
}
